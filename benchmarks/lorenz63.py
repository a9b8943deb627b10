"""Trajectories of Lorenz 63 inferred from sparse observations, beside a particle filter's.

python -m benchmarks.lorenz63 --weights pretrained/lorenz63 --plot lorenz63.png

The first component of 65 states is observed: every eighth with noise 0.05 ("lo"), or all with noise
0.25 ("hi"), in units of its scale of 8 (Rozet & Louppe 2023, section 4). The reference is a
bootstrap particle filter with 16,384 particles that start from states of the stationary chain.

For each method, prints the earth mover's distance from its trajectories to the filter's, divided by
the distance between two runs of the filter; the mean log density of a transition; the root mean
square of y - A(x), in units of the noise; and seconds.
"""

import argparse
import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot

from scorax import loading
from scorax.data_sources.dynamics import Lorenz63
from scorax.data_sources.trajectories import load_chain
from scorax.evaluators.assimilation import Assimilation
from scorax.metrics.filtering import particle_filter, weak_4d_var
from scorax.utils.pictures import fan, plot, save_picture

STATES, PARTICLES = 65, 16_384
OBSERVATIONS = {"lo": (8, 0.05), "hi": (1, 0.25)}  # every so many states, noise / scale
PUBLISHED = {
    "sampling.method": "pc",
    "sampling.predictor": "exponential",
    "sampling.corrector": "adaptive_langevin",
    "sampling.snr": 0.25,
    "sampling.steps": 256,
    "eval.likelihood": "sda",
}
CORRECTED = PUBLISHED | {"eval.likelihood": "mmps", "eval.likelihood_iterations": 1}
FEW = {"sampling.method": "dpmpp_2m_sde", "eval.likelihood": "mmps"}
METHODS: dict[str, dict[str, Any]] = {
    "sda, 256 steps": PUBLISHED | {"sampling.corrector": "none"},
    "sda, 256 steps, C = 1": PUBLISHED | {"sampling.n_steps_each": 1},
    "sda, 256 steps, C = 4": PUBLISHED | {"sampling.n_steps_each": 4},
    "mmps (1), 32 steps": FEW | {"sampling.steps": 32, "eval.likelihood_iterations": 1},
    "mmps (1), 64 steps": FEW | {"sampling.steps": 64, "eval.likelihood_iterations": 1},
    "mmps (3), 64 steps": FEW | {"sampling.steps": 64, "eval.likelihood_iterations": 3},
    "mmps (10), 64 steps": FEW | {"sampling.steps": 64, "eval.likelihood_iterations": 10},
    "mmps (1), 64 steps, C = 1": CORRECTED | {"sampling.steps": 64},
    "mmps (1), 32 steps, C = 4": CORRECTED | {"sampling.steps": 32, "sampling.n_steps_each": 4},
    "dps, 256 steps": PUBLISHED | {"sampling.corrector": "none", "eval.likelihood": "dps"},
}


def infer(model: loading.Model, y: np.ndarray, every: int, std: float, n: int, keys: dict):
    """Draws n trajectories given y: (n, STATES, 3)."""
    config = model.config.copy_and_resolve_references()
    scale = Lorenz63.scale[0]
    config.eval.update({"observe_every": every, "measurement_std": std, "states": STATES})
    config.eval.update({"gamma": 0.03 * scale**2, "zeta": 1 / scale, "observation": "component"})
    config.update_from_flattened_dict(keys)
    problem = Assimilation(dataclasses.replace(model.experiment, config=config))
    sampler = problem.get_sampler()

    @jax.jit
    def draw(variables: tuple, rng: jax.Array, y: jax.Array) -> jax.Array:
        score_fn = model.experiment.score_fn(*variables)
        return problem.to_data(sampler(rng, score_fn, (n, *problem.shape), y)[0])

    return np.asarray(draw(model.variables, jax.random.key(1), np.repeat(y[None], n, 0)))


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
        print(
            "| method | distance / filter's | log density of a transition | residual / noise | s |"
        )
        print("|---|---|---|---|---|")

        def show(method: str, x: np.ndarray, seconds: float) -> None:
            ratio = np.mean([emd(x, other) for other in filtered]) / own  # noqa: B023
            residual = np.sqrt(((x[:, ::every, :1] - y) ** 2).mean()) / std  # noqa: B023
            density = float(chain.log_prior(jnp.asarray(x, jnp.float32)).mean()) / (STATES - 1)
            print(f"| {method} | {ratio:.2f} | {density:.2f} | {residual:.2f} | {seconds:.0f} |",
                  flush=True)  # fmt: skip

        show("particle filter", filtered[0], 0)
        show("truth", np.repeat(truth[None], args.samples, 0), 0)
        begin = time.perf_counter()
        start = jnp.asarray(filtered[0].mean(0))
        mode = weak_4d_var(chain, lambda p: log_likelihood(p[::every], y).sum(), start)  # noqa: B023
        show("weak 4D-Var", np.repeat(np.asarray(mode)[None], args.samples, 0),
             time.perf_counter() - begin)  # fmt: skip
        for method in args.methods:
            begin = time.perf_counter()
            x = infer(model, y, every, std, args.samples, METHODS[method])
            show(method, x, time.perf_counter() - begin)
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
