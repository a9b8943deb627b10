"""Folders and zips of files, read alike and from any thread.

Paths inside are written with slashes; "" is the top. What an operating system leaves behind (names
that begin with a dot, __MACOSX) is not there.
"""

import contextlib
import os
import re
import struct
import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

TAIL = 64  # bytes that `tail` returns at most


class Files(Protocol):
    """What folders and zips have in common."""

    def name(self, path: str) -> str:
        """Returns what messages call a file or folder."""

    def list(self, path: str) -> tuple[list[str], list[str]]:
        """Returns the sorted names of the folders and of the files in a folder."""

    def open(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Opens a file for reading, in a `with` statement."""

    def tail(self, path: str) -> bytes | None:
        """Returns the last bytes of a file; None where all of it would have to be unpacked."""

    def size(self, path: str) -> int:
        """Returns the number of bytes of a file."""


class Folder:
    """The files of a folder."""

    def __init__(self, root: Path):
        self.root = root

    def name(self, path: str) -> str:
        return str(self.root / path)

    def list(self, path: str) -> tuple[list[str], list[str]]:
        folders, files = [], []
        with os.scandir(self.root / path) as entries:
            for entry in entries:
                (folders if entry.is_dir() else files).append(entry.name)
        return _visible(folders), _visible(files)

    def open(self, path: str) -> BinaryIO:
        return (self.root / path).open("rb")

    def tail(self, path: str) -> bytes:
        with self.open(path) as file:
            file.seek(max(0, self.size(path) - TAIL))
            return file.read()

    def size(self, path: str) -> int:
        return (self.root / path).stat().st_size


class Zip:
    """The files in a zip, which are never unpacked to disk."""

    def __init__(self, path: Path):
        """Reads the table of contents.

        Raises:
          ValueError: naming the zip, if it is damaged, and the entry, if that is encrypted or its
            name leads out of the zip.
        """
        self.root = path
        self._lock = threading.Lock()  # a ZipFile reads for one thread at a time
        self._entries: dict[str, zipfile.ZipInfo] = {}
        self._folders: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
        self._file = path.open("rb")
        try:
            self._zip = zipfile.ZipFile(self._file)
        except Exception as error:  # BadZipFile, struct.error and NotImplementedError are all seen
            raise ValueError(f"{path} cannot be read as a zip ({error}); fetch it again") from error
        for entry in self._zip.infolist():
            self._add(entry)

    def name(self, path: str) -> str:
        return str(self.root / path)

    def list(self, path: str) -> tuple[list[str], list[str]]:
        folders, files = self._folders[path]
        return _visible(folders), _visible(files)

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        with self._lock, self._zip.open(self._entries[path]) as file:
            yield file

    def tail(self, path: str) -> bytes | None:
        entry = self._entries[path]
        if entry.compress_type != zipfile.ZIP_STORED:
            return None
        # The header in front of the data ends with the lengths of two fields that follow it.
        file, start = self._file.fileno(), entry.header_offset + 30
        start += sum(struct.unpack("<HH", os.pread(file, 4, start - 4)))
        count = min(TAIL, entry.file_size)
        return os.pread(file, count, start + entry.file_size - count)

    def size(self, path: str) -> int:
        return self._entries[path].file_size

    def _add(self, entry: zipfile.ZipInfo) -> None:
        """Files an entry under its folder, and each folder under its own."""
        name = entry.filename.replace("\\", "/")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        path = "/".join(parts)
        if re.match("/|[A-Za-z]:", name) or ".." in parts:
            raise self._error(entry, "leads out of the zip; pack it again with relative names")
        if entry.flag_bits & 1:
            raise self._error(entry, "is encrypted; pack it again without a password")
        if path in self._entries:
            raise self._error(entry, "is there twice; pack it again")
        if not entry.is_dir():
            self._entries[path] = entry
            self._folders.setdefault("/".join(parts[:-1]), (set(), set()))[1].add(parts[-1])
            parts = parts[:-1]
        for depth, part in enumerate(parts):
            self._folders.setdefault("/".join(parts[:depth]), (set(), set()))[0].add(part)
            self._folders.setdefault("/".join(parts[: depth + 1]), (set(), set()))

    def _error(self, entry: zipfile.ZipInfo, what: str) -> ValueError:
        return ValueError(f"{entry.filename!r} in {self.root} {what}")


def open_files(path: Path) -> Folder | Zip:
    """Returns the folder or the zip at a path that exists.

    Raises:
      ValueError: for a file that is no zip, and as `Zip`.
    """
    return Folder(path) if path.is_dir() else Zip(path)


def _visible(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith(".") and name != "__MACOSX")
