"""Looking up the rows of tables by name; loads nothing, so that command lines start fast."""

from collections.abc import Mapping
from typing import Any, TypeVar

Row = TypeVar("Row")


def lookup(table: dict[str, Row], name: Any, what: str) -> Row:
    """Returns `table[name]`.

    Args:
      table: named choices.
      name: one of the names.
      what: what the table holds, for the message.

    Raises:
      ValueError: for an unknown name; the message lists the known ones.
    """
    check_name(table, name, what)
    return table[name]


def check_name(table: Mapping[str, Any], name: Any, what: str) -> None:
    """Raises the ValueError of `lookup` if `table` does not have this name."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; choose from: {', '.join(table)}")
