"""Labelled images that are held in memory, and what all data sources have in common.

A source is a sequence of examples, `source[i] -> {"image": uint8 (H, W, C), "label": int32}`, in an
order that never changes. Images keep the range 0 ... 255 of their files; `datasets` scales them.
In a data set without labels, every label is 0.
"""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

SPLITS = ("train", "test")
SPLIT_NAMES = {"train": ("train",), "test": ("test", "val")}  # of files and folders, best first

# Names of images and labels in files, best first. Names without a split serve every split.
KEYS = (
    ("{split}/images", "{split}/labels"),
    ("{split}_images", "{split}_labels"),
    ("x_{split}", "y_{split}"),
    ("images", "labels"),
    ("x", "y"),
    ("arr_0", "arr_1"),
)


class ArraySource:
    """Images and labels held in two arrays."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        """Takes images: uint8 (N, H, W) or (N, H, W, C) and labels: whole numbers (N,).

        Raises:
          ValueError: for other types or shapes, or if there is no example.
        """
        check_images(images.dtype, images.shape, labels)
        self.images = images[..., None] if images.ndim == 3 else images
        self.labels = labels.astype(np.int32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 (H, W, C), "label": int32}."""
        return {"image": self.images[i], "label": self.labels[i]}


def check_split(split: str) -> None:
    """Raises ValueError unless the split is in `SPLITS`."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from: {', '.join(SPLITS)}")


def check_images(dtype: np.dtype, shape: tuple[int, ...], labels: np.ndarray) -> None:
    """Raises ValueError unless images are uint8 (N, H, W[, C]) and labels whole numbers (N,)."""
    if len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        raise ValueError(
            f"images {shape} have their channels first; transpose them to (N, H, W, C)"
        )
    if dtype != np.uint8 or len(shape) not in (3, 4) or labels.shape != shape[:1]:
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
    wanted = " or ".join(f"{name}{suffixes[0]}" for name in SPLIT_NAMES[split])
    if not dir:
        raise ValueError(
            f"data.dir='' names no data; set --config.data.dir to a {suffixes[0]} file or to the "
            f"folder that holds {wanted}"
        )
    if Path(dir).is_file():
        return Path(dir)
    paths = [Path(dir) / f"{name}{s}" for name in SPLIT_NAMES[split] for s in suffixes]
    for path in paths:
        if path.is_file():
            return path
    raise ValueError(
        f"'{dir}' is neither a {suffixes[0]} file nor a folder with {wanted}; set "
        "--config.data.dir to one of these"
    )


def find_arrays(path: Path, names: Collection[str], split: str) -> tuple[str, str | None]:
    """Returns the names, in a file, of the images and labels of a split; None without labels.

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
