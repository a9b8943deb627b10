"""NumPy archives of images: one file for both splits, or DIR/train.npz and DIR/test.npz.

`data_sources.arrays.KEYS` lists the names that the arrays may have, including those of MedMNIST and
Keras. A file whose names do not mention a split serves both splits. The images are held in memory,
read-only; store a data set that is too large for memory in HDF5.
"""

from pathlib import Path

import numpy as np

from scorax.data_sources.arrays import (
    ArraySource,
    find_arrays,
    find_file,
    read_labels,
    serves_all_splits,
)
from scorax.data_sources.values import Values


def load(
    dir: str,
    split: str,
    values: Values = Values(),  # noqa: B008 (immutable)
) -> ArraySource:
    """Returns the images, (N, H, W) or (N, H, W, C), and labels, (N,), of a split.

    Images are uint8, or another type of numbers that `values` can map to [0, 1]. An array `classes`
    of strings names the labels.

    Raises:
      ValueError: if the file is missing, damaged or holds something else; the message names it.
    """
    path = find_file(dir, split, (".npz",))
    with _open(path) as file:
        image_key, label_key = find_arrays(path, file.files, split)
        try:
            images = file[image_key]
            labels = read_labels(file.__getitem__, label_key, images.shape)
            classes = [str(name) for name in file["classes"]] if "classes" in file.files else []
        except Exception as error:  # zipfile, zlib and NumPy raise many types for damaged files
            raise _damaged(path, error) from error
    try:
        both = serves_all_splits(path, image_key)
        source = ArraySource(images, labels, classes, not both, values)
        values.to_unit(images, "images")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    source.images.setflags(write=False)
    return source


def _open(path: Path) -> np.lib.npyio.NpzFile:
    try:
        file = np.load(path, allow_pickle=False)
    except Exception as error:  # the same types as above
        raise _damaged(path, error) from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} is a single array; write an archive with numpy.savez")
    return file


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as arrays ({error}); write or fetch it again")
