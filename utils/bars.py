"""Progress bars: as tqdm draws them on a terminal, and a line a minute in files of output."""

import sys
import time
from typing import Any

import tqdm

INTERVAL = 60.0  # seconds between two lines, where stderr is no terminal


class Bar(tqdm.tqdm):
    """`tqdm.tqdm` on stderr, which writes lines instead of carriage returns into a file.

    There it writes one at the beginning, one at the end, and at most one a minute in between.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._terminal, self._next = sys.stderr.isatty(), 0.0
        own = {"file": sys.stderr, "dynamic_ncols": self._terminal}
        if not self._terminal:
            own |= {"ascii": True, "leave": False, "mininterval": INTERVAL}
        super().__init__(*arguments, **(options | own))

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draws the bar, or writes a line if one is due."""
        if self._terminal:
            super().display(msg, pos)
        elif msg is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            self.fp.write(f"{str(self).rstrip()}\n")
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Takes the bar away for something else to be written; lines stay."""
        if self._terminal:
            super().clear(nolock)

    def close(self) -> None:
        """Ends the bar, with a last line."""
        if not self._terminal and not self.disable:
            self._next = 0.0
            self.display()
        super().close()
