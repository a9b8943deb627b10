"""Options of the rows of a table: which config key gives a parameter of a builder.

A parameter says in its annotation where a config has it,

    def get_gaussian_blur(width: Annotated[float, Option("eval.operator_width")]) -> Operator: ...

and no other place repeats it. `configured` reads the values from a config; `keys_of` lists the keys
that a row, or a whole table, depends on. Rows are functions, classes or partials; a parameter
that a partial has bound is no longer an option. `**rest: Annotated[Any, OptionsOf(row)]` adds the
options of another row, unless a parameter has the same name.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any


class Option:
    """Where a parameter comes from.

    Attributes:
      keys: config keys, "section.field" or "field".
      read: the values of these keys -> the parameter; the one value itself by default.
      unset: the value of a single key that leaves the parameter's own default as it is.
      power: for a quantity that the config gives for data in [0, 1]: in units where the width of
        that interval is w, it is w^power times as large.
    """

    def __init__(
        self,
        *keys: str,
        read: Callable[..., Any] = lambda value: value,
        unset: Any = None,
        power: int = 0,
    ) -> None:
        self.keys, self.read, self.unset, self.power = keys, read, unset, power


class OptionsOf:
    """Stands for the options of another row, in the annotation of `**keywords`."""

    def __init__(self, row: Callable) -> None:
        self.row = row


def options_of(row: Callable) -> dict[str, Option]:
    """The options of a row by the name of their parameter."""
    bound = row.keywords if isinstance(row, functools.partial) else {}
    found: dict[str, Option] = {}
    for name, parameter in inspect.signature(row).parameters.items():
        for note in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(note, Option) and name not in bound:
                found[name] = note
            elif isinstance(note, OptionsOf):
                found = {k: v for k, v in options_of(note.row).items() if k not in bound} | found
    return found


def configured(row: Callable, config: Mapping[str, Any], width: float = 1.0) -> dict[str, Any]:
    """The options of a row as a config has them, by the name of their parameter.

    Args:
      row: function, class or partial.
      config: the whole config.
      width: of the interval [0, 1] in the units of the model, see `Option.power`.
    """
    values = {}
    for name, option in options_of(row).items():
        given = [value_of(config, key) for key in option.keys]
        if option.unset is None or given != [option.unset]:
            value = option.read(*given)
            values[name] = value * width**option.power if option.power else value
    return values


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """The value of "section.field", or of "field".

    Raises:
      ValueError: for a key that no config has.
    """
    try:
        return functools.reduce(lambda node, part: node[part], key.split("."), config)
    except KeyError as e:
        raise ValueError(
            f"a row has the option {key!r}, which no config has; declare it in configs/base.py"
        ) from e


def keys_of(rows: Callable | Mapping[str, Callable]) -> tuple[str, ...]:
    """The config keys that a row, or the rows of a table, depend on, each once."""
    several = rows.values() if isinstance(rows, Mapping) else [rows]
    keys = (key for row in several for option in options_of(row).values() for key in option.keys)
    return tuple(dict.fromkeys(keys))
