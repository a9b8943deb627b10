"""Images prepared once, in array_record files that are read in any order.

    DIR/info.json   DIR/train-00000.array_record   DIR/train-00001.array_record   ...

A record is a label, int32 in little-endian order, and then the bytes of a PNG or JPEG file.
`info.json` says for each split which files hold it, with the number of examples and of bytes of
each; two splits may name the same files. `python -m tools.prepare_dataset` writes such a folder.
"""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from scorax.data_sources.arrays import check_split

INFO = "info.json"
LABEL = struct.Struct("<i")
SHARD_BYTES = 2**28  # of images in a file, after which the next one begins
OPTIONS = "group_size:1,uncompressed"  # each example by itself; images are compressed already
VERSION = 1  # of this layout


class ArrayRecords:
    """One split of a prepared folder, decoded when asked for; several threads may read at once."""

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
        self._mode = "L" if self.info["channels"] == 1 else "RGB"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 (size, size, C), "label": int32}.

        Raises:
          ValueError: naming the folder, if the example is damaged.
        """
        try:
            record = self._records[i]
            (label,) = LABEL.unpack_from(record)
            with Image.open(io.BytesIO(memoryview(record)[LABEL.size :])) as image:
                x = np.asarray(image.convert(self._mode))
        except Exception as error:  # array_record and PIL raise a dozen kinds
            raise ValueError(
                f"example {i} of '{self.dir}' cannot be read ({error}); prepare the folder again"
            ) from error
        return {"image": x[..., None] if x.ndim == 2 else x, "label": np.int32(label)}


class Writer:
    """Writes the examples of one split into a folder, in as many files as it takes."""

    def __init__(self, folder: Path, split: str):
        """Begins a split; `close` ends it."""
        self.shards: list[dict[str, Any]] = []  # finished files, as `info.json` lists them
        self._folder = folder
        self._split = split
        self._writer = None
        self._bytes = self._examples = 0  # in the file that is open

    def write(self, image: bytes, label: int) -> None:
        """Adds an example: the bytes of a PNG or JPEG file and its label."""
        if self._bytes >= SHARD_BYTES:
            self.close()
        if self._writer is None:
            self._path = self._folder / f"{self._split}-{len(self.shards):05d}.array_record"
            self._writer = ArrayRecordWriter(str(self._path), OPTIONS)
        self._writer.write(LABEL.pack(label) + image)
        self._bytes += len(image)
        self._examples += 1

    def close(self) -> None:
        """Finishes the file that is open, if there is one."""
        if self._writer is None:
            return
        self._writer.close()
        shard = {"file": self._path.name, "examples": self._examples}
        self.shards.append(shard | {"bytes": self._path.stat().st_size})
        self._writer, self._bytes, self._examples = None, 0, 0


def load(dir: str, split: str) -> ArrayRecords:
    """Returns a split of a prepared folder.

    Raises:
      ValueError: without a folder, and as `ArrayRecords`.
    """
    if not dir:
        raise ValueError(
            "data.dir='' names no prepared data set; set --config.data.dir to a folder written by "
            "'python -m tools.prepare_dataset'"
        )
    return ArrayRecords(dir, split)


def read_info(folder: Path) -> dict[str, Any]:
    """Returns what `info.json` says: size, channels, classes, splits and where they come from.

    Raises:
      ValueError: if it is missing, damaged or of another version.
    """
    path = folder / INFO
    try:
        info = json.loads(path.read_text())
        version = info["version"]
    except FileNotFoundError:
        raise ValueError(
            f"{path} does not exist; write the folder with 'python -m tools.prepare_dataset', or "
            "say where it is with --config.data.dir=DIR"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); prepare the folder again") from error
    if version != VERSION:
        raise ValueError(
            f"{path} has version {version} where {VERSION} is read; prepare the folder again"
        )
    return info


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Writes `info.json`; what it must contain is what `tools.prepare_dataset` gives."""
    (folder / INFO).write_text(json.dumps({"version": VERSION} | info, indent=2) + "\n")


def _check_size(path: Path, size: int) -> None:
    """Raises ValueError unless a file is there and has as many bytes as when it was written."""
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        what = "is missing" if found is None else f"has {found} bytes instead of {size}"
        raise ValueError(f"{path} {what}; copy or prepare the folder again")
