"""Output of a run: console, log file, progress bar, JSON files.

In a run of several processes, only the primary process produces output.
"""

import contextlib
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

import absl.logging
import tqdm

from scorax.utils import bars, parallel, programs

T = TypeVar("T")

# These packages log every small step at level INFO. Orbax and grain log under the name "absl".
_CHATTY = ("absl", "jax", "orbax", "PIL", "tensorboardX")
_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "ml_collections",
)
_log = logging.getLogger(__name__)
_HANDLER = "utils.logging"  # name of the handlers that setup() adds


class _ConsoleHandler(logging.Handler):
    """Writes to stderr without breaking a progress bar.

    Tracebacks that orbax logs in its threads are for the file: their error is raised again.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "absl" and record.exc_info:
            return
        tqdm.tqdm.write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """Loses lines while the disk is full, instead of printing a traceback for each of them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def setup(workdir: str | os.PathLike) -> None:
    """Sends log messages, from level INFO up, to the console and appends them to a log file.

    The file is `workdir/stdout.txt`. The function may be called again for another run in the same
    program; it then closes the previous file.
    """
    bars.close_all()
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("absl").addFilter(_is_worth_saying)
    for handler in [h for h in root.handlers if _is_superseded(h)]:
        root.removeHandler(handler)
        if handler.name == _HANDLER:
            handler.close()
    handlers = _handlers(workdir) if parallel.is_primary() else [logging.NullHandler()]
    for handler in handlers:
        handler.name = _HANDLER
        root.addHandler(handler)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Returns False for an error that orbax reports when it reads a file while it writes that file.

    It then writes the description of the checkpoint anew, so nothing is lost.
    """
    message = record.getMessage()
    return not ("parse Metadata file" in message and ".orbax-checkpoint-tmp" in message)


def _is_superseded(handler: logging.Handler) -> bool:
    """Returns whether an earlier `setup` added the handler, or it would print messages twice.

    absl.app.run adds a handler that prints, and so does the first message logged without a handler.
    """
    default = type(handler) is logging.StreamHandler and handler.stream in (sys.stderr, sys.stdout)
    return default or handler.name == _HANDLER or handler is absl.logging.get_absl_handler()


class _Formatter(logging.Formatter):
    """Shows folders by the names that users know."""

    def format(self, record: logging.LogRecord) -> str:
        return programs.shown(super().format(record))


def _handlers(workdir: str | os.PathLike) -> list[logging.Handler]:
    os.makedirs(workdir, exist_ok=True)
    path = os.path.join(workdir, "stdout.txt")
    file = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    console = _ConsoleHandler()
    console.setFormatter(_Formatter())
    return [console, file]


@contextlib.contextmanager
def logging_errors(workdir: str) -> Iterator[None]:
    """Opens the log file of a run; the traceback of an error goes to that file only."""
    setup(workdir)
    try:
        yield
    except Exception:
        record = logging.makeLogRecord({"msg": "stopped by an error", "exc_info": sys.exc_info()})
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)
        raise


def progress_bar(total: int, initial: int = 0, desc: str = "") -> bars.Bar:
    """Returns a progress bar with steps, steps per second, the time passed and the time left.

    Callers may add values with `set_postfix(loss=..., refresh=False)`. Non-primary processes show
    no bar.

    Args:
      total: number of steps of the whole run.
      initial: number of steps already done.
      desc: the word in front of the bar.
    """
    return bars.Bar(
        total=total,
        initial=initial,
        desc=desc,
        unit=" steps",
        bar_format="{desc}: {n_fmt}/{total_fmt} |{bar:20}| {rate_noinv_fmt}, {elapsed} passed, "
        "{remaining} left{postfix}",
        disable=not parallel.is_primary(),
    )


def clock(what: str, work: Callable[[], T]) -> T:
    """Calls `work`, shows on a terminal for how long, and logs it; returns what `work` returns.

    Args:
      what: what is being done, such as "compiling the sampler".
      work: is called in a thread where a signal may end it.

    Raises:
      Stopped: if a signal has arrived; see `parallel.wait_for`.
    """
    _log.info("%s", what)
    began = time.monotonic()
    with bars.elapsing(what) if parallel.is_primary() else contextlib.nullcontext():
        result = parallel.wait_for(work)
    _log.info("done in %.1f s: %s", time.monotonic() - began, what)
    return result


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes `content`, of JSON types, as an indented JSON file, atomically."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no file, or holds anything but a JSON object.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (IsADirectoryError, ValueError) as e:
        raise ValueError(f"{path} cannot be read ({e}); move it away") from e
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {str(content)[:40]!r}, but no JSON object; move it away")
    return content


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Calls `write(file)` on a temporary file beside `path`, then renames it to `path`.

    Even if the program is interrupted, readers of `path` find either the old content or the new
    content. Missing directories are created.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def versions() -> dict[str, Any]:
    """Returns the versions and devices that a result may depend on, besides the config."""
    packages = {name: _version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        **packages,
        "platform": platform.platform(),
        "device_kind": parallel.device_kind(),
        "device_count": parallel.device_count(),
        "process_count": parallel.process_count(),
        "commit": _commit(pathlib.Path(__file__).resolve().parent.parent),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(checkout: pathlib.Path) -> str | None:
    """Returns the commit, with "-dirty" if files differ from it; None outside a checkout."""
    if not (checkout / ".git").exists():  # else git would search the parent folders
        return None
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "--no-optional-locks", *describe]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
