"""Tables of numbers over time: CSV, Parquet and npz files, checked, with gaps as NaN.

A table has a row for each point in time and a column for each channel. A column of time stamps, if
there is one, has to be regular. Errors name the line of the file, counted from 1.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SUFFIXES = (".csv", ".npz", ".parquet")
_TIMES = ("date", "datetime", "day", "index", "month", "t", "time", "timestamp", "year")
_SHOWN = 5  # largest number of lines in a message


class Table(NamedTuple):
    """Numbers over time.

    Attributes:
      path: the file.
      values: float32 (N, T, C), one or more series of the same length; NaN where there is a gap.
      columns: names of the channels; empty for arrays.
      times: time stamps (T,) as they are in the file, or None.
      first_line: line of the file that holds the first row.
    """

    path: Path
    values: np.ndarray
    columns: tuple[str, ...] = ()
    times: np.ndarray | None = None
    first_line: int = 1

    def describe(self, rows: np.ndarray, series: int = 0) -> str:
        """Names some rows of a series, as in "line 7, 9 of FILE" or "row 0 of series 3 of FILE"."""
        if self.columns:
            return f"{_listed('line', rows + self.first_line)} of {self.path}"
        of = f" of series {series}" if len(self.values) > 1 else ""
        return f"{_listed('row', rows)}{of} of {self.path}"


def read_table(path: Path, columns: tuple[str, ...] = (), wanted: int = 0) -> Table:
    """Reads a file.

    Args:
      path: a .csv or .parquet file with names of columns, or an .npz file with an array `series` of
        shape (T,), (T, C) or (N, T, C).
      columns: names of the columns to use, in this order; (): all, except for time stamps.
      wanted: number of channels that are needed; 0 if any number is right.

    Raises:
      ValueError: for a file that cannot be read, text in a column, time stamps that are not
        regular, infinite numbers, or the wrong number of channels.
    """
    table = _read_npz(path) if path.suffix.lower() == ".npz" else _read_frame(path, columns)
    found = table.values.shape[-1]
    if wanted and found != wanted:
        names = f" ({', '.join(table.columns)})" if table.columns else ""
        raise ValueError(
            f"{path} has {found} channels{names}, but data.num_channels={wanted}; set "
            f"--config.data.num_channels={found}, or choose some with --config.data.columns"
        )
    for series in range(len(table.values)):
        rows = np.flatnonzero(np.isinf(table.values[series]).any(-1))
        if len(rows):
            raise ValueError(f"{table.describe(rows, series)}: infinite; correct or remove it")
    return table


def check_no_gaps(table: Table) -> None:
    """Raises ValueError if a number is missing; the message lists where."""
    for series in range(len(table.values)):
        missing = np.isnan(table.values[series])
        rows = np.flatnonzero(missing.any(-1))
        if len(rows):
            names = [table.columns[k] for k in np.flatnonzero(missing.any(0)) if table.columns]
            of = f" of column {', '.join(names)}" if names else ""
            raise ValueError(
                f"{table.describe(rows, series)}: no number{of}; training needs series without "
                "gaps, so fill them or cut the file there (a trained network fills them in by the "
                "task inpaint with --config.eval.measurements)"
            )


def _read_npz(path: Path) -> Table:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            name = "series" if "series" in names else names[0] if len(names) == 1 else None
            x = None if name is None else file[name]
    except Exception as error:  # zipfile, zlib and NumPy raise many types for damaged files
        raise ValueError(f"{path} cannot be read as arrays ({error}); write it again") from error
    if x is None:
        raise ValueError(f"{path} holds {', '.join(names) or 'nothing'}; name the array 'series'")
    if x.dtype.kind not in "uif" or not 1 <= x.ndim <= 3 or not x.size:
        raise ValueError(
            f"{path}: {name} is {x.dtype} {x.shape}; give numbers (T,), (T, C) or (N, T, C)"
        )
    x = x[:, None] if x.ndim == 1 else x
    return Table(path, (x if x.ndim == 3 else x[None]).astype(np.float32))


def _read_frame(path: Path, columns: tuple[str, ...]) -> Table:
    frame, first_line = _open_frame(path)
    frame.columns = [str(name).strip() for name in frame.columns]
    times = None
    if columns:
        missing = [name for name in columns if name not in frame.columns]
        if missing:
            raise ValueError(
                f"data.columns names {missing[0]!r}, but {path} has the columns "
                f"{', '.join(frame.columns)}"
            )
        frame = frame[list(columns)]
    elif _is_time(frame.iloc[:, 0], frame.columns[0]):
        times, frame = frame.iloc[:, 0], frame.iloc[:, 1:]
        _check_regular(times, path, first_line)
        times = times.to_numpy()
    if not frame.size:
        raise ValueError(f"{path} holds no numbers; give a row for each point in time")
    numbers = [_to_numbers(frame[name], path, first_line) for name in frame.columns]
    values = np.stack(numbers, 1).astype(np.float32)
    return Table(path, values[None], tuple(frame.columns), times, first_line)


def _open_frame(path: Path) -> tuple[Any, int]:
    """The table as pandas reads it, and the line of its first row."""
    import pandas  # takes a second to import, so only where it is used

    try:
        if path.suffix.lower() == ".parquet":
            return pandas.read_parquet(path), 1
        with open(path, encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)
        named = any(_to_number(word) is None for word in header.split(separator))
        frame = pandas.read_csv(
            path,
            sep=separator,
            header=0 if named else None,
            skip_blank_lines=False,  # or the lines in messages would be wrong
            encoding="utf-8-sig",
        )
        return frame, 2 if named else 1
    except (OSError, ValueError, UnicodeError, ImportError) as error:  # pandas' errors are of these
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"{path} cannot be read as a table: {reason}") from error


def _to_number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _to_numbers(column: Any, path: Path, first_line: int) -> np.ndarray:
    """A column as float64 (T,); gaps are NaN.

    Raises:
      ValueError: naming lines, for anything that is no number.
    """
    import pandas

    numbers = pandas.to_numeric(column, errors="coerce")
    blank = column.isna() | (column.astype(str).str.strip() == "")
    rows = np.flatnonzero(numbers.isna() & ~blank)
    if len(rows):
        raise ValueError(
            f"column {column.name!r}, {_listed('line', rows + first_line)} of {path}: "
            f"{str(column.iloc[rows[0]])!r} is no number; correct it, or choose other columns with "
            "--config.data.columns"
        )
    return numbers.to_numpy(np.float64)


def _is_time(column: Any, name: str) -> bool:
    """Whether the first column of a table holds time stamps."""
    import pandas

    if pandas.api.types.is_datetime64_any_dtype(column) or name.lower() in _TIMES:
        return True
    return not pandas.api.types.is_numeric_dtype(column) and _to_dates(column.head(3)) is not None


def _to_dates(column: Any) -> Any:
    import pandas

    try:
        return pandas.to_datetime(column)
    except (ValueError, TypeError):
        return None


def _check_regular(times: Any, path: Path, first_line: int) -> None:
    """Raises ValueError unless the time stamps have equal steps, days of business or months too."""
    import pandas

    numeric = pandas.api.types.is_numeric_dtype(times)
    stamps = times if numeric else _to_dates(times)
    rows = np.arange(len(times)) if stamps is None else np.flatnonzero(stamps.isna())
    if len(rows):
        raise ValueError(
            f"column {times.name!r}, {_listed('line', rows + first_line)} of {path}: no time "
            "stamp; correct it, or choose the other columns with --config.data.columns"
        )
    if numeric:
        stamps = stamps.to_numpy(np.float64)
    elif len(stamps) > 2 and _has_frequency(stamps):  # months differ in length, and are regular
        return
    else:
        stamps = stamps.to_numpy("datetime64[ns]").astype(np.int64)
    steps = np.diff(stamps)
    if len(steps) < 2:
        return
    usual = np.median(steps)
    odd = np.flatnonzero(np.abs(steps - usual) > 1e-3 * abs(usual)) if usual > 0 else [0]
    if len(odd):
        row = int(odd[0]) + 1
        raise ValueError(
            f"column {times.name!r}, line {row + first_line} of {path}: the step from "
            f"{times.iloc[row - 1]} to {times.iloc[row]} is not the usual one, and a series needs "
            "regular time stamps; interpolate to equal steps, or, if the rows are to count as "
            "equally spaced, choose the other columns with --config.data.columns"
        )


def _has_frequency(stamps: Any) -> bool:
    import pandas

    with pandas.option_context("future.infer_freq_returns_offset", True):
        return pandas.infer_freq(stamps) is not None


def _listed(word: str, numbers: np.ndarray) -> str:
    shown = ", ".join(str(n) for n in numbers[:_SHOWN])
    more = f", ... ({len(numbers)} in all)" if len(numbers) > _SHOWN else ""
    return f"{word}{'s' if len(numbers) > 1 else ''} {shown}{more}"
