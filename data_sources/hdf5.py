"""Images in HDF5 files: one file for both splits, or DIR/train.h5 and DIR/test.h5.

`data_sources.arrays.KEYS` lists the names that the data sets in a file may have. A file whose names
do not mention a split serves both splits. Reading is fastest if each chunk holds one image, or if
the file is not chunked. HDF5 lets only one thread read at a time.
"""

from pathlib import Path

import h5py
import numpy as np

from scorax.data_sources.arrays import (
    check_images,
    find_arrays,
    find_file,
    numbered_classes,
    read_labels,
    serves_all_splits,
)
from scorax.data_sources.source import Source
from scorax.data_sources.values import Values


class HDF5Source(Source):
    """Images that stay in their file, with labels in memory."""

    def __init__(
        self,
        path: Path,
        split: str,
        values: Values = Values(),  # noqa: B008 (immutable)
    ):
        """Opens the images, (N, H, W) or (N, H, W, C), and labels, (N,), of a split.

        Images are uint8, or another type of numbers that `values` can map to [0, 1].

        Raises:
          ValueError: if the file is damaged or holds something else; the message names the file.
        """
        self.path = path
        try:
            file = h5py.File(path, "r", locking="best-effort")  # some disks do not support locks
            names = _dataset_names(file)
        except Exception as error:  # OSError, RuntimeError and KeyError all occur
            raise self._damaged(error) from error
        image_key, label_key = find_arrays(path, names, split)
        self.images = file[image_key]
        try:
            labels = read_labels(lambda name: file[name][()], label_key, self.images.shape)
        except Exception as error:  # the same types as above
            raise self._damaged(error) from error
        try:
            check_images(self.images.dtype, self.images.shape, labels)
            self.levels = values.levels(self.images.dtype)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self.labels = labels.astype(np.int32)
        self.classes, self._values = numbered_classes(self.labels), values
        self.held_out = not serves_all_splits(path, image_key)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 or float32 (H, W, C), "label": int32}.

        Raises:
          ValueError: if that part of the file is damaged or has values out of range; the message
            names the file.
        """
        try:
            image = self.images[i]
        except OSError as error:
            raise self._damaged(error, f"image {i} of ") from error
        image = self._values.to_unit(image, f"image {i} of {self.path}")
        return {"image": image[..., None] if image.ndim == 2 else image, "label": self.labels[i]}

    def all_labels(self) -> np.ndarray:
        """Returns the labels of all examples, int32 (N,)."""
        return self.labels

    def sizes(self) -> np.ndarray:
        """Returns the labels."""
        return self.labels

    def _damaged(self, error: Exception, part: str = "") -> ValueError:
        return ValueError(
            f"{part}{self.path} cannot be read as HDF5 ({error}); write or fetch the file again"
        )


def load(
    dir: str,
    split: str,
    values: Values = Values(),  # noqa: B008 (immutable)
) -> HDF5Source:
    """Returns a split from `dir`, which is a file or a folder with files train and test.

    Raises:
      ValueError: if there is no such file; see also `HDF5Source`.
    """
    return HDF5Source(find_file(dir, split, (".h5", ".hdf5")), split, values)


def _dataset_names(file: h5py.File) -> list[str]:
    names = []
    file.visititems(lambda name, x: names.append(name) if isinstance(x, h5py.Dataset) else None)
    return names
