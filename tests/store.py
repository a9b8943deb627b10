"""A stand-in for a store of objects: gs://bucket/x is the file $STORE/bucket/x.

As in such a store, no folder has to be made, and nothing can be renamed. As a program it is
main.py, which uploads often and finds the stand-in under gs://.
"""

import os
import sys
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from scorax.utils import remote


class Store(LocalFileSystem):
    """What `etils.epath` gets for gs://; fails while a file $STORE/down exists."""

    protocol = "gcs"

    def __init__(self, finalize_on_close: bool = True, **options):
        super().__init__(**options)

    @classmethod
    def _strip_protocol(cls, path):
        root = Path(os.environ["STORE"])
        if (root / "down").exists():
            raise ConnectionError("the stand-in is down")
        path = os.fspath(path)
        return str(root / path.removeprefix("gs://")) if path.startswith("gs://") else path

    def _open(self, path, mode="rb", **options):
        if "w" in mode:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        return super()._open(path, mode, **options)

    def rm(self, path, *arguments, **options):
        super().rm(path, *arguments, **options)
        for parent in Path(self._strip_protocol(path)).parents:  # a folder is what files are in
            if any(parent.iterdir()):
                break
            parent.rmdir()

    def mkdir(self, path, create_parents=True, **options):
        pass

    def makedirs(self, path, exist_ok=False):
        pass

    def rename(self, *arguments, **options):
        raise NotImplementedError("stores do not rename")


def install(interval: float = 0.5) -> None:
    """Makes gs:// mean the stand-in, and uploads frequent."""
    fsspec.register_implementation("gcs", Store, clobber=True)
    remote.INTERVAL, remote._PAUSE = interval, 0.01


if __name__ == "__main__":
    install()
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    import main

    main.main()
