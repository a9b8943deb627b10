"""Progress bars: as tqdm draws them on a terminal, and a line a minute in files of output."""

import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import tqdm

INTERVAL = 60.0  # seconds between two lines, where stderr is no terminal
TICK = 1.0  # seconds between two drawings, on a terminal
_shown: "weakref.WeakSet[Bar]" = weakref.WeakSet()  # on a terminal
_ticker = threading.Thread(target=lambda: _tick(), daemon=True)


class Bar(tqdm.tqdm):
    """`tqdm.tqdm` on stderr, which writes lines instead of carriage returns into a file.

    There it writes one at the beginning, one at the end, and at most one a minute in between. On a
    terminal its time goes on even while nothing gets done.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._terminal, self._next = sys.stderr.isatty(), 0.0
        own = {"file": sys.stderr, "dynamic_ncols": self._terminal}
        if not self._terminal:
            own |= {"ascii": True, "leave": False, "mininterval": INTERVAL}
        super().__init__(*arguments, **(options | own))
        if self._terminal and not self.disable:
            _shown.add(self)
            with contextlib.suppress(RuntimeError):  # it has been started before
                _ticker.start()

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draws the bar, or writes a line if one is due; returns whether tqdm may take it away."""
        if self._terminal:
            return super().display(msg, pos)
        if msg is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            self.fp.write(f"{str(self).rstrip()}\n")
            self.fp.flush()
        return False

    def clear(self, nolock: bool = False) -> None:
        """Takes the bar away for something else to be written; lines stay."""
        if self._terminal:
            super().clear(nolock)

    def close(self) -> None:
        """Ends the bar, with a last line."""
        if not self._terminal and not self.disable:
            self._next = 0.0
            self.display()
        with self.get_lock():
            _shown.discard(self)
            super().close()


def _tick() -> None:
    """Draws the bars once a second."""
    while True:
        time.sleep(TICK)
        for bar in list(_shown):
            with bar.get_lock():
                if bar in _shown and time.time() >= bar.start_t + bar.delay:
                    bar.delay = 0  # else tqdm would not take it away
                    bar.refresh()


@contextlib.contextmanager
def elapsing(what: str) -> Iterator[None]:
    """Shows on a terminal how long something takes, from its second second on."""
    if not sys.stderr.isatty():
        yield
        return
    with Bar(desc=what, bar_format="{desc}: {elapsed}", leave=False, delay=1):
        yield


def close_all() -> None:
    """Takes away what is shown, for something else that speaks for itself."""
    for bar in list(_shown):
        bar.close()
