"""How fast the network runs forward and the train step runs, for named configs.

    python -m benchmarks.train_step configs/ve/cifar10_ncsnpp_continuous.py --batch 4

Rates are XLA's operation counts over the median time; the share is that rate over the rate of a
large float32 matrix product measured in the same rounds.
"""

import argparse

import jax
import numpy as np
from ml_collections import config_flags

import losses
import run_lib
from benchmarks import common
from benchmarks.common import matmul_call


def load_config(path: str):
    """The config of `FILE` or `FILE:variant`."""
    file, _, variant = path.partition(":")
    return config_flags.config_flags._LoadConfigModule("config", file).get_config(variant)


def measure(path: str, batch_size: int, rounds: int) -> None:
    """Prints the table of one config."""
    config = load_config(path)
    config.training.batch_size = batch_size
    experiment = run_lib.build(config)
    data = config.data
    shape = (batch_size, data.image_size, data.image_size, data.num_channels)
    rng = np.random.default_rng(0)
    batch = {"image": rng.random(shape, np.float32), "index": np.arange(batch_size, dtype=np.uint32)}
    state = experiment.init_state()
    t = np.full((batch_size,), 0.5, np.float32)

    def forward(params, x, t):
        return experiment.score_fn(params, state.model_state)(x, t)

    model = config.model
    step = losses.get_step_fn(
        experiment.loss_fn(train=True), experiment.optimizer, 0, model.ema_rate, model.ema_warmup)
    forward_c, forward_s = common.compile_with_time(forward, state.params, batch["image"], t)
    step_c, step_s = common.compile_with_time(step, state, batch, donate_argnums=0)

    def train_call():
        nonlocal state
        state, metrics = step_c(state, batch)
        return metrics

    product, product_flops = matmul_call()
    calls = {
        "matrix product": product,
        "forward": lambda: forward_c(state.params, batch["image"], t),
        "train step": train_call,
    }
    seconds = common.time_in_rounds(calls, rounds)
    count = {"matrix product": product_flops, "forward": common.flops(forward_c),
             "train step": common.flops(step_c)}
    compile_s = {"forward": forward_s, "train step": step_s}
    n_params = sum(x.size for x in jax.tree.leaves(state.params))
    print(f"\n{path}, batch {batch_size}, {n_params:,} parameters; {common.machine()}")
    print(f"{'':16}{'ms':>10}{'images/s':>10}{'GFLOP':>9}{'GFLOP/s':>9}{'share':>8}{'compile s':>11}")
    for name, s in seconds.items():
        rate = count[name] / s
        share = np.median(rate / (product_flops / seconds["matrix product"]))
        images = "" if name == "matrix product" else f"{batch_size / np.median(s):.1f}"
        compiling = f"{compile_s[name]:.1f}" if name in compile_s else ""
        print(f"{name:16}{1e3 * np.median(s):10.1f}{images:>10}{count[name] / 1e9:9.1f}"
              f"{np.median(rate) / 1e9:9.0f}{share:8.0%}{compiling:>11}")
    print(f"peak memory {common.peak_memory_gib():.2f} GiB")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("configs", nargs="+", help="FILE or FILE:variant")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    for path in args.configs:
        measure(path, args.batch, args.rounds)


if __name__ == "__main__":
    main()
