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
import json
import os
import sys
import time
from pathlib import Path

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

import run_lib
from configs import base
from data_sources import mnist
from evaluation import feature_statistics, frechet_distance
from utils.logging import versions, write_json

BATCH_SIZE = 128
MAX_SHIFT = 2  # pixels that training digits are moved by, at most


class Classifier(nn.Module):
    """Two convolutions and two dense layers; 64 features before the last."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x: (B, 28, 28) in [0, 1] -> logits (B, 10), features (B, 64)."""
        x = x[..., None]
        for width in (16, 32):
            x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        features = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.Dense(10)(features), features


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


def shift_randomly(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves each of (N, H, W) by up to MAX_SHIFT pixels in both directions, filling with 0."""
    n, height, width = images.shape
    padded = np.pad(images, ((0, 0), (MAX_SHIFT,) * 2, (MAX_SHIFT,) * 2))
    rows, columns = (
        rng.integers(2 * MAX_SHIFT + 1, size=(n, 1)) + np.arange(size) for size in (height, width)
    )
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def train_classifier(digits: Digits, steps: int, seed: int) -> dict:
    """Parameters of a `Classifier` trained on the digits."""
    model, rng = Classifier(), np.random.default_rng(seed)
    schedule = optax.cosine_onecycle_schedule(steps, 2e-3, pct_start=0.1)
    optimizer = optax.adam(schedule)
    params = model.init(jax.random.key(seed), jnp.zeros((1, 28, 28)))
    opt_state = optimizer.init(params)

    def loss_fn(params, x, labels):
        logits, _ = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step_fn(params, opt_state, x, labels):
        updates, opt_state = optimizer.update(
            jax.grad(loss_fn)(params, x, labels), opt_state, params
        )
        return optax.apply_updates(params, updates), opt_state

    for _ in range(steps):
        batch = digits[rng.integers(len(digits), size=BATCH_SIZE)]
        x = shift_randomly(batch.images, rng) / np.float32(255)
        params, opt_state = step_fn(params, opt_state, x, batch.labels)
    return params


def get_classifier(path: str | None, digits: Digits, steps: int, seed: int) -> dict:
    """Reads the parameters in the file `path`, or trains them and writes it."""
    if path and os.path.exists(path):
        template = Classifier().init(jax.random.key(0), jnp.zeros((1, 28, 28)))
        return flax.serialization.from_bytes(template, Path(path).read_bytes())
    params = train_classifier(digits, steps, seed)
    if path:
        Path(path).write_bytes(flax.serialization.to_bytes(params))
    return params


def classify(params: dict, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, 10) and features (N, 64) of uint8 images (N, 28, 28)."""
    apply = jax.jit(Classifier().apply)
    batches = np.array_split(images / np.float32(255), -(-len(images) // 500))
    parts = [apply(params, x) for x in batches]
    logits, features = (np.concatenate(p) for p in zip(*parts, strict=True))
    return np.asarray(jax.nn.softmax(logits)), features


def nearest_distances(images: np.ndarray, others: np.ndarray, skip_copies: bool) -> np.ndarray:
    """L2 distance from each image to the nearest of the others, in units of the grey range: (N,).

    With `skip_copies` exact copies do not count: for images that are among the others.
    """
    x, y = (a.reshape(len(a), -1).astype(np.float64) / 255 for a in (images, others))
    squares = np.sum(x**2, 1)[:, None] - 2 * x @ y.T + np.sum(y**2, 1)
    if skip_copies:
        squares[squares < 1e-6] = np.inf
    return np.sqrt(np.maximum(squares.min(1), 0.0))


def describe(
    params: dict, images: np.ndarray, reference: tuple, learnt: np.ndarray, real: bool
) -> dict:
    """The numbers of one set of images.

    Args:
      params: of the classifier.
      images: uint8 (N, 28, 28).
      reference: feature mean and covariance of the reference digits.
      learnt: the digits that the generator has learnt from, uint8 (M, 28, 28).
      real: whether the images are real digits, which may be among the learnt ones.
    """
    probabilities, features = classify(params, images)
    confidence = probabilities.max(1)
    return {
        "confidence": float(confidence.mean()),
        "share above .9": float((confidence > 0.9).mean()),
        "Fréchet distance": frechet_distance(*feature_statistics(features), *reference),
        "nearest digit": float(np.median(nearest_distances(images, learnt, real))),
        "labels 0-9": np.bincount(probabilities.argmax(1), minlength=10).tolist(),
    }


def load_config(workdir: str) -> ml_collections.ConfigDict:
    """The config of a run, from its config.json."""
    path = Path(workdir, "config.json")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; train first, or name another run with --workdir")
    config = base.get_config()
    for section, fields in json.loads(path.read_text()).items():
        fields = fields if isinstance(fields, dict) else {"": fields}
        for key, value in fields.items():
            value = tuple(value) if isinstance(value, list) else value
            config.update({section: {key: value} if key else value})
    return config


def draw_samples(config: ml_collections.ConfigDict, workdir: str, num: int) -> tuple:
    """Samples of a run's last checkpoint, uint8 (num, 28, 28, 1), and the report of drawing them.

    They are left in the folder `mnist_quality` of the run.
    """
    config.eval.tasks, config.eval.num_samples, config.eval.frames = ("samples",), num, 0
    report = run_lib.evaluate(config, workdir, "mnist_quality")
    path = Path(workdir, "mnist_quality", f"step_{report['step']}", "samples.npz")
    return np.load(path)["samples"], report["samples"] | {"step": report["step"]}


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
    params = get_classifier(args.classifier, train, args.steps, args.seed)
    seconds = time.monotonic() - begin
    probabilities, features = classify(params, reference.images)
    report["classifier"] = {
        "digits": len(train),
        "seconds": round(seconds, 1),
        "accuracy": float((probabilities.argmax(1) == reference.labels).mean()),
    }
    statistics = feature_statistics(features)
    sets = {"samples": (samples, False), "real digits": (real.images, True)}
    for name, (images, is_real) in sets.items():
        report[name] = describe(params, images, statistics, learnt, is_real)
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
