"""One copy of every module, also where the folder of the package is on `sys.path`.

Whoever starts Python in the repository can write `import sde_lib`, as with score_sde. That has to
be `scorax.sde_lib` and no second module: two copies of a table of rows, or of a class, would not
know each other. A name that is found anywhere else first, such as Hugging Face's `datasets`, is
none of ours and is left alone.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType

_ROOT = os.path.realpath(os.path.dirname(os.path.dirname(__file__)))
_TOPS = {entry.name.removesuffix(".py") for entry in os.scandir(_ROOT)} - {"__init__"}


def _is_ours(name: str, file: str | None) -> bool:
    """Whether a top-level module, or one below it, is the file of that place in this package."""
    if name.partition(".")[0] not in _TOPS or not file:
        return False
    place = os.path.join(_ROOT, *name.split("."))
    return os.path.realpath(file) in (f"{place}.py", os.path.join(place, "__init__.py"))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers `import sde_lib` with the module `scorax.sde_lib`."""

    def find_spec(
        self, name: str, path: list[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in _TOPS:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        if found is None or not _is_ours(name, found.origin):
            return None
        return importlib.util.spec_from_loader(name, self, origin=found.origin)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"scorax.{spec.name}")
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # which the import system has just replaced


def install() -> None:
    """Lets later imports find the one copy, and puts it in the place of earlier ones."""
    sys.meta_path.insert(0, _Finder())
    for name, module in sorted(sys.modules.items()):
        if _is_ours(name, getattr(module, "__file__", None)):
            sys.modules[name] = importlib.import_module(f"scorax.{name}")
