"""Distance of samples from the data against the number of score evaluations, for all samplers.

    python -m benchmarks.quality_vs_nfe mixture
    python -m benchmarks.quality_vs_nfe images --workdir runs/ve/mnist
    python -m benchmarks.quality_vs_nfe plot --picture docs/quality_vs_nfe.png

`mixture` samples a Gaussian mixture in the plane with its exact score under the VE, VP and sub-VP
SDEs. It measures the Wasserstein-1 distance between equal numbers of samples and real points,
averaged over several draws. `images` samples a trained network. It measures the Fréchet distance of
the samples in the features of a judge, and the confidence of the judge
(benchmarks/mnist_quality.py). The files also hold seconds, which can be compared only if nothing
else ran at the same time. Samples are kept in the folder, so that an interrupted run continues
where it stopped.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import ml_collections
import numpy as np

from benchmarks import mnist_quality
from scorax import loading, sampling
from scorax.configs import base
from scorax.datasets import get_data_inverse_scaler
from scorax.experiment import build
from scorax.metrics.feature_sets import feature_statistics, frechet_distance
from scorax.metrics.points import wasserstein
from scorax.sde_lib import SDE, SDES, ScoreFn
from scorax.utils import images
from scorax.utils.arrays import batch_mul
from scorax.utils.checkpoints import Checkpoints
from scorax.utils.logging import progress_bar, versions, write_json
from scorax.utils.plots import style
from scorax.utils.shapes import image_shape

# Evaluations of the few-step solvers, steps of the predictor-corrector sampler, and tolerances of
# the adaptive solvers.
BUDGETS = {"mixture": (6, 10, 20, 40, 80), "images": (10, 20, 40)}
PC_STEPS = {"mixture": (50, 100, 200, 500, 1000), "images": (100, 1000)}
TOLERANCES = {
    "ode": {"mixture": (1e-1, 1e-2, 1e-3, 1e-5), "images": (1e-1, 1e-2, 1e-3)},
    "adaptive_sde": {"mixture": (0.5, 0.1, 0.05, 0.02), "images": (0.5, 0.1)},
}
# The published sampler of each SDE, except that in the plane a larger snr of the corrector would
# show its bias, which is of order snr^2.
PUBLISHED = {
    "vesde": {"predictor": "reverse_diffusion", "corrector": "langevin", "snr": 0.05},
    "vpsde": {"predictor": "euler_maruyama", "corrector": "none"},
    "subvpsde": {"predictor": "euler_maruyama", "corrector": "none"},
}
LABELS = {
    "pc": "predictor-corrector",
    "ode": "ODE, Tsit5 (by tolerance)",
    "adaptive_sde": "adaptive SDE (by tolerance)",
    "ddim": "DDIM",
    "heun": "Heun (EDM)",
    "dpmpp_2m": "DPM-Solver++ 2M",
    "dpmpp_3m": "DPM-Solver++ 3M",
    "dpmpp_2m_sde": "DPM-Solver++ 2M SDE",
    "unipc": "UniPC",
}
# A ring of eight and a heavier centre: means (K, 2), weights (K,), one standard deviation.
ANGLES = np.arange(8) * np.pi / 4
CENTRES = np.concatenate([[[0.0, 0.0]], np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)])
WEIGHTS = np.array([0.2] + [0.1] * 8)
SPREAD = 0.05
DRAWS = 16  # draws over which the distances of the mixture are averaged


class Point(NamedTuple):
    """One sampler at one budget: the fields of config.sampling that differ from the defaults."""

    method: str
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Name for files."""
        values = "_".join(f"{k}={v:g}" for k, v in self.settings.items())
        return f"{self.method}_{values}"


def points(what: str) -> Iterator[Point]:
    """Yields all samplers and budgets for "mixture" or "images"."""
    for method in LABELS:
        if method == "pc":
            yield from (Point(method, {"steps": n}) for n in PC_STEPS[what])
        elif method == "ode":
            yield from (Point(method, {"rtol": x, "atol": x}) for x in TOLERANCES[method][what])
        elif method == "adaptive_sde":
            yield from (Point(method, {"rel_tol": x}) for x in TOLERANCES[method][what])
        else:
            # Heun's rule makes two evaluations in every step except the last.
            steps = [(n + 1) // 2 if method == "heun" else n for n in BUDGETS[what]]
            yield from (Point(method, {"steps": n}) for n in steps)


def configured(config: ml_collections.ConfigDict, point: Point) -> ml_collections.ConfigDict:
    """Returns a copy of the config with the sampler of the point."""
    config = config.copy_and_resolve_references()
    config.sampling.method = point.method
    config.sampling.update(point.settings)
    return config


def mixture_score(sde: SDE) -> ScoreFn:
    """Returns the exact score of the perturbed mixture: x (B, 2), t (B,) -> (B, 2)."""

    def score_fn(x: jax.Array, t: jax.Array) -> jax.Array:
        mu, sigma = sde.marginal_coeffs(t)
        var = (mu * SPREAD) ** 2 + sigma**2
        away = mu[:, None, None] * jnp.asarray(CENTRES, jnp.float32)[None] - x[:, None, :]
        log_w = jnp.log(jnp.asarray(WEIGHTS, jnp.float32))[None]
        log_w = log_w - jnp.sum(away**2, -1) / (2 * var[:, None])
        shares = jax.nn.softmax(log_w, -1)
        return batch_mul(1 / var, jnp.sum(shares[..., None] * away, 1))

    return score_fn


def mixture_draw(rng: np.random.Generator, num: int) -> np.ndarray:
    """Draws points of the mixture: (num, 2)."""
    centres = CENTRES[rng.choice(len(WEIGHTS), num, p=WEIGHTS)]
    return centres + SPREAD * rng.standard_normal((num, 2))


def measure_mixture(out: Path, num: int) -> None:
    """Writes the distances for three SDEs to `mixture.json`."""
    config = base.get_config()
    config.sampling.abs_tol = 1e-3
    real = [mixture_draw(np.random.default_rng(i), num) for i in range(2 * DRAWS)]
    floor = np.mean([wasserstein(a, b, 1) for a, b in zip(real[::2], real[1::2], strict=True)])
    rows = []
    for name, published in PUBLISHED.items():
        sde = SDES[name]()
        config.sampling.update(published)
        for point in progress_bar_over(list(points("mixture")), name):
            sampler = sampling.get_sampling_fn(configured(config, point), sde)
            draw = jax.jit(lambda rng, s=sampler, d=sde: s(rng, mixture_score(d), (num, 2)))
            draws = [draw(jax.random.key(i)) for i in range(DRAWS)]
            x, nfe = zip(*draws, strict=True)
            distances = [wasserstein(a, b, 1) for a, b in zip(x, real[::2], strict=True)]
            rows.append(
                {"sde": name, "method": point.method, "settings": point.settings}
                | {"nfe": float(np.mean(nfe)), "distance": float(np.mean(distances))}
                | {"standard_error": float(np.std(distances, ddof=1) / DRAWS**0.5)}
            )
    report = {"num": num, "real points": float(floor), "rows": rows, "versions": versions()}
    write_json(str(out / "mixture.json"), report)


def progress_bar_over(items: list, desc: str) -> Iterator[Any]:
    """Yields the items and shows a progress bar."""
    with progress_bar(len(items), desc=desc) as bar:
        for item in items:
            yield item
            bar.update()


class Network:
    """A trained run whose samples are drawn batch by batch and saved to files."""

    def __init__(self, workdir: str, batch_size: int) -> None:
        self.config = mnist_quality.load_config(workdir)
        self.config.eval.batch_size = batch_size
        self.experiment = build(self.config)
        self.to_unit = get_data_inverse_scaler(self.config)
        checkpoints = Checkpoints(str(Path(workdir, "checkpoints")), 1)
        self.state, *_ = loading.restore(self.experiment, checkpoints, training=False)
        checkpoints.close()

    def draw(self, point: Point, seed: int, num: int, folder: Path) -> tuple[np.ndarray, dict]:
        """Draws `num` images with a sampler, or reads them if they were drawn before.

        Returns:
          The images, uint8 (num, H, W, C), and the median evaluations and seconds of a batch.
        """
        c, folder = self.config, folder / f"{point.name}_seed={seed}"
        shape = (c.eval.batch_size, *image_shape(c))
        sampler = sampling.get_sampling_fn(configured(c, point), self.experiment.sde)
        score_fn = self.experiment.score_fn(self.state.params_ema, self.state.model_state)
        sample = jax.jit(lambda rng: sampler(rng, score_fn, shape))
        batches, costs = [], []
        for i in range(-(-num // shape[0])):
            path = folder / f"{i}.npz"
            if not path.exists():
                if i == 0:
                    sample = sample.lower(jax.random.key(0)).compile()
                begin = time.monotonic()
                x, nfe = jax.block_until_ready(sample(jax.random.fold_in(jax.random.key(seed), i)))
                cost = [float(nfe), time.monotonic() - begin]
                x = images.to_uint8(self.to_unit(np.asarray(x)))
                images.save_npz(str(path), samples=x, cost=np.array(cost))
            with np.load(path) as z:
                batches.append(z["samples"])
                costs.append(z["cost"])
        nfe, seconds = np.median(costs, 0)
        cost = {"nfe": float(nfe), "seconds": float(seconds)}
        return np.concatenate(batches)[:num], cost


def measure_images(out: Path, workdir: str, num: int, batch_size: int) -> None:
    """Measures the distances for a trained run; writes `images.json` after each sampler."""
    network, seed = Network(workdir, batch_size), 0
    learnt, reference, real = mnist_quality.split_digits(network.config.data.dir, num, seed)
    judge = mnist_quality.get_judge(
        str(out / "classifier.safetensors"), learnt, network.config.data.dir, 1500, seed
    )
    statistics = feature_statistics(mnist_quality.classify(judge, reference.images)[1])

    def describe(x: np.ndarray) -> dict[str, float]:
        probabilities, features = mnist_quality.classify(judge, x)
        distance = frechet_distance(*feature_statistics(features), *statistics)
        return {"distance": distance, "confidence": float(probabilities.max(1).mean())}

    report = {"num": num, "batch": batch_size, "real digits": describe(real.images), "rows": []}
    for point in progress_bar_over(list(points("images")), "samplers"):
        x, cost = network.draw(point, seed, num, out / "images")
        row = {"method": point.method, "settings": point.settings} | cost
        report["rows"].append(row | describe(x[..., 0]))
        write_json(str(out / "images.json"), report | {"versions": versions()})


def format_table(title: str, rows: list[dict]) -> str:
    """Returns a Markdown table: method and settings, evaluations, distance, confidence."""
    lines = [f"| {title} | evaluations | distance | confidence |", "|---|---|---|---|"]
    for row in rows:
        settings = ", ".join(f"{k} {v:g}" for k, v in row["settings"].items())
        confidence = f"{row['confidence']:.3f}" if "confidence" in row else ""
        error = f" ± {row['standard_error']:.4f}" if "standard_error" in row else ""
        lines.append(
            f"| {LABELS[row['method']]}, {settings} | {row['nfe']:.0f} "
            f"| {row['distance']:.4g}{error} | {confidence} |"
        )
    return "\n".join(lines)


def draw_curves(axes: plt.Axes, rows: list[dict], floor: float, title: str, unit: str) -> None:
    """Draws one panel: a line for each sampler, and the distance of real data as a floor."""
    for i, (method, label) in enumerate(LABELS.items()):
        own = sorted((r["nfe"], r["distance"]) for r in rows if r["method"] == method)
        style = {"color": f"C{i}", "marker": "o", "markersize": 3, "linewidth": 1.3}
        axes.plot(*zip(*own, strict=True), label=label, **style)
    axes.axhline(floor, color="0.4", linestyle=":", linewidth=1, label="real data")
    axes.set(title=title, xlabel="evaluations of the score", ylabel=unit, xscale="log")
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")


def report_all(out: Path, picture: str) -> None:
    """Prints the tables of all measurements, and draws the plot.

    Raises:
      ValueError: if a measurement is missing.
    """
    reports = {}
    for name in ("mixture", "images"):
        path = out / f"{name}.json"
        if not path.exists():
            raise ValueError(f"{path} does not exist; measure it first: quality_vs_nfe {name}")
        reports[name] = json.loads(path.read_text())
    mixture, digits = reports["mixture"], reports["images"]
    plt.rcParams.update(style())
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for sde, title in (("vesde", "VE"), ("vpsde", "VP"), ("subvpsde", "sub-VP")):
        rows = [r for r in mixture["rows"] if r["sde"] == sde]
        print(format_table(f"Gaussian mixture, {title} (W1)", rows), end="\n\n")
        if sde == "vpsde":
            name = "Gaussian mixture, exact score (VP)"
            draw_curves(axes[0], rows, mixture["real points"], name, "Wasserstein-1 distance")
    print(f"real points: {mixture['real points']:.4g}\n")
    print(format_table("MNIST digits (Fréchet distance)", digits["rows"]))
    real = digits["real digits"]
    print(f"real digits: {real['distance']:.4g}, confidence {real['confidence']:.3f}")
    draw_curves(axes[1], digits["rows"], real["distance"], "MNIST digits (VE)", "Fréchet distance")
    axes[1].legend(fontsize=7, loc="upper right")
    figure.tight_layout()
    Path(picture).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("mixture", "images", "plot"))
    parser.add_argument(
        "--out", type=Path, default=Path("runs/quality_vs_nfe"), help="folder for the results"
    )
    parser.add_argument("--workdir", default="runs/ve/mnist", help="for images: a trained run")
    parser.add_argument(
        "--num",
        type=int,
        default=256,
        help="number of images; the mixture gets four times as many points",
    )
    parser.add_argument("--batch", type=int, default=64, help="images drawn at a time")
    parser.add_argument(
        "--picture", default="docs/quality_vs_nfe.png", help="for plot: the file to write"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        if args.what == "mixture":
            measure_mixture(args.out, 4 * args.num)
        elif args.what == "images":
            measure_images(args.out, args.workdir, args.num, args.batch)
        else:
            report_all(args.out, args.picture)
    except ValueError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
