"""Keeps a single copy of every module, even if the package's folder is on `sys.path`.

With the repository as the working directory, `import sde_lib` works as in score_sde. It must return
`scorax.sde_lib` and not a second copy of the module, because code that uses one copy of a class or
table would not recognise the other. Names that Python finds elsewhere first, such as Hugging Face's
`datasets`, do not belong to this package and are left alone.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType


def _has_code(entry: os.DirEntry) -> bool:
    """Whether a directory entry is a module or a package, and not the package's own file."""
    if entry.is_dir():
        return os.path.exists(os.path.join(entry.path, "__init__.py"))
    return entry.name.endswith(".py") and entry.name != "__init__.py"


_ROOT = os.path.realpath(os.path.dirname(os.path.dirname(__file__)))
_TOPS = {entry.name.removesuffix(".py") for entry in os.scandir(_ROOT) if _has_code(entry)}


def _is_ours(name: str, file: str | None) -> bool:
    """Whether the module `name` was found in the file that has this name in our package."""
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
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just replaced the module's own spec.
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Makes later imports return the single copy, and replaces copies imported before."""
    sys.meta_path.insert(0, _Finder())
    for name, module in sorted(sys.modules.items()):
        if _is_ours(name, getattr(module, "__file__", None)):
            sys.modules[name] = importlib.import_module(f"scorax.{name}")
