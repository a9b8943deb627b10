"""Speed of the configured sampler, for each config given.

    python -m benchmarks.sampler configs/ve/mnist.py --batch 64 --steps 20

The network is freshly initialised, because the time does not depend on the weights.
"""

import argparse

import jax
import numpy as np

from benchmarks import common
from scorax import run_lib, sampling
from scorax.utils.shapes import image_shape


def measure(path: str, batch_size: int, steps: int, rounds: int) -> None:
    """Prints the table of one config."""
    config = common.load_config(path)
    config.sampling.steps = steps
    experiment = run_lib.build(config)
    data = config.data
    shape = (batch_size, *image_shape(data))
    state = experiment.init_state()
    sampler = sampling.get_sampling_fn(config, experiment.sde)

    def sample(rng, params):
        return sampler(rng, experiment.score_fn(params, state.model_state), shape)

    def evaluate(params, x, t):
        return experiment.score_fn(params, state.model_state)(x, t)

    x, t = np.zeros(shape, np.float32), np.full(shape[:1], 0.5, np.float32)
    rng = jax.random.key(0)
    sample_c, sample_s = common.compile_with_time(sample, rng, state.params)
    evaluate_c, evaluate_s = common.compile_with_time(evaluate, state.params, x, t)
    nfe = int(sample_c(rng, state.params)[1])
    product, product_flops = common.matmul_call()
    seconds = common.time_in_rounds(
        {
            "matrix product": product,
            "evaluation": lambda: evaluate_c(state.params, x, t),
            "sampler": lambda: sample_c(rng, state.params),
        },
        rounds,
    )
    # XLA counts the body of a loop once, so the operations of all evaluations are added up here.
    per_call = common.flops(evaluate, state.params, x, t)
    rows = {
        "matrix product": common.Row(product_flops),
        "evaluation": common.Row(per_call, batch_size, evaluate_s),
        "sampler": common.Row(per_call * nfe, batch_size, sample_s),
    }
    common.print_table(
        f"{path}, batch {batch_size}, {steps} steps, {nfe} evaluations", rows, seconds
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("configs", nargs="+", help="FILE or FILE:variant")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="time steps of the sampler")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for path in args.configs:
        measure(path, args.batch, args.steps, args.rounds)


if __name__ == "__main__":
    main()
