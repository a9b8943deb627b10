"""CIFAR-10: 32x32 colour images of 10 classes, 50,000 for training and 10,000 for testing.

It is read from the files that TFDS prepares, or from its "binary version": files of 10,000 records
of 3,073 bytes, which are the label and then the red, the green and the blue plane, row by row.
"""

from pathlib import Path

import numpy as np

from scorax.data_sources import resizing, tfds_source
from scorax.data_sources.arrays import ArraySource
from scorax.data_sources.source import check_split
from scorax.data_sources.tfds_source import TfdsSource
from scorax.utils.shapes import Size

FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
RECORDS = 10_000  # per file
RECORD_BYTES = 1 + 3 * 32 * 32


class ScaledArrays(ArraySource):
    """Images held in memory, each scaled to `image_size` on access."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, image_size: Size):
        """Takes images and labels as `ArraySource`, and the height and width of the examples."""
        super().__init__(images, labels, CLASSES)
        self.image_size = image_size

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 (*image_size, C), "label": int32}."""
        example = super().__getitem__(i)
        return example | {"image": resizing.resize_square(example["image"], self.image_size)}


def load(dir: str, split: str, image_size: Size = 32) -> ScaledArrays | TfdsSource:
    """Returns CIFAR-10 from `dir`, the folder of the .bin files or TFDS's data_dir.

    If `dir` is "" and data/cifar-10-batches-bin does not hold the .bin files, TFDS's default folder
    is tried next. Every image is scaled to `image_size` pixels.

    Raises:
      ValueError: if a file is missing, has the wrong size or holds a label above 9.
    """
    check_split(split)
    folder = Path(dir or "data/cifar-10-batches-bin")
    paths = [folder / name for name in FILES[split]]
    if not paths[0].is_file() and tfds_source.holds("cifar10", dir):
        return tfds_source.load("cifar10", dir, split, image_size)
    records = np.concatenate([_read_records(path) for path in paths])
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ScaledArrays(np.ascontiguousarray(images), records[:, 0], image_size)


def _read_records(path: Path) -> np.ndarray:
    """Returns the records of one file: uint8 (RECORDS, RECORD_BYTES)."""
    if not path.is_file():
        raise ValueError(
            f"CIFAR-10 is not in '{path.parent}': {path.name} is missing; get the binary version "
            "(cifar-10-binary.tar.gz) from https://www.cs.toronto.edu/~kriz/cifar.html and unpack "
            "it there, or say where it or TFDS's data_dir is with --config.data.dir=DIR"
        )
    data = np.fromfile(path, np.uint8)
    if data.size != RECORDS * RECORD_BYTES:
        raise ValueError(
            f"{path} has {data.size} bytes instead of {RECORDS * RECORD_BYTES}; fetch it again"
        )
    records = data.reshape(RECORDS, RECORD_BYTES)
    if records[:, 0].max() > 9:
        raise ValueError(
            f"{path} has the label {records[:, 0].max()}, but CIFAR-10's labels end at 9; "
            "check that it is the binary version of CIFAR-10"
        )
    return records
