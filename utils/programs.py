"""How a program starts and ends: what it keeps, its errors in one sentence, its exit status."""

import contextlib
import errno
import logging
import os
import pathlib
import platform
import signal
import sys
import zlib
from collections.abc import Callable
from typing import NoReturn

from scorax.utils import signals

_MOST_KEPT = 5 * 2**30  # bytes of compiled programs
_NO_SPACE = "; free some space, and the same command continues from the last checkpoint"
_NO_MEMORY = (
    "; lower training.batch_size or eval.batch_size, set model.remat=True, or use a smaller network"
)


_names: dict[str, str] = {}  # folder -> what users know it by


def show_as(folder: str | os.PathLike, name: str) -> None:
    """Makes `shown` replace a folder by the name that users know it by."""
    _names[os.fspath(folder)] = name


def shown(text: str) -> str:
    """A message with the names that users know."""
    for folder, name in _names.items():
        text = text.replace(folder, name)
    return text


def run_program(run: Callable[[], None]) -> None:
    """Runs a program, and ends it with status 1 after an error, or 128 + signal after a signal."""
    signals.stop_at_once()
    sys.unraisablehook = print_unless_known
    try:
        run()
    except KeyboardInterrupt:
        _leave("interrupted; the same command continues", 128 + signal.SIGINT)
    except Exception as e:
        if not (said := explain(e)):
            raise
        _leave(f"error: {shown(said)}", 1)
    if signals.received():
        status = 128 + signals.received()
        if signals.is_busy():
            _leave("", status)
        sys.exit(status)


def keep_compiled() -> None:
    """Keeps compiled programs in the user's cache folder, so that the next start compiles nothing.

    `JAX_COMPILATION_CACHE_DIR` names another folder, and `JAX_ENABLE_COMPILATION_CACHE=false` turns
    it off. Programs for CPUs run on CPUs with the same instructions only, so these name the folder.
    Of more than 5 GiB in the user's cache folder, what was not used for longest is removed.
    """
    import jax  # late, because a command line that is wrong needs no JAX

    if jax.config.jax_compilation_cache_dir is None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = pathlib.Path(cache, "scorax", f"compiled-{_instructions():08x}")
        with contextlib.suppress(OSError):  # a home that cannot be written to
            folder.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            # Small ones too: the start of a run compiles hundreds.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            _limit(folder.parent, _MOST_KEPT)


def _limit(folder: pathlib.Path, most: int) -> None:
    """Removes compiled programs, those used last at the end, until they take at most 3/4 of `most`.

    It does nothing below `most` bytes. JAX's own limit fails for good once a process has been
    killed between the two files that it then writes for a program.
    """
    found = [(path, path.stat()) for path in folder.glob("compiled-*/*")]
    total = sum(stat.st_size for _, stat in found)
    if total <= most:
        return
    for path, stat in sorted(found, key=lambda f: max(f[1].st_atime, f[1].st_mtime)):
        path.unlink(missing_ok=True)
        total -= stat.st_size
        if total <= 0.75 * most:
            return


def _instructions() -> int:
    """A number for the instructions that this CPU has."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return zlib.crc32(platform.platform().encode())
    flags = {line for line in lines if line.lower().startswith(("flags", "features"))}
    return zlib.crc32("".join(sorted(flags)).encode())


def _leave(line: str, status: int) -> NoReturn:
    """Prints a line, if any, and ends the process without waiting for its threads.

    These may be at work for minutes: after a failed write of a checkpoint, or in the compiler.
    """
    if line:
        print(line, file=sys.stderr, flush=True)
    sys.stdout.flush()
    logging.shutdown()
    os._exit(status)


def explain(error: BaseException) -> str:
    """Returns what happened and what to do; "" for an error that only its traceback explains.

    Errors in the use of the program are ValueErrors with a full sentence. Others come from the
    system, or from the libraries that write checkpoints and use the devices.
    """
    said = str(error).splitlines()[0] if str(error) else ""
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
        path = getattr(error, "filename", None)
        return f"no space left on the device{f' for {path}' if path else ''}{_NO_SPACE}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED: Out of memory" in str(error):
        return f"out of memory{f' ({said})' if said else ''}{_NO_MEMORY}"
    return str(error) if isinstance(error, ValueError | FloatingPointError) else ""


def print_unless_known(unraisable: "sys.UnraisableHookArgs") -> None:
    """A `sys.unraisablehook` that drops what follows from a failed write.

    The library that writes the arrays of a checkpoint tells each of its writers to stop, when the
    loop that they belong to has already been closed.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
