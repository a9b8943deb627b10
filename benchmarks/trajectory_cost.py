"""Time and memory of a guided score against the number of states of a trajectory.

python -m benchmarks.trajectory_cost --weights pretrained/kolmogorov

One evaluation, for one sample, of the score given means over 8x8 pixels of every fourth state, with
`eval.windows_at_once` windows in one call of the network. Each number of states has a process of
its own; the memory is the largest that it held, without what it held before the first evaluation.
"""

import argparse
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.assimilation import get_problem
from benchmarks.common import compile_with_time, peak_memory_gib, time_in_rounds
from scorax import loading
from scorax.conditioning.trajectories import compose
from scorax.configs.parts import VARIANTS


def measure(weights: str, states: int, windows: int) -> str:
    """A line of the table."""
    model = loading.load(weights)
    keys = {"eval.states": states, "eval.windows_at_once": windows}
    problem = get_problem(model, VARIANTS["fields"]["coarse"] | keys)
    x = jax.random.normal(jax.random.key(0), (1, *problem.shape))
    y, t = problem.operator(x), jnp.full(1, 0.5)

    def guided(variables: tuple, x: jax.Array) -> jax.Array:
        windows_fn = model.experiment.score_fn(*variables)
        score_fn = compose(windows_fn, model.config.data.length // 2, windows)
        return problem.condition(y, score_fn)(x, t)

    before = peak_memory_gib()
    compiled, _ = compile_with_time(guided, model.variables, x)
    calls = {"guided": lambda: compiled(model.variables, x)}
    seconds = np.median(time_in_rounds(calls, 3)["guided"])
    number = states - model.config.data.length + 1
    return (
        f"| {states} | {number} | {seconds:.2f} | {1000 * seconds / number:.0f} | "
        f"{peak_memory_gib() - before:.2f} |"
    )


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="pretrained/kolmogorov")
    parser.add_argument("--states", type=int, nargs="*", default=[8, 16, 32, 64, 127])
    parser.add_argument("--windows", type=int, default=8, help="eval.windows_at_once")
    args = parser.parse_args()
    if len(args.states) == 1:
        print(measure(args.weights, args.states[0], args.windows))
        return
    print("| states | windows | s | ms a window | GiB |")
    print("|---|---|---|---|---|")
    for states in args.states:
        options = ["--weights", args.weights, "--windows", str(args.windows)]
        command = [sys.executable, "-m", "benchmarks.trajectory_cost", "--states", str(states)]
        print(subprocess.check_output([*command, *options], text=True).strip(), flush=True)


if __name__ == "__main__":
    main()
