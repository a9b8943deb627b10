"""Reads files that `torch.save` wrote, without PyTorch and without running code in the file.

Both containers are supported: the zip archive of PyTorch 1.6 and later, and the older file of
several pickles in a row. A file declares the sizes of its data; each declared size is compared with
the size of the file, so that a small file cannot claim a lot of memory.
"""

import io
import mmap
import os
import struct
import sys
import zipfile
from typing import Any, BinaryIO

import numpy as np

from scorax.weights.tensor_pickles import Machine, TorchFileError

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older container
_VERSION = 1001  # second pickle of the older container
# Raised by zipfile, struct, pickletools and `Machine` for a truncated or changed file.
_DAMAGE = (
    ValueError,
    LookupError,
    OverflowError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    struct.error,
)


def load(path: str | os.PathLike) -> Any:
    """Reads a file.

    Args:
      path: a file written by `torch.save`.

    Returns:
      The saved object: dicts (ordered ones too), lists, tuples, strings, numbers and NumPy scalars,
      with read-only NumPy arrays in place of tensors.

    Raises:
      TorchFileError: (a ValueError) if the file is damaged or holds more than data.
    """
    try:
        with open(path, "rb") as file:
            return _load_zip(file) if file.read(4) == b"PK\x03\x04" else _load_sequence(file)
    except TorchFileError as e:
        raise TorchFileError(f"{os.fspath(path)}: {e}") from e
    except _DAMAGE as e:
        raise TorchFileError(
            f"{os.fspath(path)} is damaged or incomplete ({e}); get the file again"
        ) from e
    except OSError as e:
        raise TorchFileError(f"cannot read {os.fspath(path)}: {e.strerror}") from e


def _load_zip(file: BinaryIO) -> Any:
    """Reads an archive of NAME/data.pkl, NAME/data/KEY and NAME/byteorder ("little" if missing)."""
    with zipfile.ZipFile(file) as archive:
        members = _checked_members(archive, os.fstat(file.fileno()).st_size)
        order = "little"
        if "byteorder" in members:
            order = archive.read(members["byteorder"]).decode("ascii", "replace")
        if order not in ("little", "big"):
            raise TorchFileError(f"the byte order is {order[:80]!r}, neither little nor big")

        def storage(key: str, dtype: np.dtype, n: int) -> np.ndarray:
            member = members.get(f"data/{key}")
            if member is None or member.file_size != n * dtype.itemsize:
                found = "is missing" if member is None else f"has {member.file_size} bytes"
                raise TorchFileError(f"storage {key} is declared as {n} x {dtype} and {found}")
            return _decode(archive.read(member), dtype, order)

        return Machine(storage).run(io.BytesIO(archive.read(members["data.pkl"])))


def _checked_members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Returns the members under their names below the single folder of the archive."""
    if not any(name.endswith("/data.pkl") for name in archive.namelist()):
        raise TorchFileError("the archive has no data.pkl, so torch.save did not write it")
    members: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for info in archive.infolist():
        root, _, name = info.filename.partition("/")
        roots.add(root)
        parts = info.filename.split("/")
        if "\\" in info.filename or any(part in ("", ".", "..") for part in parts):
            raise TorchFileError(f"the archive has a member of the name {info.filename!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise TorchFileError(f"the member {info.filename!r} is compressed or encrypted")
        if name in members:
            raise TorchFileError(f"the member {info.filename!r} is there twice")
        members[name] = info
    if len(roots) != 1 or "data.pkl" not in members:
        raise TorchFileError("the archive is not one folder with a data.pkl")
    if sum(info.file_size for info in members.values()) > size:
        raise TorchFileError("the members of the archive are declared larger than the file")
    return members


def _load_sequence(file: BinaryIO) -> Any:
    """Reads magic number, version, system, object and storage keys; then size and data of each."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise TorchFileError("the file is empty")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:1] != b"\x80" or Machine().run(data) != _MAGIC:
            raise TorchFileError("torch.save did not write this file")
        version, system = Machine().run(data), Machine().run(data)
        if version != _VERSION or not isinstance(system, dict):
            raise TorchFileError(f"the version of its container is not {_VERSION}")
        storages: dict[str, np.ndarray] = {}

        def storage(key: str, dtype: np.dtype, n: int) -> np.ndarray:
            if n * dtype.itemsize + sum(x.nbytes for x in storages.values()) > size:
                raise TorchFileError(f"storage {key} is declared larger than the file")
            storages[key] = np.empty(n, dtype)  # filled below, because the data follows the object
            return storages[key]

        value, keys = Machine(storage).run(data), Machine().run(data)
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
            raise TorchFileError("the storages of its tensors are not those that follow")
        order = "little" if system.get("little_endian", True) else "big"
        for key in keys:
            _fill(storages[key], key, data, order)
    return value


def _fill(storage: np.ndarray, key: str, data: mmap.mmap, order: str) -> None:
    """Reads the next storage of the older container."""
    (n,) = struct.unpack("<q" if order == "little" else ">q", data.read(8))
    if n != storage.size:
        raise TorchFileError(f"storage {key} is declared with {storage.size} elements and has {n}")
    raw = data.read(storage.nbytes)
    if len(raw) != storage.nbytes:
        raise EOFError(f"storage {key} ends after {len(raw)} of {storage.nbytes} bytes")
    storage[:] = _decode(raw, storage.dtype, order)


def _decode(raw: bytes, dtype: np.dtype, order: str) -> np.ndarray:
    """Converts bytes in a byte order to an array of the dtype: (n,)."""
    words = np.frombuffer(raw, f"u{dtype.itemsize}")
    return (words if order == sys.byteorder else words.byteswap()).view(dtype)
