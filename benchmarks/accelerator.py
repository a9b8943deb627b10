"""What there is to know about training and sampling on an accelerator, in one run.

    python -m benchmarks.accelerator
    python -m benchmarks.accelerator --smoke

Trains and samples CIFAR-10 NCSN++ and AFHQ-512 in float32, TF32 and bfloat16 with batches that
double until memory or the time is used up (--minutes, 25 by default), and prints rows for
RESULTS.md: time to the first step (build, initialisation and compiling included), images/s,
utilisation of the chip's bfloat16 peak, and the most memory in use. Rows of one network and
precision come from one process, so that its memory is its own. The last table compares
convolutions with channels last and first. --smoke runs everything tiny, on any machine.
"""

import argparse
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from benchmarks import common
from scorax import planning
from scorax.evaluators.batch_sampler import BatchSampler
from scorax.steps import Steps
from scorax.utils import parallel
from scorax.utils.hardware import get_chip
from scorax.utils.logging import versions
from scorax.utils.shapes import model_shape

CONFIGS = {
    "configs/ve/cifar10_ncsnpp_continuous.py": (32, 64, 128, 256, 512, 1024),
    "configs/ve/afhq_512.py": (1, 2, 4, 8, 16, 32),
}
# name -> precision of float32 products, type of activations
PRECISIONS = {
    "float32": ("highest", "float32"),
    "tf32": ("tensorfloat32", "float32"),
    "bfloat16": ("default", "bfloat16"),
}
HEADER = "| network, precision, batch | first step, s | ms | images/s | of peak | GiB |"


def measure_training(
    config: ml_collections.ConfigDict, size: int, steps: int
) -> tuple[float, float, float]:
    """Seconds to the first step and of a step, and the share of the chip's peak (0: unknown)."""
    begin = time.monotonic()
    experiment = planning.vary(config, training__batch_size=size, training__n_jitted_steps=1)
    images = np.random.default_rng(0).random((size, *model_shape(config)), np.float32)
    batch = {"image": images, "index": np.arange(size, dtype=np.uint32)}
    trainer = Steps(experiment, jax.device_get(experiment.init_state()))
    jax.block_until_ready(trainer.train(batch))
    first, begin = time.monotonic() - begin, time.monotonic()
    for _ in range(steps):
        metrics = trainer.train(batch)
    jax.block_until_ready(metrics)
    seconds = (time.monotonic() - begin) / steps
    chip = get_chip(parallel.device_kind())
    return first, seconds, trainer.flops / seconds / chip.peak if chip else 0.0


def measure_sampling(
    config: ml_collections.ConfigDict, size: int, nfe_steps: int
) -> tuple[float, float]:
    """Seconds to compile, and of one evaluation of the score for a batch."""
    experiment = planning.vary(config, eval__batch_size=size, sampling__steps=nfe_steps)
    sampler = BatchSampler(experiment, observed=False)
    state = experiment.init_state()
    sampler(jax.random.key(0), state)
    compiling = sampler.compile_seconds
    sampler(jax.random.key(1), state)
    return compiling, sampler.seconds / sampler.nfe


def measure(path: str, precision: str, args: argparse.Namespace) -> None:
    """Prints the rows of one network and precision."""
    products, activations = PRECISIONS[precision]
    jax.config.update("jax_default_matmul_precision", products)
    config = common.load_config(f"{path}:smoke" if args.smoke else path)
    config.model.dtype = activations
    name = path.split("/")[-1].removesuffix(".py")
    end, best = time.monotonic() + args.seconds, 0
    for size in (8,) if args.smoke else CONFIGS[path]:
        size *= parallel.device_count()
        label = f"{name}, {precision}, {size}"
        if time.monotonic() > end:
            print(f"| {label} | out of time | | | | |", flush=True)
            break
        try:
            first, seconds, share = measure_training(config, size, 2 if args.smoke else 20)
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            print(f"| {label} | out of memory | | | | |", flush=True)
            break
        best = size
        _print_row(f"train {label}", first, seconds, size, share)
    if best and time.monotonic() < end:
        compiling, seconds = measure_sampling(config, best, 2 if args.smoke else 10)
        _print_row(f"one evaluation {name}, {precision}, {best}", compiling, seconds, best, 0.0)


def _print_row(label: str, first: float, seconds: float, size: int, share: float) -> None:
    used = f"{share:.0%}" if share else ""
    memory = f"{parallel.peak_memory() / 2**30:.2f}" if parallel.peak_memory() else ""
    print(
        f"| {label} | {first:.1f} | {1e3 * seconds:.1f} | {size / seconds:.1f} | {used} | "
        f"{memory} |",
        flush=True,
    )


def measure_layouts(smoke: bool) -> None:
    """Prints times of a chain of 3x3 convolutions with channels last and first."""
    size, side, channels, length = (2, 8, 8, 2) if smoke else (64, 64, 256, 10)
    print("\n| convolutions, forward and gradient | ms |\n|---|---|")
    calls = {}
    for layout in ("NHWC", "NCHW"):
        last = layout == "NHWC"
        shape = (size, side, side, channels) if last else (size, channels, side, side)
        for dtype in (jnp.float32, jnp.bfloat16):
            x, w = jnp.ones(shape, dtype), jnp.ones((3, 3, channels, channels), dtype) / channels

            def chain(w: jax.Array, x: jax.Array, layout: str = layout) -> jax.Array:
                for _ in range(length):
                    axes = (layout, "HWIO", layout)
                    x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=axes)
                return jnp.sum(x.astype(jnp.float32))

            grad = jax.jit(jax.grad(chain, argnums=(0, 1)))
            calls[f"{layout}, {np.dtype(dtype)}"] = lambda g=grad, w=w, x=x: g(w, x)
    for name, seconds in common.time_in_rounds(calls, 2 if smoke else 20).items():
        print(f"| {name} | {1e3 * np.median(seconds):.2f} |", flush=True)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--smoke", action="store_true", help="tiny networks, two steps")
    parser.add_argument("--only", nargs=2, metavar=("CONFIG", "PRECISION"), help="some rows")
    parser.add_argument("--seconds", type=float, default=0.0, help="for --only: no longer than")
    args = parser.parse_args()
    if args.only:
        measure(*args.only, args)
        return
    begin, pairs = time.monotonic(), [(c, p) for c in CONFIGS for p in PRECISIONS]
    v = versions()
    print(f"{v['device_count']} x {v['device_kind']}, jax {v['jax']}, commit {v['commit']}\n")
    print(f"{HEADER}\n|---|---|---|---|---|---|", flush=True)
    for k, (path, precision) in enumerate(pairs):
        left = 60 * args.minutes - (time.monotonic() - begin)
        command = [sys.executable, "-m", "benchmarks.accelerator", "--only", path, precision]
        command += ["--seconds", str(0.9 * left / (len(pairs) - k))]
        subprocess.run(command + ["--smoke"] * args.smoke, check=True)
    measure_layouts(args.smoke)


if __name__ == "__main__":
    main()
