"""Options of the rows of a table: the config keys that set the parameters of a builder.

The annotation of a parameter names its config key, and no other place repeats it:

    def get_gaussian_blur(width: Annotated[float, Option("eval.operator_width")]) -> Operator: ...

`configured` reads the values from a config; `keys_of` lists the keys that a row, or a whole table,
depends on. Rows are functions, classes or partials; a parameter that a partial has bound is not an
option. `**rest: Annotated[Any, OptionsOf(row)]` adds the options of another row, except for
parameters of the same name.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter
from typing import Any


class Option:
    """The source of a parameter in a config.

    Attributes:
      keys: config keys, "section.field" or "field".
      read: function from the values of these keys to the parameter; by default the single value.
      unset: a value of the single key that keeps the default of the parameter.
      power: the config gives the quantity for data in [0, 1]; in units in which that interval has
        width w, the parameter is w^power times as large.
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
    """Adds the options of another row, in the annotation of `**keywords`."""

    def __init__(self, row: Callable) -> None:
        self.row = row


def options_of(row: Callable) -> dict[str, Option]:
    """Returns the options of a row, by the names of their parameters."""
    bound = row.keywords if isinstance(row, functools.partial) else {}
    found: dict[str, Option] = {}
    for name, parameter in inspect.signature(row, eval_str=True).parameters.items():
        for note in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(note, Option) and name not in bound:
                found[name] = note
            elif isinstance(note, OptionsOf):
                found = {k: v for k, v in options_of(note.row).items() if k not in bound} | found
    return found


def configured(row: Callable, config: Mapping[str, Any], width: float = 1.0) -> dict[str, Any]:
    """Returns the values of a row's options in a config, by the names of their parameters.

    Args:
      row: function, class or partial.
      config: the whole config.
      width: width of the interval [0, 1] in the units of the model; see `Option.power`.
    """
    values = {}
    for name, option in options_of(row).items():
        given = [value_of(config, key) for key in option.keys]
        if option.unset is None or given != [option.unset]:
            value = option.read(*given)
            values[name] = value * width**option.power if option.power else value
    return values


def check_parameters(row: Callable, given: Collection[str] = ()) -> None:
    """Checks that every parameter of a row is an option, has a default or is given by the caller.

    Args:
      row: function, class or partial.
      given: names of the parameters that the caller gives.

    Raises:
      ValueError: for a parameter without a source.
    """
    options, variadic = options_of(row), (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    for name, parameter in inspect.signature(row).parameters.items():
        wanted = parameter.default is Parameter.empty and parameter.kind not in variadic
        if wanted and name not in options and name not in given:
            raise ValueError(
                f"the parameter {name!r} of {name_of(row)} has neither a default nor an option; "
                f'annotate it with Annotated[..., Option("section.{name}")], or give it a default'
            )


def name_of(row: Callable) -> str:
    """Returns the name of a function or class, or of the one that a partial calls."""
    return row.__name__ if hasattr(row, "__name__") else name_of(row.func)


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """Returns the value of "section.field", or of "field".

    Raises:
      ValueError: if the config has no such key.
    """
    try:
        return functools.reduce(lambda node, part: node[part], key.split("."), config)
    except KeyError as e:
        raise ValueError(
            f"a row has the option {key!r}, which no config has; declare it in configs/base.py"
        ) from e


def keys_of(rows: Callable | Mapping[str, Callable]) -> tuple[str, ...]:
    """Returns the config keys that a row, or any row of a table, depends on, each once."""
    several = rows.values() if isinstance(rows, Mapping) else [rows]
    keys = (key for row in several for option in options_of(row).values() for key in option.keys)
    return tuple(dict.fromkeys(keys))
