"""NumPy archives of images: one file for both splits, or DIR/train.npz and DIR/test.npz.

`data_sources.arrays.KEYS` lists the names that arrays may have, MedMNIST's and Keras's among them.
A file whose names say no split serves both. The images are held in memory, read-only: what does not
fit there belongs into HDF5.
"""

from pathlib import Path

import numpy as np

from scorax.data_sources.arrays import ArraySource, find_arrays, find_file, read_labels


def load(dir: str, split: str) -> ArraySource:
    """Returns the images, uint8 (N, H, W) or (N, H, W, C), and labels, (N,), of a split.

    Raises:
      ValueError: naming the file, if it is missing, damaged or holds something else.
    """
    path = find_file(dir, split, (".npz",))
    with _open(path) as file:
        image_key, label_key = find_arrays(path, file.files, split)
        try:
            images = file[image_key]
            labels = read_labels(file.__getitem__, label_key, images.shape)
        except Exception as error:  # whatever zipfile, zlib and NumPy raise for damaged files
            raise _damaged(path, error) from error
    try:
        source = ArraySource(images, labels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    source.images.setflags(write=False)
    return source


def _open(path: Path) -> np.lib.npyio.NpzFile:
    try:
        file = np.load(path, allow_pickle=False)
    except Exception as error:  # as above
        raise _damaged(path, error) from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} is a single array; write an archive with numpy.savez")
    return file


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as arrays ({error}); write or fetch it again")
