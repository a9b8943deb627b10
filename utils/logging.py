"""What a run says and notes down: console, log file, TensorBoard, progress bar, JSON.

In a run of several processes the primary one does all of it.
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
from typing import Any, BinaryIO

import absl.logging
import jax
import numpy as np
import tensorboardX
import tqdm

from scorax.utils import parallel

# They log every step of theirs at INFO. Orbax and grain log as "absl".
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
_HANDLER = "utils.logging"  # name of the handlers that setup() adds
_NON_TERMINAL_INTERVAL = 10.0  # seconds between two states of a progress bar in a file


class _ConsoleHandler(logging.Handler):
    """Writes to stderr, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.tqdm.write(self.format(record), file=sys.stderr)


def setup(workdir: str | os.PathLike) -> None:
    """Sends log messages, from INFO up, to the console and to the end of `workdir/stdout.txt`.

    May be called again, for another run in the same program: the former file is closed.
    """
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in [h for h in root.handlers if _is_superseded(h)]:
        root.removeHandler(handler)
        if handler.name == _HANDLER:
            handler.close()
    handlers = _handlers(workdir) if parallel.is_primary() else [logging.NullHandler()]
    for handler in handlers:
        handler.name = _HANDLER
        root.addHandler(handler)


def _is_superseded(handler: logging.Handler) -> bool:
    """Whether a handler is of a former setup, or would print to the console a second time.

    absl.app.run adds one that prints, and so does the first message logged without any handler.
    """
    default = type(handler) is logging.StreamHandler and handler.stream in (sys.stderr, sys.stdout)
    return default or handler.name == _HANDLER or handler is absl.logging.get_absl_handler()


def _handlers(workdir: str | os.PathLike) -> list[logging.Handler]:
    os.makedirs(workdir, exist_ok=True)
    path = os.path.join(workdir, "stdout.txt")
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return [_ConsoleHandler(), file]


@contextlib.contextmanager
def logging_errors(workdir: str) -> Iterator[None]:
    """Opens the log file of the run; an error leaves its traceback there, and only there."""
    setup(workdir)
    try:
        yield
    except Exception:
        record = logging.makeLogRecord({"msg": "stopped by an error", "exc_info": sys.exc_info()})
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)
        raise


class MetricWriter:
    """Scalars and pictures for TensorBoard; on processes other than the primary, nothing."""

    def __init__(self, directory: str | os.PathLike, start_step: int = 0) -> None:
        """Opens a new event file in `directory`.

        Args:
          directory: where TensorBoard looks.
          start_step: steps done when the run starts or resumes. What an earlier, interrupted run
            has written for later steps is hidden by TensorBoard.
        """
        self._writer = None
        if parallel.is_primary():
            purge_step = start_step + 1 if start_step else 0
            # Their names have whole seconds; two files of one second must not be the same.
            self._writer = tensorboardX.SummaryWriter(
                os.fspath(directory),
                purge_step=purge_step,
                flush_secs=10,
                filename_suffix=f".{time.time_ns()}",
            )

    def scalars(self, step: int, values: dict[str, Any]) -> None:
        """Writes numbers, or arrays of one number, under their names."""
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, float(value), step)

    def images(self, step: int, name: str, grid: np.ndarray) -> None:
        """Writes one picture, uint8 (H, W) or (H, W, 3)."""
        if self._writer:
            axes = "HW" if grid.ndim == 2 else "HWC"
            self._writer.add_image(name, grid, step, dataformats=axes)

    def flush(self) -> None:
        """Sends what was written so far to the disk; it goes there every 10 seconds anyway."""
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        """Flushes, and ends the thread that writes."""
        if self._writer:
            self._writer.close()


def progress_bar(total: int, initial: int = 0, desc: str = "") -> tqdm.tqdm:
    """A bar with steps, steps per second and time left; add `set_postfix(loss=..., refresh=False)`.

    Nothing on processes other than the primary. Where stderr is a file, a line now and then.

    Args:
      total: steps of the whole run.
      initial: steps done before.
      desc: the word in front.
    """
    terminal = sys.stderr.isatty()
    return tqdm.tqdm(
        total=total,
        initial=initial,
        desc=desc,
        unit=" steps",
        bar_format="{desc}: {n_fmt}/{total_fmt} |{bar:20}| {rate_noinv_fmt}, {remaining} left"
        "{postfix}",
        mininterval=0.1 if terminal else _NON_TERMINAL_INTERVAL,
        dynamic_ncols=terminal,
        ascii=not terminal,
        disable=not parallel.is_primary(),
        file=sys.stderr,
    )


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes `content`, of JSON types, readable and with a last line end; whole or not at all."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Calls `write(file)` on a temporary file beside `path`, then puts it in path's place.

    Whoever reads `path` finds the former content or the new one, whatever interrupts this.
    Missing directories are created.
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
    """What a result may depend on besides the config: packages, platform, devices, commit."""
    packages = {name: _version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        **packages,
        "platform": platform.platform(),
        "device_kind": jax.local_devices()[0].device_kind,
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
    """The commit, with "-dirty" if files differ from it; None outside a checkout."""
    if not (checkout / ".git").exists():  # git would look for a repository further up
        return None
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "--no-optional-locks", *describe]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
