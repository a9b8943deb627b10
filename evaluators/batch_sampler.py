"""Drawing batches of examples with the configured sampler, in training and evaluation."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from scorax import losses, sampling
from scorax.evaluators.context import naming_failures
from scorax.experiment import Experiment
from scorax.utils import parallel, signals
from scorax.utils.data_range import get_data_inverse_scaler
from scorax.utils.logging import clock, progress_bar
from scorax.utils.progress import Observer
from scorax.utils.rounds import Arrays
from scorax.utils.shapes import model_shape


class BatchSampler:
    """Draws batches of examples with the configured sampler, compiled once, and shows progress.

    A class-conditional network draws examples of random classes, unless `get_sampler` is given.

    Attributes:
      nfe: evaluations of the score for one sample of the last batch.
      compile_seconds: time spent compiling for the last batch; 0 unless it was the first batch.
      seconds: time the last batch took, without compiling.
      frames: intermediate states of up to 64 samples of the last batch, from noise to data, each
        (N, *S) in units of the data and, of images, not clipped; empty if several processes sample
        together.
    """

    def __init__(
        self,
        experiment: Experiment,
        get_sampler: Callable[[Observer | None], Callable] | None = None,
        observed: bool = True,
    ) -> None:
        """Builds the sampler.

        Args:
          experiment: the experiment, whose config describes the sampler.
          get_sampler: observer -> `(rng, score_fn, shape, *given) -> (samples, nfe)`, where `given`
            are the arrays passed with each batch and score_fn takes class labels (B,) as the
            keyword `labels`. None: the configured sampler, without further arrays.
          observed: show progress and keep frames, if one process samples alone.
        """
        config = experiment.config
        self._batch_size = config.eval.batch_size
        self._to_data = get_data_inverse_scaler(config)
        self.frames: list[np.ndarray] = []
        self._bar, self._failed = None, None
        # A callback in a program that spans several processes would involve all of them.
        observer = self._observe if observed and parallel.process_count() == 1 else None
        unconditional = functools.partial(sampling.get_sampling_fn, config, experiment.sde)
        sampler = (get_sampler or unconditional)(observer)
        shape = (self._batch_size, *model_shape(config))
        # Classes that the training data do not have mean nothing.
        known = len(config.data.classes) or config.model.num_classes
        self._classes = 0 if get_sampler else min(known, config.model.num_classes)

        def sample(rng: jax.Array, params: Any, model_state: Any, *given: jax.Array) -> tuple:
            labels = self._draw_labels(rng) if self._classes else None

            def score_fn(x: jax.Array, t: jax.Array, labels: Any = labels) -> jax.Array:
                x = parallel.shard_batch(x)
                return experiment.score_fn(params, model_state, labels)(x, t)

            return sampler(rng, score_fn, shape, *given)

        self._sample = jax.jit(sample)
        self._compiled = None
        self.nfe, self.compile_seconds, self.seconds = 0, 0.0, 0.0

    def _draw_labels(self, rng: jax.Array) -> jax.Array:
        return jax.random.randint(jax.random.fold_in(rng, 1), (self._batch_size,), 0, self._classes)

    def draw_labels(self, rng: jax.Array) -> np.ndarray:
        """The random classes of the batch that is drawn with this key, (N,), or none, (0,)."""
        return np.asarray(self._draw_labels(rng)) if self._classes else np.zeros(0, np.int32)

    def _observe(self, done: int, total: int, x: jax.Array) -> None:
        """Is called at some of the steps, and at every step whose x is not finite."""
        if signals.has_arrived() and parallel.device_count() == 1:
            raise signals.Stopped  # of several devices, the others would wait
        if self._failed is not None:
            return
        x = np.asarray(x)
        if not np.isfinite(x).all():
            self._failed = f"at sampling step {done} of {total}"
        self.frames.append(self._to_data(x[:64]))
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    @property
    def costs(self) -> Arrays:
        """`nfe`, `compile_seconds` and `seconds` of the last batch, as arrays of a round."""
        return {k: np.array([getattr(self, k)]) for k in ("nfe", "compile_seconds", "seconds")}

    def compile(self, rng: Any, state: losses.State, given: Sequence[Any] = ()) -> Any:
        """Compiles the sampler for these arrays, or for their shapes."""
        return self._sample.lower(rng, state.params_ema, state.model_state, *given).compile()

    def __call__(
        self,
        rng: jax.Array,
        state: losses.State,
        desc: str = "sampling",
        given: Sequence[np.ndarray] = (),
    ) -> np.ndarray:
        """Draws `config.eval.batch_size` examples with the averaged parameters.

        Args:
          rng: key of the batch.
          state: holds the averaged parameters.
          desc: text of the progress bar.
          given: arrays for the sampler of `get_sampler`, with the same shapes in each batch.

        Returns:
          (N, *S) in units of the data, on every process; images are in [0, 1], but not clipped.

        Raises:
          FloatingPointError: if the samples are not finite; names the first step that was not.
          Stopped: if a signal arrived while it was compiled, or while one device sampled.
        """
        arguments = rng, state.params_ema, state.model_state, *given
        begin, self.compile_seconds = time.monotonic(), 0.0
        if self._compiled is None:
            self._compiled = clock(
                "compiling the sampler, or reading it from the cache",
                lambda: self.compile(rng, state, given),
            )
            self.compile_seconds = time.monotonic() - begin
            begin = time.monotonic()
        self.frames.clear()
        self._failed = None
        with progress_bar(1, desc=desc) as self._bar, naming_failures():
            self._bar.leave = False  # a log line follows that says where the pictures are
            x, nfe = self._compiled(*arguments)
            x = parallel.to_host(x)
            jax.effects_barrier()
        self._bar = None
        self.nfe, self.seconds = int(nfe), time.monotonic() - begin
        if not np.isfinite(x).all():
            raise FloatingPointError(
                f"samples are not finite {self._failed or 'at the end of sampling'} (checkpoint "
                f"of step {int(state.step)}); choose an earlier one with --config.eval.checkpoint, "
                "or another sampler"
            )
        return self._to_data(x)
