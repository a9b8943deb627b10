"""Labelled images that are held in memory, and the names of images and labels in files."""

import re
import zlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from scorax.data_sources.source import Source, check_split
from scorax.data_sources.values import Values

# Names of splits, in files in lower case, best first.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}

# Names of images and labels in files, best first. Names without a split serve every split.
KEYS = (
    ("{split}/images", "{split}/labels"),
    ("{split}_images", "{split}_labels"),
    ("x_{split}", "y_{split}"),
    ("images", "labels"),
    ("x", "y"),
    ("arr_0", "arr_1"),
)


class ArraySource(Source):
    """Images and labels held in two arrays."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        classes: Collection[str] = (),
        held_out: bool = True,
        values: Values = Values(),  # noqa: B008 (immutable)
    ):
        """Takes images: (N, H, W) or (N, H, W, C) and labels: whole numbers (N,).

        Args:
          images: uint8, or another type of numbers that `values` can map to [0, 1].
          labels: whole numbers.
          classes: names of the labels; without names, labels that differ are named by number.
          held_out: whether a split "test" shares no image with "train".
          values: how pixels are read.

        Raises:
          ValueError: for other types or shapes, values out of range, or if there is no example.
        """
        check_images(images.dtype, images.shape, labels)
        self.images = images[..., None] if images.ndim == 3 else images
        self.labels = labels.astype(np.int32)
        self.classes = list(classes) or numbered_classes(self.labels)
        self.held_out, self._values = held_out, values
        self.levels = values.levels(images.dtype)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 or float32 (H, W, C), "label": int32}."""
        image = self._values.to_unit(self.images[i], f"image {i}")
        return {"image": image, "label": self.labels[i]}

    def all_labels(self) -> np.ndarray:
        """Returns the labels of all examples, int32 (N,)."""
        return self.labels

    def sizes(self) -> np.ndarray:
        """Returns the labels, and checksums of all images: reading memory costs little."""
        return np.concatenate([self.labels, [zlib.crc32(np.ascontiguousarray(self.images))]])


def numbered_classes(labels: np.ndarray) -> list[str]:
    """Returns the numbers 0, 1, ... as the names of labels (N,), or nothing if all labels are 0."""
    return [str(i) for i in range(int(labels.max()) + 1)] if labels.any() else []


def check_images(dtype: np.dtype, shape: tuple[int, ...], labels: np.ndarray) -> None:
    """Raises ValueError unless images are numbers (N, H, W[, C]) and labels whole numbers (N,)."""
    if dtype.kind not in "uif" or len(shape) not in (3, 4) or labels.shape != shape[:1]:
        raise ValueError(
            f"images {dtype} {shape} and labels {labels.shape} do not fit; "
            "give uint8 (N, H, W, C) and (N,)"
        )
    if labels.dtype.kind not in "iuf" or np.any(labels != np.round(labels)):
        raise ValueError(f"labels of type {labels.dtype} are not whole numbers; give int32 (N,)")
    if not shape[0]:
        raise ValueError("a data set needs at least one example, this one has none; add some")


def find_file(dir: str, split: str, suffixes: tuple[str, ...]) -> Path:
    """Returns the file that holds a split: `dir` itself if it is a file, or a file in that folder.

    The file in a folder is named train for the split "train", and test or val for "test".

    Raises:
      ValueError: if there is no such file; the message says where it was expected.
    """
    check_split(split)
    wanted = f"{split}{suffixes[0]}" + (f" or val{suffixes[0]}" if split == "test" else "")
    if not dir:
        raise ValueError(
            f"data.dir='' names no data; set --config.data.dir to a {suffixes[0]} file or to the "
            f"folder that holds {wanted}"
        )
    if Path(dir).is_file():
        return Path(dir)
    files = [p for p in sorted(Path(dir).glob("*")) if p.suffix.lower() in suffixes and p.is_file()]
    named = {path.stem.lower(): path for path in reversed(files)}
    for name in SPLIT_NAMES[split]:
        if name in named:
            return named[name]
    raise ValueError(
        f"'{dir}' is neither a {suffixes[0]} file nor a folder with {wanted}; set "
        "--config.data.dir to one of these"
    )


def find_arrays(path: Path, names: Collection[str], split: str) -> tuple[str, str | None]:
    """Returns the names, in a file, of the images and labels of a split; None without labels.

    The name of the images tells whether they belong to one split, see `serves_all_splits`.

    Raises:
      ValueError: if there are no images; the message lists what the file holds.
    """
    pairs = [
        tuple(key.format(split=name) for key in pair)
        for pair in KEYS
        for name in SPLIT_NAMES[split]
    ]
    for images, labels in pairs:
        if images in names:
            return images, labels if labels in names else None
    raise ValueError(
        f"{path} holds no images of the {split} split, only {', '.join(sorted(names)) or 'nothing'}"
        f"; name them 'images' (and 'labels') or '{split}_images' (and '{split}_labels')"
    )


def read_labels(read: Callable[[str], np.ndarray], name: str | None, shape: tuple) -> np.ndarray:
    """Returns the labels called `name`, stored as (N,) or (N, 1), as (N,); zeros if `name` is None.

    Args:
      read: returns the array of a name.
      name: name of the labels, or None.
      shape: shape of the images, (N, ...).
    """
    if name is None:
        return np.zeros(shape[:1], np.int32)
    labels = np.asarray(read(name))
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


_SPLIT_WORDS = {name for names in SPLIT_NAMES.values() for name in names}


def names_split(path: Path) -> bool:
    """Whether a file is named after a split."""
    return path.stem.lower() in _SPLIT_WORDS


def serves_all_splits(path: Path, image_key: str) -> bool:
    """Whether the images of this name, in this file, serve as both splits."""
    return not (names_split(path) or _SPLIT_WORDS & set(re.split("[_/]", image_key)))
