"""Kolmogorov flow inferred from the published observations, by several methods.

python -m benchmarks.kolmogorov --weights pretrained/kolmogorov --data data/kolmogorov_small

For each scenario and method, prints the root mean square of y - A(x) and its proportion to the
noise, that of x - truth, the largest deviation of the energy spectrum from the truth's at
wavenumbers up to half of the resolved ones, and seconds. The spectrum is a mean over all samples:
where observations leave a wavenumber open, its energy in one sample says little.

Published, at full size (Rozet & Louppe 2023, code of the figures): 0.110, 0.018 and 0.061 by SDA,
0.857, 0.493 and 0.548 by DPS.
"""

import argparse
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.assimilation import get_problem, infer
from scorax import loading
from scorax.configs.parts import VARIANTS
from scorax.data_sources.trajectories import load_files
from scorax.utils.fields import energy_spectrum

PUBLISHED = {"eval.likelihood": "sda", "sampling.corrector_min": 0.0, "sampling.corrector_max": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "config": {},
    "dps": {"eval.likelihood": "dps"},
    "sda": {"eval.likelihood": "sda"},
    "sda, 256 steps, C = 1": PUBLISHED
    | {"sampling.steps": 256, "sampling.n_steps_each": 1, "sampling.snr": 0.5},
}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="pretrained/kolmogorov")
    parser.add_argument("--data", required=True, help="folder of trajectories")
    parser.add_argument("--trajectories", type=int, default=1, help="true ones, of the test split")
    parser.add_argument("--samples", type=int, default=2, help="for each true trajectory")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    scenarios = ["coarse", "extrapolation", "saturation"]
    parser.add_argument("--scenarios", nargs="*", default=scenarios)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=NUMBER", help="other keys")
    parser.add_argument("--save", help="npz file to write the samples to")
    args = parser.parse_args()
    model, kept = loading.load(args.weights), {}
    extra = {key: float(v) if "." in v else int(v) for key, v in (s.split("=") for s in args.set)}
    print("| scenario | method | NFE | residual | / noise | RMSE | energy spectrum | s |")
    print("|---|---|---|---|---|---|---|---|")
    for scenario in args.scenarios:
        for method in args.methods:
            keys = VARIANTS["fields"][scenario] | METHODS[method] | extra
            problem = get_problem(model, keys)
            windows = load_files(args.data, "test", problem.shape[0], "fields")
            chosen = np.linspace(0, len(windows) - 1, args.trajectories).astype(int)
            truth = np.stack([windows[i]["image"] for i in np.repeat(chosen, args.samples)])
            noise = np.random.default_rng(0)
            y = np.asarray(problem.operator(jnp.asarray(truth)))
            y = (y + problem.std * noise.standard_normal(y.shape)).astype("f")
            begin = time.perf_counter()
            x, nfe = infer(model, problem, y)
            seconds = time.perf_counter() - begin
            residual = problem.misfits(y, x).mean()
            error = np.sqrt(((x - truth) ** 2).mean())
            energy, true = (energy_spectrum(v).reshape(-1, 32).mean(0)[:16] for v in (x, truth))
            worst = np.abs(energy / true - 1).max()
            print(
                f"| {scenario} | {method} | {nfe} | {residual:.3f} | {residual / problem.std:.2f} "
                f"| {error:.2f} | {worst:.0%} | {seconds:.0f} |", flush=True,
            )  # fmt: skip
            kept |= {f"{scenario}/{method}": x, f"{scenario}/truth": truth, f"{scenario}/y": y}
    if args.save:
        np.savez(args.save, **kept)


if __name__ == "__main__":
    main()
