"""How fast training is, and what it waits for."""

import contextlib
import logging
import time
from collections.abc import Iterator

import jax

from scorax.utils import parallel
from scorax.utils.hardware import get_chip

log = logging.getLogger(__name__)


class Meter:
    """Measures the time between two log lines."""

    def __init__(self, step: int, batch_size: int) -> None:
        """Starts at a step.

        Args:
          step: number of steps done.
          batch_size: number of examples in a step.
        """
        self._batch_size = batch_size
        self.flops = 0.0  # of a step, per device; 0: not known
        self.restart(step)

    def restart(self, step: int) -> None:
        """Excludes the time up to now from the next measurement."""
        self._clock, self._step, self._waited = time.monotonic(), step, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def read(self, step: int) -> dict[str, float]:
        """Returns what was measured since the last call, and starts again.

        Returns:
          "steps_per_second", "examples_per_second" (of all devices) and "data_wait", the share of
          the time in which there was no batch to train on. Where the devices tell, also
          "memory_gib", the most that was in use on the first device since the program started, and
          "utilization": operations of the compiled step, recomputed ones (`model.remat`) included,
          per second and device, as a share of the peak in `utils.hardware`.
        """
        seconds = time.monotonic() - self._clock
        speed = (step - self._step) / seconds
        read = {
            "steps_per_second": speed,
            "examples_per_second": speed * self._batch_size,
            "data_wait": self._waited / seconds,
        }
        kind, memory = parallel.device_kind(), parallel.peak_memory()
        if memory:
            read["memory_gib"] = memory / 2**30
        if self.flops and (chip := get_chip(kind)):
            read["utilization"] = self.flops * speed / chip.peak
        self.restart(step)
        return read


class Trace:
    """Writes a trace of some steps of a training run, for TensorBoard's profiler.

    The first steps after a start are left out, because they are not like the others.
    """

    _SKIPPED = 5

    def __init__(self, directory: str, n_steps: int) -> None:
        """Traces `n_steps` calls of `step`; 0: none."""
        self._directory, self._n_steps, self._done = directory, n_steps, 0
        self._running = False

    def step(self) -> None:
        """Is called before every step."""
        if self._n_steps and self._done == self._SKIPPED:
            jax.profiler.start_trace(self._directory)
            self._running = True
        if self._done == self._SKIPPED + self._n_steps:
            self.close()
        self._done += 1

    def close(self) -> None:
        """Writes what has been traced."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log.info("trace of training: %s", self._directory)
