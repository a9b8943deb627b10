"""Speed of the network's forward pass and of the train step, for each config given.

python -m benchmarks.train_step configs/ve/cifar10_ncsnpp_continuous.py --batch 4
"""

import argparse

import jax
import numpy as np

from benchmarks import common
from scorax import losses, run_lib
from scorax.utils.shapes import image_shape


def measure(path: str, batch_size: int, rounds: int) -> None:
    """Prints the table of one config."""
    config = common.load_config(path)
    config.training.batch_size = batch_size
    experiment = run_lib.build(config)
    data, model = config.data, config.model
    shape = (batch_size, *image_shape(data))
    x = np.random.default_rng(0).random(shape, np.float32)
    t = np.full(shape[:1], 0.5, np.float32)
    batch = {"image": x, "index": np.arange(batch_size, dtype=np.uint32)}
    state = experiment.init_state()
    n_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def forward(params, x, t):
        return experiment.score_fn(params, {})(x, t)

    step = losses.get_step_fn(
        experiment.loss_fn(train=True), experiment.optimizer, 0, model.ema_rate, model.ema_warmup
    )
    forward_c, forward_s = common.compile_with_time(forward, state.params, x, t)
    step_flops = common.flops(step, state, batch)  # before the state is donated
    step_c, step_s = common.compile_with_time(step, state, batch, donate_argnums=0)

    def train():
        nonlocal state
        state, metrics = step_c(state, batch)
        return metrics

    product, product_flops = common.matmul_call()
    seconds = common.time_in_rounds(
        {
            "matrix product": product,
            "forward": lambda: forward_c(state.params, x, t),
            "train step": train,
        },
        rounds,
    )
    rows = {
        "matrix product": common.Row(product_flops),
        "forward": common.Row(common.flops(forward, state.params, x, t), batch_size, forward_s),
        "train step": common.Row(step_flops, batch_size, step_s),
    }
    common.print_table(f"{path}, batch {batch_size}, {n_params:,} parameters", rows, seconds)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("configs", nargs="+", help="FILE or FILE:variant")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    for path in args.configs:
        measure(path, args.batch, args.rounds)


if __name__ == "__main__":
    main()
