"""How good sampled digits are, judged by a classifier that is trained here on real ones.

    python -m benchmarks.mnist_quality --workdir runs/ve/mnist
    python -m benchmarks.mnist_quality --samples FILE.npz --data-dir data/mnist --out quality.json

Everything is measured twice: for the samples, and for as many real digits that neither the
classifier nor the reference of the Fréchet distance has seen. The absolute value of a Fréchet
distance belongs to the classifier; compare it with the one of the real digits beside it.

The real digits are the 5,000 that come with a package, or with --data-dir all 70,000: then the
classifier learns from the training split, and reference and real digits are of the test split.
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
from scorax.experiment import load_config
from scorax.metrics.feature_sets import feature_statistics, frechet_distance
from scorax.metrics.features import FeatureExtractor, judge_extractor, trained_judge
from scorax.metrics.neighbours import nearest_distances
from scorax.utils.logging import versions, write_json

BATCH_SIZE = 512  # digits that are classified at a time


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
    """A split of MNIST in the order of `data_sources.mnist`."""
    source = mnist.load(data_dir, split)
    examples = [source[i] for i in range(len(source))]
    return Digits(
        np.stack([e["image"][..., 0] for e in examples]),
        np.array([e["label"] for e in examples], np.int32),
    )


def split_digits(data_dir: str, num: int, seed: int) -> tuple[Digits, Digits, Digits]:
    """Disjoint real digits: the classifier's, the reference's, and `num` to compare with."""
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


def get_classifier(
    path: str | None, digits: Digits, data_dir: str, steps: int, seed: int
) -> FeatureExtractor:
    """Reads the classifier in the file `path`, or trains it and writes it."""
    trained_on = {"dataset": "mnist", "dir": data_dir, "num_images": len(digits)}
    load = lambda: (digits.images[..., None], digits.labels)  # noqa: E731
    model, variables = trained_judge(path, trained_on, (28, 28, 1), load, steps, seed)
    return judge_extractor("mnist-classifier", model, variables, trained_on, BATCH_SIZE)


def classify(classifier: FeatureExtractor, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, 10) and features (N, 64) of uint8 images (N, 28, 28)."""
    features, logits = classifier(images[..., None])
    return np.asarray(jax.nn.softmax(logits)), features


def distances_to_nearest(images: np.ndarray, others: np.ndarray, skip_copies: bool) -> np.ndarray:
    """L2 distance from each image to the nearest of the others, in units of the grey range: (N,).

    With `skip_copies` an exact copy does not count: for images that are among the others.
    """
    first, second = nearest_distances(images, others, 2).T / 255
    return np.where(first < 1e-3, second, first) if skip_copies else first


def describe(
    classifier: FeatureExtractor,
    images: np.ndarray,
    reference: tuple,
    learnt: np.ndarray,
    real: bool,
) -> dict:
    """The numbers of one set of images.

    Args:
      classifier: trained on other digits.
      images: uint8 (N, 28, 28).
      reference: feature mean and covariance of the reference digits.
      learnt: the digits that the generator has learnt from, uint8 (M, 28, 28).
      real: whether the images are real digits, which may be among the learnt ones.
    """
    probabilities, features = classify(classifier, images)
    confidence = probabilities.max(1)
    return {
        "confidence": float(confidence.mean()),
        "share above .9": float((confidence > 0.9).mean()),
        "Fréchet distance": frechet_distance(*feature_statistics(features), *reference),
        "nearest digit": float(np.median(distances_to_nearest(images, learnt, real))),
        "labels 0-9": np.bincount(probabilities.argmax(1), minlength=10).tolist(),
    }


def draw_samples(config: ml_collections.ConfigDict, workdir: str, num: int) -> tuple:
    """Samples of a run's last checkpoint, uint8 (num, 28, 28, 1), and the report of drawing them.

    They are left in the folder `mnist_quality` of the run.
    """
    config.eval.tasks, config.eval.num_samples, config.eval.frames = ("samples",), num, 0
    report = run_lib.evaluate(config, workdir, "mnist_quality")
    path = Path(workdir, "mnist_quality", f"step_{report['step']}", "samples.npz")
    return np.load(path)["samples"][:num], report["samples"] | {"step": report["step"]}


def load_samples(path: str) -> np.ndarray:
    """The array `samples` of an archive, uint8 (N, 28, 28) or (N, 28, 28, 1)."""
    samples = np.load(path)["samples"]
    if samples.dtype != np.uint8 or samples.shape[1:3] != (28, 28) or samples[0].size != 784:
        raise ValueError(
            f"samples in {path} are {samples.dtype} {samples.shape}; they must be uint8 "
            "(N, 28, 28, 1)"
        )
    return samples


def measure(args: argparse.Namespace) -> dict:
    """Draws or loads samples, trains the classifier, and returns everything that is reported."""
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
    classifier = get_classifier(args.classifier, train, args.data_dir, args.steps, args.seed)
    seconds = time.monotonic() - begin
    probabilities, features = classify(classifier, reference.images)
    report["classifier"] = {
        "digits": len(train),
        "seconds": round(seconds, 1),
        "accuracy": float((probabilities.argmax(1) == reference.labels).mean()),
    }
    statistics = feature_statistics(features)
    sets = {"samples": (samples, False), "real digits": (real.images, True)}
    for name, (images, is_real) in sets.items():
        report[name] = describe(classifier, images, statistics, learnt, is_real)
    return report | {"num": len(samples), "versions": versions()}


def format_table(report: dict) -> str:
    """The samples' and the real digits' numbers in two columns."""
    sets = ("samples", "real digits")
    lines = [f"{report['num']} of each".ljust(18) + "".join(s.rjust(14) for s in sets)]
    for key, value in report["samples"].items():
        if not isinstance(value, list):
            lines.append(key.ljust(18) + "".join(f"{report[s][key]:14.3f}" for s in sets))
    for name in sets:
        counts = " ".join(f"{n:3d}" for n in report[name]["labels 0-9"])
        lines.append(f"labels 0-9, {name}: ".ljust(26) + counts)
    c = report["classifier"]
    lines.append(f"classifier: {c['digits']} digits, held-out accuracy {c['accuracy']:.4f}")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", help="a trained run: samples are drawn with its own sampler")
    source.add_argument("--samples", help="an npz archive with uint8 'samples'")
    parser.add_argument("--num", type=int, default=256, help="samples, and real digits")
    parser.add_argument("--data-dir", default="", help="the four idx files of MNIST")
    parser.add_argument("--classifier", help="file that keeps it for the same digits and seed")
    parser.add_argument("--steps", type=int, default=1500, help="of the classifier's training")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the classifier")
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
