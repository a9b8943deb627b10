"""Folders and zip files with one interface, which any thread may use.

Paths inside are written with slashes; "" is the top. Files that operating systems leave behind are
hidden: names that begin with a dot, and __MACOSX.
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

TAIL = 64  # largest number of bytes that `tail` returns


class Files(Protocol):
    """The interface of folders and zips."""

    def name(self, path: str) -> str:
        """Returns the name of a file or folder for messages."""

    def list(self, path: str) -> tuple[list[str], list[str]]:
        """Returns the sorted names of the folders and of the files in a folder."""

    def open(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Opens a file for reading, in a `with` statement."""

    def tail(self, path: str) -> bytes | None:
        """Returns the last bytes of a file; None if that would mean unpacking the whole file."""

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
                if not _is_folder(entry):
                    files.append(entry.name)
                elif not (entry.is_symlink() and self._leads_back(path, entry)):
                    folders.append(entry.name)
        return _visible(folders), _visible(files)

    def _leads_back(self, path: str, link: os.DirEntry) -> bool:
        """Whether a link in a folder leads to the folder or one that it lies in, without end."""
        parts = path.split("/") if path else []
        above = [self.root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
        return os.path.realpath(link.path) in {os.path.realpath(folder) for folder in above}

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
          ValueError: if the zip is damaged, or an entry is encrypted, occurs twice or has a name
            that leads out of the zip.
        """
        self.root = path
        self._lock = threading.Lock()  # a ZipFile may be read by one thread at a time
        self._entries: dict[str, zipfile.ZipInfo] = {}
        self._folders: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
        self._file = path.open("rb")
        try:
            self._zip = zipfile.ZipFile(self._file)
        except Exception as error:  # BadZipFile, struct.error and NotImplementedError all occur
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
        # Two fields of variable length follow the header, which ends with their two lengths.
        file, start = self._file.fileno(), entry.header_offset + 30
        start += sum(struct.unpack("<HH", os.pread(file, 4, start - 4)))
        count = min(TAIL, entry.file_size)
        return os.pread(file, count, start + entry.file_size - count)

    def size(self, path: str) -> int:
        return self._entries[path].file_size

    def _add(self, entry: zipfile.ZipInfo) -> None:
        """Adds an entry to its folder, and each folder to its parent folder."""
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


class OneFile(Folder):
    """A single file, as a folder that holds nothing else."""

    def __init__(self, path: Path):
        super().__init__(path.parent)
        self._name = path.name

    def list(self, path: str) -> tuple[list[str], list[str]]:
        return [], [self._name]


def open_files(path: Path) -> Folder | Zip:
    """Returns the folder or the zip at an existing path.

    Raises:
      ValueError: for a file that is not a zip; see also `Zip`.
    """
    return Folder(path) if path.is_dir() else Zip(path)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _visible(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith(".") and name != "__MACOSX")
