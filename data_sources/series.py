"""Series of the user's own, cut into windows: a CSV, Parquet or npz file, or a folder with splits.

A file is one long series, or in npz (N, T, C) many of the same length. Windows of `length` points
start every `stride` points. Of a single long series, the last tenth, or as much as a window needs,
is the split "test"; of ten or more series, it is the last tenth of them. Where there is too little
for that, both splits are the same windows. A folder has the files train and test, as in
`data_sources.arrays.find_file`.
"""

import zlib

import numpy as np

from scorax.data_sources.arrays import find_file, names_split
from scorax.data_sources.source import Source
from scorax.data_sources.tables import SUFFIXES, Table, check_no_gaps, read_table


class Windows(Source):
    """Windows of series, which may overlap.

    Attributes:
      columns: names of the channels; empty if they have none.
    """

    kind, levels = "series", 0

    def __init__(self, series: np.ndarray, length: int, stride: int, held_out: bool = True):
        """Takes series: float32 (N, T, C) with T >= length."""
        self._series, self._length, self._stride = series, length, stride
        self._each = (series.shape[1] - length) // stride + 1
        self.held_out, self.columns = held_out, ()

    def __len__(self) -> int:
        return len(self._series) * self._each

    def __getitem__(self, i: int) -> dict:
        """Returns window i: {"image": float32 (length, C), "label": 0}."""
        series, number = divmod(i, self._each)
        start = number * self._stride
        return {
            "image": self._series[series, start : start + self._length],
            "label": np.int32(0),
        }

    def all_labels(self) -> np.ndarray:
        """Returns zeros, int32 (N,)."""
        return np.zeros(len(self), np.int32)

    def sizes(self) -> np.ndarray:
        """Returns a checksum of all series: reading memory costs little."""
        return np.array([zlib.crc32(np.ascontiguousarray(self._series))])


def load(
    dir: str, split: str, length: int, stride: int, channels: int, columns: tuple[str, ...] = ()
) -> Windows:
    """Returns the windows of a split, each (length, channels).

    Raises:
      ValueError: for a file that is missing, cannot be read or has gaps, see `tables`; if it is
        shorter than a window; for a length or stride that is not positive.
    """
    if length < 1 or stride < 1:
        raise ValueError(
            f"data.length={length} and data.stride={stride} must be positive: points in a window, "
            "and from one window to the next; configs/edm/series.py has 24 and 1"
        )
    path = find_file(dir, split, SUFFIXES)
    table = read_table(path, columns, channels)
    check_no_gaps(table)
    if table.values.shape[1] < length:
        raise ValueError(
            f"{path} has {table.values.shape[1]} points in time, fewer than a window of "
            f"data.length={length}; set --config.data.length to at most as many"
        )
    part, held_out = (table.values, True) if names_split(path) else _split(table, split, length)
    source = Windows(part, length, stride, held_out)
    source.columns = table.columns
    return source


def _split(table: Table, split: str, length: int) -> tuple[np.ndarray, bool]:
    """The series of a split, (N, T, C), and whether the splits share nothing."""
    x = table.values
    n, points, _ = x.shape
    if n >= 10:
        cut = n - n // 10
        return (x[:cut] if split == "train" else x[cut:]), True
    cut = points - max(length, points // 10)
    if cut < length:
        return x, False
    return (x[:, :cut] if split == "train" else x[:, cut:]), True
