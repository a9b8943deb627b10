"""The order in which parts are applied to a config, and a decorator that holds them to it.

A part builds on what the parts before it have set: `mnist` reads the range of the data, which the
SDE decides, and `edm` replaces what the network came with. In another order the same parts would
give other values. So each part is of a kind, a config takes at most one part of a kind, and the
kinds follow each other as in `ORDER`. Anything else raises ValueError. The parts that a part calls
itself may come in any order, as long as the config gets no second part of a kind from another.
"""

import dataclasses
import functools
from collections.abc import Callable

import ml_collections

ORDER = ("SDE", "network", "noise levels", "data", "size", "objective", "sampler", "variant")


@dataclasses.dataclass
class _Applied:
    """The parts applied to one config so far."""

    # The part that the config file is calling, the part which that one is calling, and so on.
    running: list[str] = dataclasses.field(default_factory=list)
    names: dict[str, str] = dataclasses.field(default_factory=dict)  # kind -> part
    callers: dict[str, str] = dataclasses.field(default_factory=dict)  # kind -> part of the file


def part(kind: str) -> Callable[[Callable], Callable]:
    """Decorates a part `(c, ...) -> None` of a kind, a row of `ORDER`, to hold it to the order."""
    return functools.partial(_in_order, kind)


def _in_order(kind: str, function: Callable) -> Callable:
    @functools.wraps(function)
    def checked(c: ml_collections.ConfigDict, *args: object, **kwargs: object) -> None:
        applied = vars(c).setdefault("_applied", _Applied())  # an attribute, which is no key
        applied.running.append(function.__name__)
        try:
            _check(applied, kind)
            function(c, *args, **kwargs)
        finally:
            applied.running.pop()

    return checked


def _check(applied: _Applied, kind: str) -> None:
    """Raises ValueError unless the innermost running part may come now, and else notes it."""
    caller, name = applied.running[0], applied.running[-1]
    what = f"parts.{caller}(c)" + (f", which calls parts.{name}(c)," if name != caller else "")
    if applied.callers.get(kind, caller) != caller and applied.names[kind] != name:
        raise ValueError(
            f"{what} comes after parts.{applied.callers[kind]}(c), but a config takes one part for "
            f"the {kind}; leave one of the two out"
        )
    later = [k for k in ORDER[ORDER.index(kind) + 1 :] if applied.callers.get(k, caller) != caller]
    if later and name == caller:
        raise ValueError(
            f"{what} comes after parts.{applied.callers[later[0]]}(c), which builds on it; call it "
            f"before that, as parts come in the order {', '.join(ORDER)}"
        )
    applied.names.setdefault(kind, name)
    applied.callers.setdefault(kind, caller)
