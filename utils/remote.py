"""Folders in a store of objects ("gs://bucket/run"), mirrored in a local folder while in use.

Stores have no locks, no renaming and no appending, on which logs, checkpoints and TensorBoard rely.
So a program works in a folder of the user's cache, and a thread uploads what has changed. Every
process of a pod has a mirror of its own; the primary process uploads.

`.mirror.json` in the store names its last writer, and the checkpoints that are there in full. If
this mirror was the last writer, as after a crash, the local files are the newer ones and are used;
otherwise those of the store are. A training writes the record anew at every upload, so that another
one can tell a dead training from one that runs.

`etils.epath` reads and writes. It needs a package for each kind of store, such as gcsfs.
"""

import concurrent.futures
import contextlib
import json
import logging
import os
import pathlib
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from scorax.utils import parallel
from scorax.utils.logging import write_json
from scorax.utils.programs import show_as
from scorax.utils.run_folder import claim

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}
INTERVAL = 20.0  # seconds between two uploads
PATIENCE = 4  # intervals without a sign of life after which a training is taken for dead
_TRIES, _PAUSE = 4, 2.0  # of the last upload; the pause in seconds doubles
_RECORD = ".mirror.json"
_KEPT = 2  # checkpoints that are downloaded
_THREADS = 8
_LOCAL = ("tensorboard", "profile")  # folders that are uploaded, and not downloaded
_log = logging.getLogger(__name__)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is in a store: "gs://bucket/run"."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def mirrored(workdir: str | os.PathLike, exclusive: bool, step: int | None = None) -> Iterator[str]:
    """Yields the local folder in which to work on a run; a local run is its own.

    Args:
      workdir: directory of the run.
      exclusive: whether this is a training, which must be the only one in the folder. Otherwise the
        local copy is deleted at the end.
      step: the checkpoint that is needed; None for the newest.

    Raises:
      ValueError: if the store cannot be reached, or another training runs.
    """
    if not is_remote(workdir):
        yield os.fspath(workdir)
        return
    mirror = _Mirror(os.fspath(workdir), exclusive)
    with claim(mirror.home) if exclusive else contextlib.nullcontext(), parallel.apart():
        with mirror.explained():
            mirror.open(step)
        try:
            yield str(mirror.folder)
        finally:
            mirror.close()


class _Mirror:
    """A remote folder, and its local copy."""

    def __init__(self, url: str, exclusive: bool) -> None:
        scheme, _, path = url.rstrip("/").partition("://")
        if scheme not in PACKAGES or not path:
            raise ValueError(
                f"{url} is no folder that can be used; remote ones are "
                f"{', '.join(f'{s}://...' for s in PACKAGES)}"
            )
        self.url, self._scheme, self._exclusive = f"{scheme}://{path}", scheme, exclusive
        self._remote = epath.Path(self.url)
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        name = "train" if exclusive else f"eval-{uuid.uuid4().hex[:8]}"
        self.home = pathlib.Path(cache, "scorax", "remote", scheme, path)
        self.home = self.home / f"{name}-{parallel.process_index()}"
        self.folder = self.home / "run"
        show_as(self.folder, self.url)  # so messages about the local copy itself name `home`
        self._state = self.home / "state.json"
        state = _read(self._state)
        self._owner = state.get("owner") or uuid.uuid4().hex
        # Size and time of the last change of each file that both sides have.
        self._seen = {name: tuple(stamp) for name, stamp in state.get("seen", {}).items()}
        self._steps: list[int] = []  # checkpoints that the store has in full
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Makes one sentence of the many errors of clients of stores."""
        try:
            yield
        except ValueError:
            raise
        except ImportError as error:
            package = PACKAGES[self._scheme]
            raise ValueError(
                f"{self.url}: {self._scheme}:// needs another package ({error}); "
                f"pip install {package}"
            ) from error
        except Exception as error:
            raise ValueError(
                f"{self.url} cannot be used ({type(error).__name__}: {error}); check its name, "
                "your permissions and the network"
            ) from error

    def open(self, step: int | None) -> None:
        """Fills the local folder; then the primary process begins to upload.

        Raises:
          ValueError: if another training runs.
        """
        primary = parallel.is_primary()
        if primary:
            if self._exclusive:
                self._wait_for_others()
            self._download(step)
            self._remote.mkdir(parents=True, exist_ok=True)
            self._upload(started=True)
            self._thread.start()
        parallel.any_process(False)  # what the primary process had not uploaded is there now
        if not primary:
            self._download(step)

    def close(self) -> None:
        """Uploads what is left.

        Raises:
          ValueError: if that fails again and again; the local files stay.
        """
        if self._thread.ident:
            self._stop.set()
            self._thread.join()
            self._upload_at_last()
        if not self._exclusive:
            shutil.rmtree(self.home)

    def _upload_at_last(self) -> None:
        for k in range(_TRIES):
            try:
                self._upload(ended=True)
                return
            except Exception as error:
                if k == _TRIES - 1 or isinstance(error, ValueError):
                    again = ", and the same command on this machine uploads them"
                    raise ValueError(
                        f"{self.url} cannot be written to ({type(error).__name__}: {error}); all "
                        f"files are in {self.home}{again if self._exclusive else ''}"
                    ) from error
                time.sleep(_PAUSE * 2**k)

    def _wait_for_others(self) -> None:
        """Waits until a training that left no sign of its end must be dead.

        Raises:
          ValueError: if it lives.
        """
        first = _read(self._remote / _RECORD)
        if first.get("ended", True) or first.get("owner") == self._owner:
            return
        wait, host = PATIENCE * INTERVAL, first.get("host")
        line = "%s: a training on %s has not said that it ended; waiting %.0f s for a sign of it"
        _log.warning(line, self.url, host, wait)
        end = time.monotonic() + wait
        while time.monotonic() < end:
            time.sleep(min(1.0, INTERVAL))
            if _read(self._remote / _RECORD) != first:
                raise ValueError(
                    f"{self.url} is in use by another training (on {host}); wait for its end, or "
                    "use another --workdir"
                )

    def _download(self, step: int | None) -> None:
        """Makes the local folder equal to the remote one, unless it is the newer one."""
        record = _read(self._remote / _RECORD)
        if self.folder.is_dir() and record.get("owner") == self._owner:
            _log.info("%s: continuing from its copy in %s", self.url, self.home)
            return
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        self._seen, names = {}, self._list(self._remote)
        # A folder without a record was copied there by hand.
        steps = sorted(record.get("checkpoints", {int(s) for n in names if (s := _step_of(n))}))
        wanted = steps[-_KEPT:] if step is None else [step]
        names = [n for n in names if not (s := _step_of(n)) or int(s) in wanted]
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(self._fetch, names))
        _log.info("%s is mirrored in %s", self.url, self.home)

    def _upload(self, started: bool = False, ended: bool = False) -> None:
        """Uploads what has changed, and deletes what was deleted.

        Raises:
          ValueError: if another training has taken the folder over.
        """
        if self._exclusive and not started:
            owner = _read(self._remote / _RECORD).get("owner", self._owner)
            if owner != self._owner:
                raise ValueError("another training, on another machine, has taken it over")
        found = {name: stamp for name, path in self._local_files() if (stamp := _stamp(path))}
        changed = [name for name in found if found[name] != self._seen.get(name)]
        gone = [name for name in self._seen if name not in found]
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            jobs = [pool.submit(self._send, name) for name in changed]
            jobs += [pool.submit((self._remote / n).unlink, missing_ok=True) for n in gone]
            left = set(jobs)
            while left:
                left = concurrent.futures.wait(left, INTERVAL).not_done
                if left:
                    self._give_sign()
            for job in jobs:
                job.result()  # raises what it raised
        self._seen = found
        write_json(self._state, {"owner": self._owner, "seen": found})
        self._steps = sorted({int(s) for name in found if (s := _step_of(name))})
        self._give_sign(ended)

    def _give_sign(self, ended: bool = False) -> None:
        """Tells other trainings that this one lives."""
        if self._exclusive:
            record = {"owner": self._owner, "host": platform.node(), "time": time.time()}
            record |= {"ended": ended, "checkpoints": self._steps}
            (self._remote / _RECORD).write_text(json.dumps(record))

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self._upload()
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                _log.warning("%s: upload failed (%s); it is tried again", self.url, said)

    def _list(self, folder: Any, prefix: str = "") -> list[str]:
        """The names of all files below a remote folder, relative to the whole."""
        if not folder.exists():
            return []
        names = []
        for path in folder.iterdir():
            name = f"{prefix}{path.name}"
            if name not in _LOCAL and name != _RECORD:
                names += self._list(path, f"{name}/") if path.is_dir() else [name]
        return names

    def _local_files(self) -> Iterator[tuple[str, pathlib.Path]]:
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            unfinished = name.endswith(".tmp") or "orbax-checkpoint-tmp" in name
            if path.is_file() and not unfinished and name != ".lock":
                yield name, path

    def _fetch(self, name: str) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (self._remote / name).open("rb") as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
        self._seen[name] = _stamp(target)

    def _send(self, name: str) -> None:
        target = self._remote / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            contextlib.suppress(FileNotFoundError),  # deleted since it was listed
            open(self.folder / name, "rb") as file,
            target.open("wb") as sink,
        ):
            shutil.copyfileobj(file, sink)


def _read(path: Any) -> dict[str, Any]:
    """The object in a JSON file, local or remote; {} if there is none."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _stamp(path: pathlib.Path) -> tuple[int, int] | None:
    """Size and time of the last change; None if the file is gone."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _step_of(name: str) -> str:
    """The step of a file of a checkpoint: checkpoints/30/meta/metadata -> 30; else ""."""
    parts = name.split("/")
    return parts[1] if parts[0] == "checkpoints" and len(parts) > 2 and parts[1].isdecimal() else ""
