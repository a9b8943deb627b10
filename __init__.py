"""scorax: score-based diffusion models in JAX.

This folder, the root of the repository, is the package; its modules are imported when they are
first used, as in `scorax.sde_lib.VPSDE()`. Python's tour of it is docs/python.md.
"""

import importlib
from typing import Any

from scorax.utils import one_copy

__version__ = "0.1.0"

# name -> the module that has it
_PUBLIC = {"load": "scorax.loading", "Model": "scorax.loading"}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as e:
        if e.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name) from e


one_copy.install()
