"""How good sampled digits are according to a judge, a small classifier trained on real digits.

    python -m benchmarks.mnist_quality --workdir runs/ve/mnist
    python -m benchmarks.mnist_quality --samples FILE.npz --data-dir data/mnist --out quality.json

Everything is measured twice: for the samples, and for an equal number of real digits that were used
neither to train the judge nor for the reference of the Fréchet distance. The absolute value of a
Fréchet distance depends on the judge, so it should be compared with the value for the real digits.

By default the real digits are the 5,000 that come with a package. With --data-dir they are all
70,000: the judge is trained on the training split, and the reference and the real digits to compare
with are taken from the test split.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import jax
import ml_collections
import numpy as np

from scorax import run_lib
from scorax.data_sources import mnist
from scorax.loading import load_config
from scorax.metrics.feature_sets import feature_statistics, frechet_distance
from scorax.metrics.features import FeatureExtractor, judge_extractor, trained_judge
from scorax.metrics.neighbours import nearest_distances
from scorax.utils.logging import versions, write_json

BATCH_SIZE = 512  # digits that are classified at a time
NAME = "mnist-classifier"  # name of the judge's features in files


@dataclasses.dataclass(frozen=True)
class Digits:
    """Digits, uint8 (N, 28, 28), with their labels, int32 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __getitem__(self, index: np.ndarray | slice) -> "Digits":
        return Digits(self.images[index], self.labels[index])

    def __len__(self) -> int:
        return len(self.labels)


def load_digits(data_dir: str, split: str) -> Digits:
    """Returns a split of MNIST in the order of `data_sources.mnist`."""
    source = mnist.load(data_dir, split)
    examples = [source[i] for i in range(len(source))]
    return Digits(
        np.stack([e["image"][..., 0] for e in examples]),
        np.array([e["label"] for e in examples], np.int32),
    )


def split_digits(data_dir: str, num: int, seed: int) -> tuple[Digits, Digits, Digits]:
    """Returns disjoint real digits: for the judge, for the reference, and `num` to compare with."""
    order = np.random.default_rng(seed).permutation
    if data_dir:
        train, rest = load_digits(data_dir, "train"), load_digits(data_dir, "test")
        rest = rest[order(len(rest))]
    else:
        train = load_digits("", "train")
        train = train[order(len(train))]
        train, rest = train[: 3 * len(train) // 5], train[3 * len(train) // 5 :]
    if not 2 <= num <= len(rest) - 2:
        raise ValueError(f"--num {num} must lie between 2 and {len(rest) - 2}")
    return train, rest[num:], rest[:num]


def get_judge(
    path: str | None, digits: Digits, data_dir: str, steps: int, seed: int
) -> FeatureExtractor:
    """Reads the judge from the file `path`, or trains it and writes the file."""
    trained_on = {"dataset": "mnist", "dir": data_dir, "num_images": len(digits)}
    load = lambda: (digits.images[..., None], digits.labels)  # noqa: E731
    model, variables = trained_judge(path, trained_on, (28, 28, 1), load, steps, seed)
    return judge_extractor(NAME, model, variables, trained_on, BATCH_SIZE)


def classify(judge: FeatureExtractor, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities (N, 10) and features (N, 64) of uint8 images (N, 28, 28)."""
    features, logits = judge(images[..., None])
    return np.asarray(jax.nn.softmax(logits)), features


def distances_to_nearest(images: np.ndarray, others: np.ndarray, skip_copies: bool) -> np.ndarray:
    """Returns each image's L2 distance to the nearest of the others, for greys in [0, 1]: (N,).

    With `skip_copies`, an exact copy does not count, which serves images that are among the others.
    """
    first, second = nearest_distances(images, others, 2).T / 255
    return np.where(first < 1e-3, second, first) if skip_copies else first


def describe(
    judge: FeatureExtractor,
    images: np.ndarray,
    reference: tuple,
    learnt: np.ndarray,
    real: bool,
) -> dict:
    """Returns the numbers to report of one set of images.

    Args:
      judge: trained on other digits.
      images: uint8 (N, 28, 28).
      reference: feature mean and covariance of the reference digits.
      learnt: training digits of the generator, uint8 (M, 28, 28).
      real: whether the images are real digits, which may be among the training digits.
    """
    probabilities, features = classify(judge, images)
    confidence = probabilities.max(1)
    return {
        "confidence": float(confidence.mean()),
        "share above .9": float((confidence > 0.9).mean()),
        "Fréchet distance": frechet_distance(*feature_statistics(features), *reference),
        "nearest digit": float(np.median(distances_to_nearest(images, learnt, real))),
        "labels 0-9": np.bincount(probabilities.argmax(1), minlength=10).tolist(),
    }


def draw_samples(config: ml_collections.ConfigDict, workdir: str, num: int) -> tuple:
    """Draws samples from a run's last checkpoint, uint8 (num, 28, 28, 1).

    The samples stay in the folder `mnist_quality` of the run.

    Returns:
      The samples, and the report of drawing them.
    """
    config.eval.tasks, config.eval.num_samples, config.eval.frames = ("samples",), num, 0
    report = run_lib.evaluate(config, workdir, "mnist_quality")
    path = Path(workdir, "mnist_quality", f"step_{report['step']}", "samples.npz")
    return np.load(path)["samples"][:num], report["samples"] | {"step": report["step"]}


def load_samples(path: str) -> np.ndarray:
    """Returns the array `samples` of an archive, uint8 (N, 28, 28) or (N, 28, 28, 1)."""
    samples = np.load(path)["samples"]
    if samples.dtype != np.uint8 or samples.shape[1:3] != (28, 28) or samples[0].size != 784:
        raise ValueError(
            f"samples in {path} are {samples.dtype} {samples.shape}; they must be uint8 "
            "(N, 28, 28, 1)"
        )
    return samples


def measure(args: argparse.Namespace) -> dict:
    """Draws or loads samples, trains the judge, and returns the report."""
    report, learnt_dir = {}, ""
    if args.samples:
        samples = load_samples(args.samples)[: args.num]
    else:
        config = load_config(args.workdir)
        learnt_dir = config.data.dir
        samples, report["sampling"] = draw_samples(config, args.workdir, args.num)
    samples = samples.reshape(-1, 28, 28)
    learnt = load_digits(learnt_dir, "train").images
    train, reference, real = split_digits(args.data_dir, len(samples), args.seed)
    begin = time.monotonic()
    judge = get_judge(args.classifier, train, args.data_dir, args.steps, args.seed)
    seconds = time.monotonic() - begin
    probabilities, features = classify(judge, reference.images)
    report["classifier"] = {
        "digits": len(train),
        "seconds": round(seconds, 1),
        "accuracy": float((probabilities.argmax(1) == reference.labels).mean()),
    }
    statistics = feature_statistics(features)
    sets = {"samples": (samples, False), "real digits": (real.images, True)}
    for name, (images, is_real) in sets.items():
        report[name] = describe(judge, images, statistics, learnt, is_real)
    return report | {"num": len(samples), "versions": versions()}


def format_table(report: dict) -> str:
    """Returns a table with a column for the samples and a column for the real digits."""
    sets = ("samples", "real digits")
    lines = [f"{report['num']} of each".ljust(18) + "".join(s.rjust(14) for s in sets)]
    for key, value in report["samples"].items():
        if not isinstance(value, list):
            lines.append(key.ljust(18) + "".join(f"{report[s][key]:14.3f}" for s in sets))
    for name in sets:
        counts = " ".join(f"{n:3d}" for n in report[name]["labels 0-9"])
        lines.append(f"labels 0-9, {name}: ".ljust(26) + counts)
    c = report["classifier"]
    lines.append(f"judge: {c['digits']} digits, held-out accuracy {c['accuracy']:.4f}")
    return "\n".join(lines)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", help="a trained run: samples are drawn with its own sampler")
    source.add_argument("--samples", help="an npz archive with uint8 'samples'")
    parser.add_argument("--num", type=int, default=256, help="number of samples and of real digits")
    parser.add_argument("--data-dir", default="", help="folder of the four idx files of MNIST")
    parser.add_argument(
        "--classifier", help="file of the judge for these digits and seed; written if missing"
    )
    parser.add_argument("--steps", type=int, default=1500, help="training steps of the judge")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the split of the digits and of the judge"
    )
    parser.add_argument("--out", help="JSON file for all numbers")
    args = parser.parse_args()
    try:
        report = measure(args)
    except ValueError as e:
        sys.exit(f"error: {e}")
    print(format_table(report))
    if args.out:
        write_json(args.out, report)


if __name__ == "__main__":
    main()
