"""What every task of `--mode eval` works with: a checkpoint, images, rounds and files.

Everything is measured with the averaged parameters. Work is done in rounds of `eval.batch_size`
items (utils/rounds.py); after an interruption, finished rounds are not repeated. On any hardware, a
round is the same batch on every process, split over all devices, and the surplus items of the last
round are dropped. Examples are in the units of the data on the host, and in the model's range
inside `jit`. Images are in [0, 1] on the host, and uint8 (N, H, W, C) on disk.
"""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import ml_collections
import numpy as np

from scorax import losses
from scorax.datasets import Source, get_source
from scorax.experiment import Experiment
from scorax.utils import images, parallel, signals
from scorax.utils.data_range import get_data_inverse_scaler, get_data_scaler
from scorax.utils.logging import progress_bar
from scorax.utils.pictures import get_pictures, save_picture
from scorax.utils.rounds import Arrays, run_rounds

_log = logging.getLogger(__name__)

Numbers = dict[str, Any]

# Settings that change the number of rounds or what is written, but not the contents of a round.
_COUNTS = ("eval.num_samples", "eval.num_examples", "eval.save_images")


class TaskContext:
    """One task on one checkpoint.

    Attributes:
      experiment, state, config: what is evaluated; the state is on the host.
      folder: folder of the results.
      settings: everything that the results depend on.
      batch_size: number of items in a round.
      scaler, to_data: maps of arrays to the model's range, and back.
      pictures: how examples are kept and shown.
    """

    def __init__(
        self,
        task: str,
        experiment: Experiment,
        state: losses.State,
        folder: str,
        settings: Numbers,
    ) -> None:
        self.experiment, self.state, self.config = experiment, state, experiment.config
        self.folder, self.settings = folder, settings
        self.batch_size = self.config.eval.batch_size
        self.to_data = get_data_inverse_scaler(self.config)
        self.scaler = get_data_scaler(self.config)
        self.pictures = get_pictures(self.config.data.kind)
        self._rounds = rounds_folder(folder, task)

    @functools.cached_property
    def source(self) -> Source:
        """The examples of `eval.split`."""
        return get_source(self.config, self.config.eval.split)

    @property
    def num_examples(self) -> int:
        """The number of examples to use: `eval.num_examples`, or all examples of the split."""
        return min(self.config.eval.num_examples or len(self.source), len(self.source))

    def read(self, source: Source, positions: np.ndarray) -> np.ndarray:
        """The examples of a source at the given positions: uint8 or float32 (B, *S)."""
        with ThreadPoolExecutor(self.config.data.num_threads) as pool:
            examples = pool.map(source.__getitem__, positions.tolist())
            return np.stack([example["image"] for example in examples])

    def to_model(self, x: np.ndarray) -> np.ndarray:
        """Maps examples as `read` returns them to the model's range: float32."""
        return self.scaler(images.to_float(x))

    def rng(self, i: int) -> jax.Array:
        """Key of round i; never equals a training key, because those fold in the step."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), 2**32 - 1)
        return jax.random.fold_in(key, i)

    def positions(self, i: int, size: int) -> np.ndarray:
        """The items of round i, (B,); a last round that is not full is filled up from item 0."""
        return np.arange(i * self.batch_size, (i + 1) * self.batch_size) % size

    def compile(self, fn: Callable) -> Callable:
        """Jits `fn(score_fn, x, *rest)`, x: (B, *S), and binds score_fn; returns host arrays."""

        @jax.jit
        def apply(params: Any, model_state: Any, x: jax.Array, *rest: Any) -> Any:
            return fn(self.experiment.score_fn(params, model_state), parallel.shard_batch(x), *rest)

        def on_host(*arguments: Any) -> Any:
            with naming_failures():
                parameters = self.state.params_ema, self.state.model_state
                return parallel.to_host(apply(*parameters, *arguments))

        return on_host

    def run_rounds(self, name: str, size: int, compute: Callable[[int], Arrays]) -> Arrays:
        """Calls `utils.rounds.run_rounds` for `size` items, in a folder with the given name."""
        folder, settings = os.path.join(self._rounds, name), without_counts(self.settings)
        return run_rounds(folder, size, self.batch_size, settings, compute)

    def show_rounds(self, name: str, size: int, compute: Callable[[int], Arrays]) -> Arrays:
        """Calls `run_rounds` and shows a progress bar."""
        with progress_bar(-(-size // self.batch_size), desc=name) as bar:
            bar.leave = False

            def one(i: int) -> Arrays:
                arrays = compute(i)
                bar.update(i + 1 - bar.n)
                return arrays

            return self.run_rounds(name, size, one)

    def path(self, file: str) -> str:
        """The path of a file of results."""
        return os.path.join(self.folder, file)

    def save_npz(self, file: str, **arrays: np.ndarray) -> None:
        """Writes named arrays to a file of results."""
        if parallel.keeps_files():
            images.save_npz(self.path(file), **arrays)

    def save_film(self, file: str, frames: Sequence[np.ndarray]) -> None:
        """Writes frames, each uint8 (H, W[, 3]), as a film of results; see `images.save_film`."""
        if parallel.is_primary():
            images.save_film(self.path(file), frames)

    def save_picture(self, file: str, x: np.ndarray, columns: int | None = None) -> None:
        """Writes examples (N, *S) as one picture, images in rows of so many columns."""
        self.save_drawing(file, self.pictures.draw(images.to_float(x), columns, None))

    def save_drawing(self, file: str, picture: np.ndarray) -> None:
        """Writes a picture, uint8 (H, W[, 3])."""
        if parallel.is_primary():
            save_picture(self.path(file), picture)
        _log.info("picture: %s", self.path(file))

    def save_each(self, folder: str, x: np.ndarray, names: Sequence[str]) -> None:
        """Writes uint8 images (N, H, W, C) as PNG files of these names in a folder of results."""
        if parallel.is_primary():
            images.save_each(self.path(folder), images.to_float(x), names)
        _log.info("%d pictures: %s", len(x), self.path(folder))


def name_classes(names: Sequence[str], count: int) -> list[str]:
    """The names of at least `count` classes; a class without a name is called by its number."""
    return [*names, *map(str, range(len(names), count))]


def name_samples(count: int, labels: np.ndarray = (), classes: Sequence[str] = ()) -> list[str]:
    """Names of files for samples: 000000, or 000000_cat for labels (N,) and names of classes."""
    names = [f"{i:06d}" for i in range(count)]
    if not len(labels):
        return names
    words = [re.sub(r"[^\w-]+", "-", classes[k]) for k in labels.tolist()]
    return [f"{name}_{word}" for name, word in zip(names, words, strict=True)]


def is_held_out(config: ml_collections.ConfigDict, split: str) -> bool:
    """Whether a split of the data set of a config shares no example with its training data."""
    if split == "train":
        return False
    source = get_source(config, split)
    return source.held_out and source.content() != get_source(config, "train").content()


@contextlib.contextmanager
def naming_failures() -> Iterator[None]:
    """Reraises what a callback of a compiled program raised, which JAX wraps in its own error.

    That is a FloatingPointError, or `Stopped` after a signal. JAX also logs the traceback; this is
    suppressed, because JAX's error contains it as well.
    """
    jax_log = logging.getLogger("jax._src.debugging")
    was_disabled, jax_log.disabled = jax_log.disabled, True
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if signals.has_arrived() and signals.Stopped.__name__ in str(e):
            raise signals.Stopped from e
        _, found, reason = str(e).rpartition(f"{FloatingPointError.__name__}: ")
        if not found:
            raise
        raise FloatingPointError(reason.strip()) from e
    finally:
        jax_log.disabled = was_disabled


def rounds_folder(folder: str, task: str) -> str:
    """The folder that holds the rounds of a task until its numbers are in the report."""
    return os.path.join(folder, f"{task}_rounds")


def without_counts(settings: Numbers) -> Numbers:
    """The settings that a round depends on, which do not include the number of rounds."""
    return {k: v for k, v in settings.items() if k not in _COUNTS}


def mean_nfe(nfe: np.ndarray) -> float:
    """The mean over rounds of the evaluations of the score per sample."""
    mean = round(float(nfe.mean()), 2)
    return int(mean) if mean.is_integer() else mean
