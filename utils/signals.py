"""Stops a run on a signal without losing work; loads nothing, to be ready at once."""

import concurrent.futures
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_received: list[signal.Signals] = []
_open: list["StopSignal"] = []
_left: list[threading.Thread] = []  # the work of `wait_for` that a signal has ended the waiting for
_POLL = 0.1  # seconds
_only_waiting = False  # whether the main thread may be interrupted at once


class Stopped(Exception):
    """A signal has ended the work."""


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


def is_busy() -> bool:
    """Whether work that nobody waits for any more still goes on."""
    return any(thread.is_alive() for thread in _left)


def has_arrived() -> bool:
    """Whether a signal has arrived for the innermost `StopSignal`; may be asked in any thread."""
    return bool(_open) and _open[-1].has_arrived()


def wait_for(work: Callable[[], T]) -> T:
    """Calls `work` in a thread and waits for its result, so that a signal ends the waiting at once.

    Python handles a signal between two instructions of the main thread, and a compiler may take
    minutes for one. Outside a `StopSignal`, or the main thread, this only calls `work`.

    Raises:
      Stopped: if a signal has arrived. `work` goes on, and nobody learns what it returns.
    """
    global _only_waiting
    if not _open or threading.current_thread() is not threading.main_thread():
        return work()
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as e:
            outcome.set_exception(e)

    _only_waiting = True
    try:
        if _open[-1].received is not None:
            raise Stopped
        thread = threading.Thread(target=run, daemon=True)
        _left.append(thread)
        thread.start()
        while True:
            # Not without a limit: the system may give the signal to another thread, and then
            # nothing wakes this one.
            if concurrent.futures.wait([outcome], timeout=_POLL).done:
                _left.remove(thread)
                return outcome.result()
    finally:
        _only_waiting = False


class StopSignal:
    """Turns SIGINT and SIGTERM into a flag that a loop can read between two steps.

    A call of `wait_for` ends at once, and a callback of a compiled program can ask `has_arrived`. A
    second SIGINT interrupts immediately.

    Attributes:
      received: the signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[int, Any] = {}
        # Python writes a byte as soon as a signal arrives, whatever the main thread does.
        self._told, self._tell = socket.socketpair()
        for end in (self._told, self._tell):
            end.setblocking(False)
        self._before = -1

    def has_arrived(self) -> bool:
        """Whether a signal has arrived, even if the main thread has not yet handled it."""
        if self.received is not None:
            return True
        with contextlib.suppress(BlockingIOError):
            return bool({signal.SIGINT, signal.SIGTERM} & set(self._told.recv(64, socket.MSG_PEEK)))
        return False

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # only the main thread can set handlers
                self._previous[number] = signal.signal(number, self._handle)
        with contextlib.suppress(ValueError):
            self._before = signal.set_wakeup_fd(self._tell.fileno(), warn_on_full_buffer=False)
        _open.append(self)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        global _only_waiting
        self.received = signal.Signals(number)
        _received.append(self.received)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        when = "" if _only_waiting else " after this step"
        text = f"\n{self.received.name}: stopping{when}; Ctrl-C again stops at once\n"
        os.write(2, text.encode())  # logging here could interrupt another, half-written message
        if _only_waiting:
            _only_waiting = False
            raise Stopped

    def __exit__(self, *exception: object) -> None:
        _open.remove(self)
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(self._before)
        self._told.close()
        self._tell.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
