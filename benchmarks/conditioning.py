"""How well conditional samples satisfy their condition, for the digits and networks in this repo.

    python -m benchmarks.conditioning --workdir runs/conditioning

The judge is a classifier of clean digits that takes no part in sampling. Classes: the share of
guided samples that the judge assigns to the requested class. Inpainting: the share of completions
of the lower half that the judge assigns to the class of the original, with the known pixels
imposed, steered by a likelihood, and both. Restoration and colorization: PSNR of the samples and of
the measurement. The judge and the networks were trained on the same 5,000 digits. The photographs
show scenes that the network was not trained on.
"""

import argparse
import sys
from pathlib import Path

import ml_collections
import numpy as np

from benchmarks.common import load_config
from scorax import run_lib
from scorax.metrics.features import get_feature_extractor

OPERATORS = ("block_mean", "gaussian_blur", "random_projection")
HALVES = {
    "imposed": ("inpaint", {"mask": "bottom_half", "known_likelihood": ""}),
    "imposed and steered": ("inpaint", {"mask": "bottom_half"}),
    "steered": ("restore", {"operator": "mask", "mask": "bottom_half"}),
}


def evaluate(config: ml_collections.ConfigDict, workdir: str, task: str, **fields: object) -> tuple:
    """Runs a task with these fields of `config.eval`; returns its report and its arrays."""
    name = "_".join([task, *(str(value) for value in fields.values())])
    config = config.copy_and_resolve_references()
    config.eval.tasks = (task,)
    config.eval.update(fields)
    report = run_lib.evaluate(config, workdir, name)
    (path,) = Path(workdir, name).glob(f"*/{task}.npz")
    with np.load(path) as z:
        return report[task], dict(z)


def share_kept(config: ml_collections.ConfigDict, arrays: dict[str, np.ndarray]) -> float:
    """Returns the share of samples that the judge assigns to the same class as their originals."""
    judge = get_feature_extractor(config)
    samples, originals = arrays["samples"], arrays["originals"]
    asked = judge(originals).logits.argmax(-1)
    found = judge(samples.reshape(-1, *originals.shape[1:])).logits.argmax(-1)
    return float((found.reshape(len(originals), -1) == asked[:, None]).mean())


def gain(report: dict) -> str:
    """Returns the PSNR of the measurement and of the samples, as text."""
    return f"{report['measurement']['psnr']:.1f} to {report['samples']['psnr']:.1f} dB"


def measure(
    config: ml_collections.ConfigDict, photographs: ml_collections.ConfigDict, workdir: str
) -> list[str]:
    """Returns the rows of a Markdown table for the digits and the photographs to colorize."""
    method = f"{config.sampling.method}, "
    report, _ = evaluate(config, workdir, "class_conditional")
    lines = ["| what | sampler, evaluations | result |", "|---|---|---|"]
    share, n = report["classified_as_asked"], report["num_samples"]
    lines.append(f"| class as asked, {n} samples | {method}{report['nfe']} | {share:.3f} |")
    for how, (task, fields) in HALVES.items():
        report, arrays = evaluate(config, workdir, task, **fields)
        what = f"lower half, {how}, class kept, {arrays['samples'][..., 0, 0, 0].size} samples"
        lines.append(f"| {what} | {method}{report['nfe']} | {share_kept(config, arrays):.3f} |")
    for operator in OPERATORS:
        report, _ = evaluate(config, workdir, "restore", operator=operator)
        lines.append(f"| restore: {operator} | {method}{report['nfe']} | {gain(report)} |")
    report, _ = evaluate(photographs, workdir, "colorize")
    result = f"{gain(report)}, luma within {report['luma_deviation']:.0e}"
    lines.append(f"| colorize | {photographs.sampling.method}, {report['nfe']} | {result} |")
    return lines


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/conditioning", help="folder for the results")
    parser.add_argument("--checkpoint", default="pretrained/mnist_ve", help="the score network")
    parser.add_argument("--num", type=int, default=500, help="number of class-conditional samples")
    parser.add_argument(
        "--images", type=int, default=32, help="number of digits to complete and restore"
    )
    parser.add_argument("--method", default="dpmpp_2m_sde", help="config.sampling.method")
    parser.add_argument("--steps", type=int, default=35)
    args = parser.parse_args()
    config = load_config("configs/ve/mnist.py")
    config.eval.checkpoint, config.eval.num_samples = args.checkpoint, args.num
    photographs = load_config("configs/ve/photographs.py")
    photographs.eval.checkpoint = "pretrained/photographs_ve"
    for c in (config, photographs):
        c.sampling.method, c.sampling.steps = args.method, args.steps
        c.eval.num_conditioned, c.eval.samples_per_image = args.images, 4
    try:
        print("\n".join(measure(config, photographs, args.workdir)))
    except ValueError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
