"""The folder of a run: checked before any work begins, and claimed by one training at a time."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import TextIO

from scorax.utils import parallel
from scorax.utils.logging import read_json

_FOLDERS = ("checkpoints", "samples", "tensorboard")
_FILES = ("config.json", "versions.json", "progress.json", "stdout.txt")
_LOCK = ".lock"
_log = logging.getLogger(__name__)


def check_folder(workdir: str | os.PathLike, *folders: str) -> None:
    """Checks that a run can write to its folder, which need not exist, and writes nothing.

    Args:
      workdir: directory of the run.
      folders: names of more folders in `workdir` than a training writes.

    Raises:
      ValueError: if a file is where a folder has to be, or a folder where a file has to be, or if
        the process may not write there.
    """
    run = pathlib.Path(workdir)
    for folder in (*reversed(run.absolute().parents), run, *(run / f for f in _FOLDERS + folders)):
        if os.path.lexists(folder) and not folder.is_dir():
            what = "a link to nothing" if not folder.exists() else "a file"
            raise ValueError(
                f"{folder} is {what}, where this run needs a folder; move it away, or use another "
                "--workdir"
            )
        if folder.is_dir() and folder not in run.absolute().parents:
            _check_writable(folder)
    for name in _FILES:
        if os.path.lexists(run / name) and not (run / name).is_file():
            raise ValueError(f"{run / name} is no file; move it away, or use another --workdir")
    if not run.exists():
        _check_writable(next(p for p in run.absolute().parents if p.exists()))


def _check_writable(folder: pathlib.Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"{folder} cannot be written to by this user; change its permissions, or use another "
            "--workdir"
        )


@contextlib.contextmanager
def claim(workdir: str | os.PathLike) -> Iterator[None]:
    """Keeps other trainings out of the folder of a run until the block ends, or the process dies.

    The primary process holds a lock of the operating system on `workdir/.lock`; the file stays, and
    means nothing without the lock. In a file system without locks, a warning says so instead.

    Raises:
      ValueError: if another process holds the lock.
    """
    with contextlib.ExitStack() as stack:
        owner = ""
        if parallel.is_primary():
            os.makedirs(workdir, exist_ok=True)
            file = stack.enter_context(open(pathlib.Path(workdir, _LOCK), "a+"))
            owner = _lock(file)
        if parallel.any_process(bool(owner)):
            raise ValueError(
                f"{workdir} is in use by another training ({owner or 'as another process found'}); "
                "wait for its end, or use another --workdir"
            )
        yield


def _lock(file: TextIO) -> str:
    """Locks an open file and writes this process into it; returns who holds the lock instead."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            _log.warning("%s cannot be locked (%s); start only one training", file.name, error)
            return ""
        file.seek(0)
        return file.read().strip() or "process unknown"
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    return ""


def set_aside_if_damaged(path: str | os.PathLike) -> None:
    """Renames a JSON file that cannot be read to `<path>.damaged`, before it is written anew."""
    path = pathlib.Path(path)
    try:
        read_json(path)
    except FileNotFoundError:
        pass
    except ValueError:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        _log.warning("%s could not be read; it is now %s, and is written anew", path, aside)
