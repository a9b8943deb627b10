"""The order in which parts are applied to a config, and a decorator that enforces it.

A part builds on values set by earlier parts: `mnist` reads the range of the data, which the SDE's
part sets, and `edm` replaces settings of the network's part. In a different order the same parts
would give different values. Therefore every part has a kind, a config takes at most one part of
each kind, and the kinds must come in the order of `ORDER`. Anything else raises ValueError. A part
may call other parts in any order, as long as no other part adds a second part of the same kind.
"""

import dataclasses
import functools
from collections.abc import Callable

import ml_collections

ORDER = ("SDE", "network", "noise levels", "data", "size", "objective", "sampler", "variant")


@dataclasses.dataclass
class _Applied:
    """The parts applied to one config so far."""

    # The call stack: the part called by the config file, the part called by that part, and so on.
    running: list[str] = dataclasses.field(default_factory=list)
    names: dict[str, str] = dataclasses.field(default_factory=dict)  # kind -> part
    # kind -> part called by the config file: the part of this kind, or the one that led to it
    callers: dict[str, str] = dataclasses.field(default_factory=dict)


def part(kind: str) -> Callable[[Callable], Callable]:
    """Decorates a part `(c, ...) -> None` to enforce the order; `kind` is an item of `ORDER`."""
    return functools.partial(_in_order, kind)


def _in_order(kind: str, function: Callable) -> Callable:
    @functools.wraps(function)
    def checked(c: ml_collections.ConfigDict, *args: object, **kwargs: object) -> None:
        applied = vars(c).setdefault("_applied", _Applied())  # an attribute of c, not a key
        applied.running.append(function.__name__)
        try:
            _check(applied, kind)
            function(c, *args, **kwargs)
        finally:
            applied.running.pop()

    return checked


def _check(applied: _Applied, kind: str) -> None:
    """Records the innermost running part; raises ValueError if it must not come now."""
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
