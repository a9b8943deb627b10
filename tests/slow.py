"""Which cases a quick run leaves out: `pytest -m "not slow"`."""

import itertools
from collections.abc import Callable, Iterable

import pytest


def but_slow(values: Iterable, fast: Callable[[object], bool], ids=None) -> list:
    """Parameters of which all but the fast ones are slow."""
    ids = ids or (lambda value: None)
    return [pytest.param(v, marks=[] if fast(v) else [pytest.mark.slow], id=ids(v)) for v in values]


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
