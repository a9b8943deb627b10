"""Stops a run on a signal without losing work; loads nothing, to be ready at once."""

import contextlib
import os
import signal
from typing import Any

_received: list[signal.Signals] = []


def stop_at_once() -> None:
    """Makes SIGINT and SIGTERM end the program, as long as nothing has begun that could be lost.

    Python raises KeyboardInterrupt instead, which the imports of large libraries turn into other
    errors, or drop.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(number: int, frame: Any) -> None:
    os.write(2, f"\n{signal.Signals(number).name}: stopped\n".encode())
    os._exit(128 + number)


def received() -> signal.Signals | None:
    """The last signal that stopped some work of this process."""
    return _received[-1] if _received else None


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
        _received.append(self.received)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        text = f"\n{self.received.name}: stopping after this step; Ctrl-C again stops at once\n"
        os.write(2, text.encode())  # logging here could interrupt another, half-written message

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
