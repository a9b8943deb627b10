"""The values of pixels: bytes, more than 8 bits, and real numbers.

Bytes stay bytes. Everything else becomes float32 in [0, 1] by one rule, so that no bit is lost: the
range `data.value_range` or, where that is not set, the full range of the type, 0 ... 65535 for 16
bits and 0 ... 1 for real numbers, is mapped to [0, 1]. A value outside the range is an error.
"""

from typing import NamedTuple

import numpy as np

BACKGROUNDS = ("white", "black", "refuse")
_REMEDY = "set --config.data.value_range=LOW,HIGH to the values of black and white"


class Values(NamedTuple):
    """How pixels are read: fields of the section `data` of a config.

    Attributes:
      value_range: (low, high), the values of black and white; () for the full range of the type.
      background: the background over which transparent images are composed, or "refuse".
    """

    value_range: tuple[float, ...] = ()
    background: str = "white"

    def check(self) -> "Values":
        """Returns these values.

        Raises:
          ValueError: for an impossible range or background.
        """
        span = self.value_range
        if span and not (len(span) == 2 and span[0] < span[1]):
            raise ValueError(
                f"data.value_range={tuple(span)} must be empty, or a low and a high value"
            )
        if self.background not in BACKGROUNDS:
            raise ValueError(
                f"unknown data.background {self.background!r}; choose from: "
                f"{', '.join(BACKGROUNDS)}"
            )
        return self

    def range_of(self, dtype: np.dtype, what: str = "data") -> tuple[float, float]:
        """Returns the values of black and white of pixels of a type.

        Raises:
          ValueError: for a type whose full range is no sensible range of pixels; names `what`.
        """
        dtype = np.dtype(dtype)
        if self.value_range:
            return self.value_range[0], self.value_range[1]
        if dtype in (np.uint8, np.uint16):
            return 0, np.iinfo(dtype).max
        if dtype.kind == "f":
            return 0, 1
        raise ValueError(f"{what} of type {dtype}: the range of the values is unknown; {_REMEDY}")

    def levels(self, dtype: np.dtype) -> int:
        """Returns the number of values that a pixel of a type can have; 0 for real numbers."""
        low, high = self.range_of(dtype)
        whole = np.dtype(dtype).kind in "ui" and float(high - low).is_integer()
        return int(high - low) + 1 if whole else 0

    def to_unit(self, x: np.ndarray, what: str) -> np.ndarray:
        """Maps pixels to [0, 1]: float32; bytes without a `value_range` stay as they are.

        Raises:
          ValueError: for a value outside the range; the message begins with `what`.
        """
        if x.dtype == np.uint8 and not self.value_range:
            return x
        low, high = self.range_of(x.dtype, what)
        least, most = x.min(), x.max()
        if not (least >= low and most <= high):  # also if one of them is NaN
            found = f"{least:g} ... {most:g}"
            raise ValueError(
                f"{what} has the values {found}, but {low:g} ... {high:g} is expected; {_REMEDY}"
            )
        return ((x.astype(np.float64) - low) / (high - low)).astype(np.float32)


def on_levels(x: np.ndarray, levels: int) -> np.ndarray:
    """Rounds pixels in [0, 1] to the nearest of equally spaced levels; bytes stay as they are."""
    if x.dtype == np.uint8 or not levels:
        return x
    return (np.rint(x.astype(np.float64) * (levels - 1)) / (levels - 1)).astype(np.float32)
