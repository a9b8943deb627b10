"""What every task of `--mode eval` works with: a checkpoint, images, rounds and files.

Everything is measured with the averaged parameters. Work is done in rounds of `eval.batch_size`
(utils/rounds.py), which a killed evaluation does not make again. Whatever the hardware, a round is
the same batch on every process, split over all devices; what the last round has too many is
dropped. Images are uint8 (N, H, W, C) on the disk, in [0, 1] on the host and in the model's range
inside `jit`.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from scorax import losses
from scorax.datasets import Source, get_source
from scorax.experiment import Experiment
from scorax.utils import images, parallel
from scorax.utils.data_range import get_data_inverse_scaler, get_data_scaler
from scorax.utils.logging import progress_bar
from scorax.utils.rounds import Arrays, run_rounds

_log = logging.getLogger(__name__)

Numbers = dict[str, Any]

# how many there are to be changes nothing in the rounds that there are
_COUNTS = ("eval.num_samples", "eval.num_examples")


class TaskContext:
    """One task on one checkpoint.

    Attributes:
      experiment, state, config: what is evaluated; the state lies on the host.
      folder: of the results.
      settings: what the results depend on.
      batch_size: items of a round.
      scaler, to_unit: the map of arrays in [0, 1] into the model's range, and back.
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
        self.to_unit = get_data_inverse_scaler(self.config)
        self.scaler = get_data_scaler(self.config)
        self._rounds = rounds_folder(folder, task)

    @functools.cached_property
    def source(self) -> Source:
        """The examples of `eval.split`."""
        return get_source(self.config, self.config.eval.split)

    @property
    def num_examples(self) -> int:
        """`eval.num_examples` of them, or all."""
        return min(self.config.eval.num_examples or len(self.source), len(self.source))

    def read(self, source: Source, positions: np.ndarray) -> np.ndarray:
        """Those images of a source: uint8 (B, H, W, C)."""
        with ThreadPoolExecutor(self.config.data.num_threads) as pool:
            examples = pool.map(source.__getitem__, positions.tolist())
            return np.stack([example["image"] for example in examples])

    def to_model(self, x: np.ndarray) -> np.ndarray:
        """Images uint8 in the model's range: float32."""
        return self.scaler(x.astype(np.float32) / 255)

    def rng(self, i: int) -> jax.Array:
        """Key of round i; never equals a training key, because those fold in the step."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), 2**32 - 1)
        return jax.random.fold_in(key, i)

    def positions(self, i: int, size: int) -> np.ndarray:
        """The items of round i, (B,); where there are none left it begins again with the first."""
        return np.arange(i * self.batch_size, (i + 1) * self.batch_size) % size

    def compile(self, fn: Callable) -> Callable:
        """`fn(score_fn, x, *rest)`, with x: (B, *S), jitted; its results come to every host."""

        @jax.jit
        def apply(params: Any, model_state: Any, x: jax.Array, *rest: Any) -> Any:
            return fn(self.experiment.score_fn(params, model_state), parallel.shard_batch(x), *rest)

        def on_host(*arguments: Any) -> Any:
            with naming_failures():
                parameters = self.state.params_ema, self.state.model_state
                return parallel.to_host(apply(*parameters, *arguments))

        return on_host

    def run_rounds(self, name: str, size: int, compute: Callable[[int], Arrays]) -> Arrays:
        """`utils.rounds.run_rounds` of `size` items, in a folder of that name."""
        folder, settings = os.path.join(self._rounds, name), without_counts(self.settings)
        return run_rounds(folder, size, self.batch_size, settings, compute)

    def show_rounds(self, name: str, size: int, compute: Callable[[int], Arrays]) -> Arrays:
        """The same behind a progress bar."""
        with progress_bar(-(-size // self.batch_size), desc=name) as bar:
            bar.leave = False

            def one(i: int) -> Arrays:
                arrays = compute(i)
                bar.update(i + 1 - bar.n)
                return arrays

            return self.run_rounds(name, size, one)

    def path(self, file: str) -> str:
        """Where a file of the results is."""
        return os.path.join(self.folder, file)

    def save_npz(self, file: str, **arrays: np.ndarray) -> None:
        """Writes named arrays."""
        if parallel.is_primary():
            images.save_npz(self.path(file), **arrays)

    def save_grid(self, file: str, x: np.ndarray, columns: int | None = None) -> None:
        """Writes images uint8 (N, H, W, C) as one picture."""
        if parallel.is_primary():
            images.save_grid(self.path(file), x.astype(np.float32) / 255, columns)
        _log.info("picture: %s", self.path(file))


@contextlib.contextmanager
def naming_failures() -> Iterator[None]:
    """Lets a FloatingPointError out of a compiled program, which JAX wraps in one of its own.

    The traceback that JAX logs besides is left out: what it wraps the error in holds it too.
    """
    jax_log = logging.getLogger("jax._src.debugging")
    was_disabled, jax_log.disabled = jax_log.disabled, True
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        _, found, reason = str(e).rpartition(f"{FloatingPointError.__name__}: ")
        if not found:
            raise
        raise FloatingPointError(reason.strip()) from e
    finally:
        jax_log.disabled = was_disabled


def rounds_folder(folder: str, task: str) -> str:
    """Where the rounds of a task are until its numbers are in the report."""
    return os.path.join(folder, f"{task}_rounds")


def without_counts(settings: Numbers) -> Numbers:
    """The settings of a round, which is the same however many of them there are."""
    return {k: v for k, v in settings.items() if k not in _COUNTS}


def mean_nfe(nfe: np.ndarray) -> float:
    """Evaluations of the score for one sample, from those of each round."""
    mean = round(float(nfe.mean()), 2)
    return int(mean) if mean.is_integer() else mean
