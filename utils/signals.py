"""Stopping a run from outside without losing anything."""

import contextlib
import os
import signal
from typing import Any


class StopSignal:
    """Turns SIGINT and SIGTERM into a flag that the training loop reads between two steps.

    A second SIGINT interrupts at once.

    Attributes:
      received: the signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # handlers belong to the main thread
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        text = f"\n{self.received.name}: stopping after this step; Ctrl-C again stops at once\n"
        os.write(2, text.encode())  # a log message could interrupt another half written

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
