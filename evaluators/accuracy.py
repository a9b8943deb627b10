"""The task "accuracy": the share of noisy images that a noise classifier gets right, by level."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scorax import losses
from scorax.datasets import get_dataset, get_source
from scorax.evaluators.context import Numbers, TaskContext, is_held_out
from scorax.experiment import Experiment
from scorax.noise_levels import ratio_range
from scorax.utils import parallel
from scorax.utils.arrays import batch_mul
from scorax.utils.pictures import save_picture
from scorax.utils.plots import plot

_log = logging.getLogger(__name__)

_LEVELS = 13  # from the smallest to the largest level of training, evenly spaced in log sigma
_IN_TRAINING = 1000  # largest number of images on which accuracy is measured during training


class AccuracyCurve:
    """Finds the images of `eval.split` that a noise classifier gets right at each noise level.

    Attributes:
      levels: sigma / mu in ascending order, (K,).
      batch_size: number of images in a batch.
      size: number of images in the split.
    """

    def __init__(self, experiment: Experiment) -> None:
        config = experiment.config
        self._what = f"{config.data.dataset} {config.eval.split}"
        if not is_held_out(config, config.eval.split):
            self._what += ", part of the training images"
        self.batch_size = config.eval.batch_size
        self.size = len(get_source(config, config.eval.split))
        self._batches = get_dataset(config, config.eval.split, self.batch_size, shuffle=False)
        self.levels = np.geomspace(*ratio_range(experiment.sde), _LEVELS)

        @jax.jit
        def find_correct(
            rng: jax.Array, params: Any, model_state: Any, batch: losses.Batch
        ) -> jax.Array:
            classifier_fn = experiment.classifier_fn(params, model_state)
            x, labels = (parallel.shard_batch(batch[key]) for key in ("image", "label"))

            def at_level(given: tuple[jax.Array, jax.Array]) -> jax.Array:
                k, level = given
                sigma = jnp.full(len(x), level, x.dtype)
                z = jax.random.normal(jax.random.fold_in(rng, k), x.shape)
                logits = classifier_fn(x + batch_mul(sigma, z), sigma)
                return jnp.argmax(logits, -1) == labels

            return lax.map(at_level, (jnp.arange(_LEVELS), jnp.asarray(self.levels, x.dtype))).T

        self._find_correct = find_correct

    def find_correct(self, i: int, rng: jax.Array, state: losses.State) -> np.ndarray:
        """Whether the averaged parameters classify the images of batch i correctly: (B, K)."""
        # Each process reads its share of the batch and receives the shares of the others.
        batch = parallel.to_host(self._batches[i])
        batch = jax.tree.map(lambda x: x[np.argsort(batch["index"])], batch)
        return parallel.to_host(self._find_correct(rng, state.params_ema, state.model_state, batch))

    def in_training(self, rng: jax.Array, state: losses.State) -> np.ndarray:
        """Accuracy at each level, (K,), on the first images of the split."""
        n = min(self.size, _IN_TRAINING)
        batches = range(-(-n // self.batch_size))
        correct = [self.find_correct(i, jax.random.fold_in(rng, i), state) for i in batches]
        return np.concatenate(correct)[:n].mean(0)

    def save_plot(self, path: str | os.PathLike, accuracy: np.ndarray, step: int) -> None:
        """Writes a PNG of accuracy (K,) against noise level."""

        def draw(axes: Sequence[Any]) -> None:
            axes[0].plot(self.levels, accuracy, marker="o")
            axes[0].set(title=f"{self._what}; step {step}", xscale="log", ylim=(0, 1.02))
            axes[0].set(xlabel="noise level sigma / mu", ylabel="accuracy")

        save_picture(path, plot(1, 1, draw, (6.0, 4.0)))


def evaluate_accuracy(context: TaskContext) -> Numbers:
    """Accuracy on images of the split at noise levels evenly spaced in log sigma: `accuracy.png`.

    Every image counts once at each level, each time with new noise. If "held_out" is false, these
    are training images, and accuracy on other images may be lower.
    """
    curve, split = AccuracyCurve(context.experiment), context.config.eval.split
    n = context.num_examples
    one = lambda i: {"correct": curve.find_correct(i, context.rng(i), context.state)}  # noqa: E731
    accuracy = context.show_rounds("accuracy", n, one)["correct"].mean(0)
    if parallel.is_primary():
        curve.save_plot(context.path("accuracy.png"), accuracy, int(context.state.step))
    _log.info("picture: %s", context.path("accuracy.png"))
    return {
        "split": split,
        "held_out": is_held_out(context.config, split),
        "num_examples": n,
        "noise_levels": [float(f"{level:.4g}") for level in curve.levels],
        "accuracy": [round(float(a), 4) for a in accuracy],
    }
