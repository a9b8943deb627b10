"""Labelled images that are held in memory, and what every source has in common.

A source is a sequence of examples, `source[i] -> {"image": uint8 (H, W, C), "label": int32}`, in an
order that never changes. Images keep the range 0 ... 255 of their files; `datasets` scales them.
Where a data set has no labels, every label is 0.
"""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

SPLITS = ("train", "test")
SPLIT_NAMES = {"train": ("train",), "test": ("test", "val")}  # of files and folders, by preference

# What files call images and labels: per split or, where a file is one split, without one.
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
          ValueError: for other types or shapes, or no example at all.
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
    """Raises ValueError unless the split is one that every source has."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from: {', '.join(SPLITS)}")


def check_images(dtype: np.dtype, shape: tuple[int, ...], labels: np.ndarray) -> None:
    """Raises ValueError unless images are uint8 (N, H, W) or (N, H, W, C), labels whole (N,)."""
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
    """Returns the file that holds a split: `dir` itself, or DIR/train and DIR/test (or val).

    Raises:
      ValueError: if there is none, naming where it was looked for.
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
        "--config.data.dir to the one or the other"
    )


def find_arrays(path: Path, names: Collection[str], split: str) -> tuple[str, str | None]:
    """Returns what a file calls the images and, where it has any, the labels of a split.

    Raises:
      ValueError: if there are no images, naming the file and what it holds.
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
    """Returns the labels called `name` of images of a shape, (N,) or (N, 1), as (N,).

    Where there are none, `name` is None and all labels are 0.
    """
    if name is None:
        return np.zeros(shape[:1], np.int32)
    labels = np.asarray(read(name))
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
