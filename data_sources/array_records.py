"""Images that were prepared once and stored in array_record files, which allow random access.

    DIR/info.json   DIR/train-00000.array_record   DIR/train-00001.array_record   ...

A record is a label (int32, little-endian) followed by the bytes of a PNG or JPEG file, or of a .npy
file (NumPy) for images with more than 8 bits. For each split, `info.json` lists the files with
their numbers of examples and of bytes; two splits may name the same files. `python -m
tools.prepare_dataset` writes such a folder.
"""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from scorax.data_sources.pixels import decode
from scorax.data_sources.source import Source, check_split

INFO = "info.json"
LABEL = struct.Struct("<i")
SHARD_BYTES = 2**28  # a file that holds this many bytes of images is full
OPTIONS = "group_size:1,uncompressed"  # one example per group; images are compressed already
VERSION = 1  # version of this layout
_KEYS = ("channels", "classes", "splits")  # of info.json, which every reader needs
NPY = b"\x93NUMPY"  # how a .npy file begins


class ArrayRecords(Source):
    """One split of a prepared folder, decoded on access; several threads may read at once."""

    def __init__(self, dir: str, split: str):
        """Opens a split ("train" or "test") of the folder `dir`.

        Raises:
          ValueError: if the folder, the split or one of its files is missing or damaged.
        """
        check_split(split)
        self.dir = Path(dir)
        self.info = read_info(self.dir)
        if split not in self.info["splits"]:
            raise ValueError(
                f"'{dir}' has no split {split}, only {', '.join(self.info['splits'])}; prepare it "
                "again from a source with both"
            )
        shards = self.info["splits"][split]
        for shard in shards:
            _check_size(self.dir / shard["file"], shard["bytes"])
        paths = [f"{self.dir / s['file']}[0:{s['examples']}]" for s in shards]
        self._records = ArrayRecordDataSource(paths)
        self._shards = shards
        self.classes = [] if self.info["classes"] == [""] else self.info["classes"]
        self.held_out = self.info["splits"].get("train") != self.info["splits"].get("test")
        self.levels = self.info.get("levels", 256)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 or float32 (*size, C), "label": int32}.

        Raises:
          ValueError: if the example is damaged; the message names the folder.
        """
        try:
            record = self._records[i]
            (label,) = LABEL.unpack_from(record)
            data, name = bytes(memoryview(record)[LABEL.size :]), f"example {i} of '{self.dir}'"
            if data.startswith(NPY):
                x = np.load(io.BytesIO(data), allow_pickle=False)
            else:
                x = decode(data, name, self.info["channels"])
        except Exception as error:  # array_record and PIL raise a dozen types
            raise ValueError(
                f"example {i} of '{self.dir}' cannot be read ({error}); prepare the folder again"
            ) from error
        return {"image": x, "label": np.int32(label)}

    def all_labels(self) -> np.ndarray:
        """Returns the labels of all examples, int32 (N,); reads them all, but decodes none."""
        labels = (LABEL.unpack_from(self._records[i])[0] for i in range(len(self)))
        return np.fromiter(labels, np.int32, len(self))

    def sizes(self) -> list[int]:
        """Returns the numbers of examples and bytes of the files."""
        return [n for shard in self._shards for n in (shard["examples"], shard["bytes"])]


class Writer:
    """Writes the examples of one split into a folder, in as many files as necessary."""

    def __init__(self, folder: Path, split: str):
        """Begins a split; `close` ends it."""
        self.shards: list[dict[str, Any]] = []  # finished files, as `info.json` lists them
        self._folder = folder
        self._split = split
        self._writer = None
        self._bytes = self._examples = 0  # in the open file

    def write(self, image: bytes, label: int) -> None:
        """Adds an example: the bytes of a PNG, JPEG or .npy file, and its label."""
        if self._bytes >= SHARD_BYTES:
            self.close()
        if self._writer is None:
            self._path = self._folder / f"{self._split}-{len(self.shards):05d}.array_record"
            self._writer = ArrayRecordWriter(str(self._path), OPTIONS)
        self._writer.write(LABEL.pack(label) + image)
        self._bytes += len(image)
        self._examples += 1

    def close(self) -> None:
        """Finishes the open file, if there is one."""
        if self._writer is None:
            return
        self._writer.close()
        shard = {"file": self._path.name, "examples": self._examples}
        self.shards.append(shard | {"bytes": self._path.stat().st_size})
        self._writer, self._bytes, self._examples = None, 0, 0


def load(dir: str, split: str) -> ArrayRecords:
    """Returns a split of a prepared folder.

    Raises:
      ValueError: if `dir` is empty; see also `ArrayRecords`.
    """
    if not dir:
        raise ValueError(
            "data.dir='' names no prepared data set; set --config.data.dir to a folder written by "
            "'python -m tools.prepare_dataset'"
        )
    return ArrayRecords(dir, split)


def read_info(folder: Path) -> dict[str, Any]:
    """Returns the contents of `info.json`: size, channels, classes, splits and the source.

    Raises:
      ValueError: if the file is missing, damaged or of another version.
    """
    path = folder / INFO
    try:
        info = json.loads(path.read_text())
        version = info["version"]
        for key in _KEYS if version == VERSION else ():
            info[key]
    except FileNotFoundError:
        raise ValueError(
            f"{path} does not exist; write the folder with 'python -m tools.prepare_dataset', or "
            "say where it is with --config.data.dir=DIR"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is damaged ({what}); prepare the folder again") from error
    if version != VERSION:
        raise ValueError(
            f"{path} has version {version} where {VERSION} is read; prepare the folder again"
        )
    return info


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Writes `info.json` with `info`, as `data_sources.preparation` makes it, and the version."""
    (folder / INFO).write_text(json.dumps({"version": VERSION} | info, indent=2) + "\n")


def _check_size(path: Path, size: int) -> None:
    """Raises ValueError unless the file exists and is as long as when it was written."""
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        what = "is missing" if found is None else f"has {found} bytes instead of {size}"
        raise ValueError(f"{path} {what}; copy or prepare the folder again")
