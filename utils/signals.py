"""Stops a run on a signal without losing work."""

import contextlib
import os
import signal
from typing import Any


class StopSignal:
    """Turns SIGINT and SIGTERM into a flag that a loop can read between two steps.

    A second SIGINT interrupts immediately.

    Attributes:
      received: the signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # only the main thread can set handlers
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        text = f"\n{self.received.name}: stopping after this step; Ctrl-C again stops at once\n"
        os.write(2, text.encode())  # logging here could interrupt another, half-written message

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
