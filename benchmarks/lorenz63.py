"""Trajectories of Lorenz 63 inferred from sparse observations, beside a particle filter's.

python -m benchmarks.lorenz63 --weights pretrained/lorenz63 --plot lorenz63.png

The first component of 65 states is observed: every eighth with noise 0.05 ("lo"), or all with noise
0.25 ("hi"), in units of its scale of 8 (Rozet & Louppe 2023, section 4). The reference is a
bootstrap particle filter with 16,384 particles that start from states of the stationary chain.

For each method, prints the number of evaluations of the score; the earth mover's distance from its
trajectories to the filter's, divided by the distance between two runs of the filter; the mean log
density of a transition; the root mean square of y - A(x), in units of the noise; and seconds.
"""

import argparse
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot

from benchmarks.assimilation import get_problem, infer
from scorax import loading
from scorax.data_sources.dynamics import Lorenz63
from scorax.data_sources.trajectories import load_chain
from scorax.metrics.filtering import particle_filter, weak_4d_var
from scorax.utils.pictures import fan, save_picture
from scorax.utils.plots import plot

STATES, PARTICLES = 65, 16_384
OBSERVATIONS = {"lo": (8, 0.05), "hi": (1, 0.25)}  # every so many states, noise / scale
PUBLISHED = {
    "sampling.corrector_min": 0.0,
    "sampling.corrector_max": 0.0,
    "sampling.snr": 0.25,
    "sampling.steps": 256,
    "sampling.n_steps_each": 1,
    "eval.likelihood": "sda",
}
SHORT = {"sampling.steps": 16, "sampling.n_steps_each": 6}
METHODS: dict[str, dict[str, Any]] = {
    "config": {},
    "at most 64 evaluations": SHORT,
    "the same, sda": SHORT | {"eval.likelihood": "sda"},
    "stochastic DPM-Solver++": {"sampling.method": "dpmpp_2m_sde", "sampling.steps": 64},
    "sda, 256 steps": PUBLISHED | {"sampling.corrector": "none"},
    "sda, 256 steps, C = 1": PUBLISHED,
    "dps, 256 steps": PUBLISHED | {"sampling.corrector": "none", "eval.likelihood": "dps"},
}


def observing(every: int, std: float) -> dict[str, Any]:
    """The keys of an observation of the first component, in units of the data."""
    scale = Lorenz63.scale[0]
    return {
        "eval.observe_every": every,
        "eval.measurement_std": std,
        "eval.states": STATES,
        "eval.gamma": 0.03 * scale**2,
        "eval.zeta": 1 / scale,
    }


def emd(a: np.ndarray, b: np.ndarray) -> float:
    """The earth mover's distance of trajectories (N, L, D), by POT, in units of the scales."""
    a, b = ((x / np.array(Lorenz63.scale)).reshape(len(x), -1) for x in (a, b))
    return float(ot.emd2([], [], ot.dist(a, b, "euclidean")))


def main() -> None:
    """Prints a table for each kind of observation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="pretrained/lorenz63")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--observations", nargs="*", default=list(OBSERVATIONS))
    parser.add_argument("--plot", help="PNG file to write")
    args = parser.parse_args()
    model, chain = loading.load(args.weights), Lorenz63()
    stationary = load_chain("lorenz63", "train", 1).trajectories.reshape(-1, 3)
    truth = load_chain("lorenz63", "test", STATES)[0]["image"]
    rng, shown = np.random.default_rng(0), {}
    for name in args.observations:
        every, noise = OBSERVATIONS[name]
        std = noise * chain.scale[0]
        y = (truth[::every, :1] + std * rng.standard_normal((-(-STATES // every), 1))).astype("f")
        observed = np.arange(STATES) % every == 0

        def log_likelihood(x: jax.Array, y: jax.Array, std: float = std) -> jax.Array:
            return -(((x[..., :1] - y) / std) ** 2).sum(-1) / 2

        run = jax.jit(functools.partial(particle_filter, chain=chain, log_likelihood=log_likelihood,
                                        observed=observed, particles=PARTICLES))  # fmt: skip
        filtered = []
        for seed in range(3):
            first = stationary[np.random.default_rng(seed).choice(len(stationary), PARTICLES)]
            path = np.asarray(run(jax.random.key(seed), y=y, first=first))
            filtered.append(path[:: PARTICLES // args.samples][: args.samples])
        own = np.mean([emd(filtered[i], filtered[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
        print(f"\n{name}: distance between two runs of the filter {own:.3f}")
        print("| method | NFE | distance | log density | residual / noise | s |")
        print("|---|---|---|---|---|---|")

        def show(method: str, x: np.ndarray, seconds: float) -> None:
            ratio = np.mean([emd(x, other) for other in filtered]) / own  # noqa: B023
            residual = np.sqrt(((x[:, ::every, :1] - y) ** 2).mean()) / std  # noqa: B023
            density = float(chain.log_prior(jnp.asarray(x, jnp.float32)).mean()) / (STATES - 1)
            print(f"| {method} | {ratio:.2f} | {density:.2f} | {residual:.2f} | {seconds:.0f} |",
                  flush=True)  # fmt: skip

        show("particle filter | ", filtered[0], 0)
        show("truth | ", np.repeat(truth[None], args.samples, 0), 0)
        begin = time.perf_counter()
        start = jnp.asarray(filtered[0].mean(0))
        mode = weak_4d_var(chain, lambda p: log_likelihood(p[::every], y).sum(), start)  # noqa: B023
        show("weak 4D-Var | ", np.repeat(np.asarray(mode)[None], args.samples, 0),
             time.perf_counter() - begin)  # fmt: skip
        for method in args.methods:
            begin = time.perf_counter()
            problem = get_problem(model, observing(every, std) | METHODS[method])
            x, nfe = infer(model, problem, np.repeat(y[None], args.samples, 0))
            show(f"{method} | {nfe}", x, time.perf_counter() - begin)
            shown[name, method] = (filtered[0], x)
    if args.plot:
        draw(args.plot, truth, shown)


def draw(path: str, truth: np.ndarray, shown: dict) -> None:
    """Plots the third component, never observed, as the filter and each method infer it."""

    def on_axes(axes: list) -> None:
        for ax, ((name, method), (reference, x)) in zip(axes, shown.items(), strict=True):
            fan(ax, reference[..., 2], "0.5")
            fan(ax, x[..., 2], "C0")
            ax.plot(truth[:, 2], color="C3", lw=1)
            ax.set(title=f"{name}: {method}", xlabel="state", ylabel="third component")

    save_picture(path, plot(-(-len(shown) // 2), 2, on_axes, (6.0, 2.4)))


if __name__ == "__main__":
    main()
