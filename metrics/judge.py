"""The judge: a small classifier of clean images whose last hidden layer gives features of samples.

It is not the noise-conditional classifier that guides sampling (`models.noise_classifier`).

Images are NHWC with values in [0, 1]; labels are 0, 1, ... The seed determines the training.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

BATCH_SIZE = 128
WIDEST = 128  # the largest number of channels


class Judge(nn.Module):
    """Convolutions with pooling, then two dense layers; the features are the 64 inputs of the last.

    Attributes:
      num_classes: number of classes.
      widths: channels of the convolutions, each of which halves height and width.
    """

    num_classes: int
    widths: Sequence[int] = (16, 32)

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x: (B, H, W, C) in [0, 1] -> logits (B, num_classes), features (B, 64)."""
        for width in self.widths:
            x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        features = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes)(features), features


def fit_judge(image_shape: Sequence[int], num_classes: int) -> Judge:
    """Returns a judge of images (H, W, C) with enough convolutions to leave 8x8 pixels or fewer.

    It has at least 2 convolutions, and never more than the shorter side can be halved.

    Raises:
      ValueError: for images smaller than 4x4 pixels, or fewer than two classes.
    """
    small, large = min(image_shape[:2]), max(image_shape[:2])
    if small < 4 or num_classes < 2:
        raise ValueError(
            f"the judge needs images of 4x4 pixels or more and 2 classes or more, not "
            f"{image_shape[0]}x{image_shape[1]} and {num_classes}; use "
            "--config.eval.features=inception"
        )
    depth = max(2, int(np.ceil(np.log2(large / 8))))
    depth = min(depth, int(np.log2(small)))
    return Judge(num_classes, tuple(min(16 * 2**i, WIDEST) for i in range(depth)))


def init_judge(model: Judge, image_shape: Sequence[int], seed: int) -> dict[str, Any]:
    """Returns the untrained variables of a judge of images (H, W, C), on the host."""
    return jax.device_get(jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, *image_shape))))


def train_judge(
    model: Judge,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int,
    seed: int,
    show: Callable[[range], Iterable[int]] = iter,
) -> dict[str, Any]:
    """Trains a judge on images that are shifted at random by up to a 14th of their size.

    Args:
      model: a judge made by `fit_judge` for these images.
      images: uint8 (N, H, W, C).
      labels: int32 (N,).
      steps: Adam steps, with batches of 128 and a learning rate that rises to 2e-3 and falls to 0.
      seed: for initialisation, batches and shifts.
      show: wraps the steps, to show progress.

    Returns:
      The trained variables.
    """
    rng = np.random.default_rng(seed)
    optimizer = optax.adam(optax.cosine_onecycle_schedule(steps, 2e-3, pct_start=0.1))
    params = init_judge(model, images.shape[1:], seed)
    opt_state = optimizer.init(params)

    def loss_fn(params: dict[str, Any], x: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step_fn(params: dict[str, Any], opt_state: Any, x: jax.Array, labels: jax.Array) -> tuple:
        gradients = jax.grad(loss_fn)(params, x, labels)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for _ in show(range(steps)):
        rows = rng.integers(len(labels), size=BATCH_SIZE)
        x = shift_randomly(images[rows], rng) / np.float32(255)
        params, opt_state = step_fn(params, opt_state, x, labels[rows])
    return jax.device_get(params)


def shift_randomly(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shifts each image of (N, H, W, C) by up to H // 14 and W // 14 pixels; gaps become 0."""
    n, *size, _ = images.shape
    most = [length // 14 for length in size]
    padded = np.pad(images, ((0, 0), *((m, m) for m in most), (0, 0)))
    rows, columns = (
        rng.integers(2 * m + 1, size=(n, 1)) + np.arange(length)
        for m, length in zip(most, size, strict=True)
    )
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
