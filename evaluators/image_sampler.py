"""Drawing batches of images with the configured sampler, in training and evaluation."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from scorax import losses, sampling
from scorax.evaluators.context import naming_failures
from scorax.experiment import Experiment
from scorax.utils import parallel
from scorax.utils.data_range import get_data_inverse_scaler
from scorax.utils.logging import progress_bar
from scorax.utils.progress import Observer
from scorax.utils.rounds import Arrays


class ImageSampler:
    """Draws batches of images with the configured sampler, compiled once, showing progress.

    A network that is told classes draws images of random ones, unless something else is given.

    Attributes:
      nfe: evaluations of the score for one sample of the last batch.
      compile_seconds: how long compiling took; 0 if an earlier batch needed it too.
      seconds: how long the last batch took, without compiling.
      frames: the samples of the last batch on their way from noise to image, each (N, H, W, C) in
        [0, 1] before clipping; empty where several processes sample together.
    """

    def __init__(
        self,
        experiment: Experiment,
        get_sampler: Callable[[Observer | None], Callable] | None = None,
    ) -> None:
        """Builds the sampler.

        Args:
          experiment: of the config.
          get_sampler: observer -> `(rng, score_fn, shape, *given) -> (samples, nfe)`, for arrays
            that each batch is given; its score_fn also takes class labels (B,), `labels=`. None:
            the configured sampler, for none.
        """
        config = experiment.config
        data, self._batch_size = config.data, config.eval.batch_size
        self._to_unit = get_data_inverse_scaler(config)
        self.frames: list[np.ndarray] = []
        self._bar, self._failed = None, None
        # A callback inside a program that spans processes would need all of them.
        observer = self._observe if parallel.process_count() == 1 else None
        unconditional = functools.partial(sampling.get_sampling_fn, config, experiment.sde)
        sampler = (get_sampler or unconditional)(observer)
        shape = (self._batch_size, data.image_size, data.image_size, data.num_channels)
        classes = 0 if get_sampler else config.model.num_classes

        def sample(rng: jax.Array, params: Any, model_state: Any, *given: jax.Array) -> tuple:
            labels = None
            if classes:
                labels = jax.random.randint(jax.random.fold_in(rng, 1), shape[:1], 0, classes)

            def score_fn(x: jax.Array, t: jax.Array, labels: Any = labels) -> jax.Array:
                x = parallel.shard_batch(x)
                return experiment.score_fn(params, model_state, labels)(x, t)

            return sampler(rng, score_fn, shape, *given)

        self._sample = jax.jit(sample)
        self._compiled = None
        self.nfe, self.compile_seconds, self.seconds = 0, 0.0, 0.0

    def _observe(self, done: int, total: int, x: jax.Array) -> None:
        """Sees some steps, and every one whose x is not finite."""
        if self._failed is not None:
            return
        x = np.asarray(x)
        if not np.isfinite(x).all():
            self._failed = f"at sampling step {done} of {total}"
        self.frames.append(self._to_unit(x[:64]))
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    @property
    def costs(self) -> Arrays:
        """`nfe`, `compile_seconds` and `seconds` of the last batch, as arrays of a round."""
        return {k: np.array([getattr(self, k)]) for k in ("nfe", "compile_seconds", "seconds")}

    def __call__(
        self,
        rng: jax.Array,
        state: losses.State,
        desc: str = "sampling",
        given: Sequence[np.ndarray] = (),
    ) -> np.ndarray:
        """Draws `config.eval.batch_size` images with the averaged parameters.

        Args:
          rng: of the batch.
          state: with the parameters.
          desc: what the progress bar says.
          given: arrays for `get_sampler`'s sampler, of the same shapes in each batch.

        Returns:
          (N, H, W, C) in [0, 1], not clipped, on every process.

        Raises:
          FloatingPointError: if they are not finite, with the first step where they were not.
        """
        arguments = rng, state.params_ema, state.model_state, *given
        begin, self.compile_seconds = time.monotonic(), 0.0
        if self._compiled is None:
            self._compiled = self._sample.lower(*arguments).compile()
            self.compile_seconds = time.monotonic() - begin
            begin = time.monotonic()
        self.frames.clear()
        self._failed = None
        with progress_bar(1, desc=desc) as self._bar, naming_failures():
            self._bar.leave = False  # what follows says where the pictures are
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
        return self._to_unit(x)
