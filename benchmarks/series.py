"""Measures a network of Ornstein-Uhlenbeck paths: parameters of its series, and its forecasts.

python -m benchmarks.series --weights pretrained/ou_edm

Prints the medians and spreads (between quartiles) of the maximum-likelihood parameters of real and
generated series, and the CRPS of forecasts of the last points of new paths, in proportion to that
of the exact conditional distribution, once with the parameters of each path known, and once, as the
network has it, with parameters that have to be inferred from the path.
"""

import argparse
import dataclasses
import time

import jax
import numpy as np
from scipy.special import logsumexp

from scorax import loading
from scorax.configs.parts import VARIANTS
from scorax.data_sources import ou
from scorax.evaluators.series_problems import SeriesInpainting
from scorax.metrics.series import crps, fit_ou
from scorax.utils.shapes import model_shape

NAMES = ("theta", "mu", "sigma")
GRID = (20, 20, 40)  # parameters at which the posterior of a path is evaluated
DRAWS = 4000  # of an exact conditional distribution


def generate(model: loading.Model, n: int, batch: int, **sampling) -> np.ndarray:
    """Draws n series."""
    parts = [
        np.asarray(model.sample(jax.random.key(i), batch, **sampling)[0])
        for i in range(-(-n // batch))
    ]
    return np.concatenate(parts)[:n, :, 0]


def new_paths(n: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positive paths (n, length) that no network has seen, and their parameters (3, n)."""
    rng = np.random.default_rng(seed)
    parameters = ou.draw_parameters(rng, 2 * n)
    paths = ou.simulate(rng.standard_normal((2 * n, length - 1)), *parameters)
    kept = (paths > 0).all(1)
    return paths[kept][:n], parameters[:, kept][:, :n]


def forecast(model: loading.Model, paths: np.ndarray, points: int, each: int) -> np.ndarray:
    """Samples (each, n, points) of the last points of each path, as in the variant "complete"."""
    config = model.config.copy_and_resolve_references()
    config.update_from_flattened_dict(VARIANTS["series"]["complete"])
    config.eval.update({"mask": "last", "mask_points": points})
    problem = SeriesInpainting(dataclasses.replace(model.experiment, config=config))
    sampler = problem.get_sampler()

    @jax.jit
    def draw(variables, rng, y):
        score_fn = model.experiment.score_fn(*variables)
        shape = (len(y), *model_shape(config))
        return problem.to_data(sampler(rng, score_fn, shape, y)[0])

    found = []
    for i, path in enumerate(paths.astype(np.float32)):
        y = problem.measure(None, path[None, :, None])
        y = np.repeat(np.asarray(y), each, 0)
        x = draw(model.variables, jax.random.key(i), y)
        found.append(np.asarray(x)[:, -points:, 0])
    return np.stack(found, 1)


def conditional(rng, start: np.ndarray, parameters: np.ndarray, points: int) -> np.ndarray:
    """Draws of the next points after `start` (D,), with parameters (3, D): (D, points)."""
    noise = rng.standard_normal((len(start), points))
    return ou.simulate(noise, *parameters, start=start)[:, 1:]


def exact_forecasts(paths: np.ndarray, parameters: np.ndarray, points: int) -> tuple:
    """Draws (DRAWS, n, points) with known parameters, and with the posterior of parameters."""
    rng, known, inferred = np.random.default_rng(1), [], []
    axes = [np.linspace(a, b, n) for (a, b), n in zip(ou.RANGES.values(), GRID, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    a, s = ou.transition(grid[0], grid[2])
    for path, own in zip(paths, parameters.T, strict=True):
        seen = path[:-points]
        start = np.full(DRAWS, seen[-1])
        known.append(conditional(rng, start, np.tile(own[:, None], DRAWS), points))
        # Sums over the path of products of two of X_{i+1}, X_i and 1 give the likelihood.
        x, y = seen[:-1], seen[1:]
        b, n = grid[1] * (1 - a), len(x)
        squares = (
            (y @ y) - 2 * a * (x @ y) + a**2 * (x @ x) - 2 * b * (y.sum() - a * x.sum()) + n * b**2
        )
        logp = -squares / (2 * s**2) - n * np.log(s)
        chosen = rng.choice(grid.shape[1], DRAWS, p=np.exp(logp - logsumexp(logp)))
        inferred.append(conditional(rng, start, grid[:, chosen], points))
    return np.stack(known, 1), np.stack(inferred, 1)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="pretrained/ou_edm")
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--paths", type=int, default=40)
    parser.add_argument("--points", type=int, default=25)
    parser.add_argument("--each", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    model = loading.load(args.weights)
    length = model.config.data.length
    real = fit_ou(ou.load("test", length).examples[..., 0], ou.DT)
    start = time.perf_counter()
    generated = generate(model, args.series, 100, steps=args.steps)
    fits = fit_ou(generated, ou.DT)
    print(f"{args.series} series in {time.perf_counter() - start:.0f} s, {args.steps} steps")
    print(
        "| parameter | real median | generated | real spread | generated |\n|---|---|---|---|---|"
    )
    for k, name in enumerate(NAMES):
        quartiles = [np.quantile(x[:, k], (0.25, 0.5, 0.75)) for x in (real, fits)]
        (a, m, b), (c, o, d) = quartiles
        numbers = f"{m:.3f} | {o:.3f} ({o / m - 1:+.1%}) | {b - a:.3f} | {d - c:.3f}"
        print(f"| {name} | {numbers} ({(d - c) / (b - a) - 1:+.1%}) |")
    paths, parameters = new_paths(args.paths, length, seed=5)
    truth = paths[:, -args.points :]
    start = time.perf_counter()
    ours = crps(forecast(model, paths, args.points, args.each), truth)
    seconds = time.perf_counter() - start
    known, inferred = (crps(x, truth) for x in exact_forecasts(paths, parameters, args.points))
    print(f"{args.paths} forecasts of {args.points} points, {args.each} samples, {seconds:.0f} s")
    rng = np.random.default_rng(2)
    for name, exact in (("parameters known", known), ("parameters inferred", inferred)):
        ratio = ours.mean() / exact.mean()
        rows = rng.integers(len(paths), size=(2000, len(paths)))  # bootstrap over paths
        ratios = ours[rows].mean((1, 2)) / exact[rows].mean((1, 2))
        low, high = np.quantile(ratios, (0.025, 0.975))
        print(f"CRPS {ours.mean():.5f}, exact with {name} {exact.mean():.5f}: {ratio:.3f} times, "
              f"95 % interval {low:.3f} ... {high:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
