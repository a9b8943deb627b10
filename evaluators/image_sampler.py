"""Drawing batches of images with the configured sampler, in training and evaluation."""

import time
from typing import Any

import jax
import numpy as np

import losses
import sampling
from datasets import get_data_inverse_scaler
from evaluators.work import naming_failures
from experiment import Experiment
from utils import parallel
from utils.logging import progress_bar


class ImageSampler:
    """Draws batches of images with the configured sampler, compiled once, showing progress.

    A network that is told classes draws images of random ones.

    Attributes:
      nfe: evaluations of the score for one sample of the last batch.
      compile_seconds: how long compiling took; 0 before the first batch.
      seconds: how long the last batch took, without compiling.
      frames: the samples of the last batch on their way from noise to image, each (N, H, W, C) in
        [0, 1] before clipping; empty where several processes sample together.
    """

    def __init__(self, experiment: Experiment) -> None:
        config = experiment.config
        data, self._batch_size = config.data, config.eval.batch_size
        self._to_unit = get_data_inverse_scaler(config)
        self.frames: list[np.ndarray] = []
        self._bar, self._failed = None, None
        # A callback inside a program that spans processes would need all of them.
        observer = self._observe if parallel.process_count() == 1 else None
        sampler = sampling.get_sampling_fn(config, experiment.sde, observer)
        shape = (self._batch_size, data.image_size, data.image_size, data.num_channels)
        classes = config.model.num_classes

        def sample(rng: jax.Array, params: Any, model_state: Any) -> tuple[jax.Array, int]:
            labels = None
            if classes:
                labels = jax.random.randint(jax.random.fold_in(rng, 1), shape[:1], 0, classes)
            score_fn = experiment.score_fn(params, model_state, labels)
            return sampler(rng, lambda x, t: score_fn(parallel.shard_batch(x), t), shape)

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

    def __call__(self, rng: jax.Array, state: losses.State, desc: str = "sampling") -> np.ndarray:
        """Draws `config.eval.batch_size` images with the averaged parameters.

        Returns:
          (N, H, W, C) in [0, 1], not clipped, on every process.

        Raises:
          FloatingPointError: if they are not finite, with the first step where they were not.
        """
        arguments = rng, state.params_ema, state.model_state
        begin = time.monotonic()
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
