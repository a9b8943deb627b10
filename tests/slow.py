"""Which cases a quick run leaves out: `pytest -m "not slow"`.

Whole runs and most combinations are marked where they are defined. Whatever else takes longer than
1.6 seconds is listed in slow_cases.txt, to which this command adds:

    pytest -q -m "not slow" --durations=0 --durations-min=1.6 | python tests/slow.py
"""

import itertools
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest


def but_slow(values: Iterable, fast: Callable[[object], bool], ids=None) -> list:
    """Parameters, tuples for several arguments, of which all but the fast ones are slow."""

    def case(value):
        marks = [] if fast(value) else [pytest.mark.slow]
        each = value if isinstance(value, tuple) else (value,)
        return pytest.param(*each, marks=marks, id=ids and ids(value))

    return [case(value) for value in values]


def crossed(*tables: Iterable) -> list:
    """Every combination of entries; those off the diagonals are slow.

    A quick run so has each entry of each table, and the whole suite each combination.
    """
    tables = [list(table) for table in tables]
    longest = max(len(table) for table in tables)
    fast = {tuple(table[i % len(table)] for table in tables) for i in range(longest)}
    return [
        pytest.param(*entries, marks=[] if entries in fast else [pytest.mark.slow])
        for entries in itertools.product(*tables)
    ]


if __name__ == "__main__":
    listed = Path(__file__).with_name("slow_cases.txt")
    found = re.findall(r"^[0-9.]+s (?:call|setup) +(.*)$", sys.stdin.read(), re.MULTILINE)
    listed.write_text("\n".join(sorted({*listed.read_text().splitlines(), *found})) + "\n")
