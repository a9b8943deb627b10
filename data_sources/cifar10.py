"""CIFAR-10 in its "binary version": 32x32 colour images, 10 classes, 50,000 and 10,000.

A file is 10,000 records of 3,073 bytes: the label, then the red, green and blue plane, row by row.
"""

from pathlib import Path

import numpy as np

from data_sources.arrays import ArraySource, check_split

FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
RECORDS = 10_000  # a file
RECORD_BYTES = 1 + 3 * 32 * 32


def load(dir: str, split: str) -> ArraySource:
    """Returns CIFAR-10 from the .bin files in `dir`; "" stands for data/cifar-10-batches-bin.

    Raises:
      ValueError: if a file is missing, has a wrong size or holds another label than 0 ... 9.
    """
    check_split(split)
    folder = Path(dir or "data/cifar-10-batches-bin")
    records = np.concatenate([_read_records(folder / name) for name in FILES[split]])
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ArraySource(np.ascontiguousarray(images), records[:, 0])


def _read_records(path: Path) -> np.ndarray:
    """Returns the records of one file: uint8 (RECORDS, RECORD_BYTES)."""
    if not path.is_file():
        raise ValueError(
            f"CIFAR-10 is not in '{path.parent}': {path.name} is missing; get the binary version "
            "(cifar-10-binary.tar.gz) from https://www.cs.toronto.edu/~kriz/cifar.html and unpack "
            "it there, or say where its files are with --config.data.dir=DIR"
        )
    data = np.fromfile(path, np.uint8)
    if data.size != RECORDS * RECORD_BYTES:
        raise ValueError(
            f"{path} has {data.size} bytes instead of {RECORDS * RECORD_BYTES}; fetch it again"
        )
    records = data.reshape(RECORDS, RECORD_BYTES)
    if records[:, 0].max() > 9:
        raise ValueError(
            f"{path} has the label {records[:, 0].max()} where CIFAR-10's end at 9; "
            "check that it is the binary version of CIFAR-10"
        )
    return records
