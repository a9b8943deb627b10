"""Labelled images that are held in memory, and what every source has in common.

A source is a sequence of examples, `source[i] -> {"image": uint8 (H, W, C), "label": int32}`, in an
order that never changes. Images keep the range 0 ... 255 of their files; `datasets` scales them.
"""

import numpy as np

SPLITS = ("train", "test")


class ArraySource:
    """Images and labels held in two arrays."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        """Takes images: uint8 (N, H, W) or (N, H, W, C) and labels: whole numbers (N,).

        Raises:
          ValueError: for other types or shapes, or no example at all.
        """
        images = images[..., None] if images.ndim == 3 else images
        if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"images {images.dtype} {images.shape} and labels {labels.shape} do not fit; "
                "give uint8 (N, H, W, C) and (N,)"
            )
        if not len(images):
            raise ValueError("a data set needs at least one example, this one has none; add some")
        self.images = images
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
