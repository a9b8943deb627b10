"""What all data sources have in common: numbered, labelled images.

A source is a sequence of examples, `source[i] -> {"image": (H, W, C), "label": int32}`, in an order
that never changes. Images are uint8, 0 ... 255, or float32 in [0, 1] if their files have more than
8 bits; `datasets` scales both. In a data set without labels, every label is 0.
"""

import abc
import zlib
from collections.abc import Sequence

import numpy as np

SPLITS = ("train", "test")
_SAMPLE = 256  # number of examples whose pixels identify a data set


class Source(abc.ABC):
    """A data set, or a split of it.

    Attributes:
      classes: names of the labels 0, 1, ...; empty if they have none, or if there are no labels.
      held_out: whether the split "test" shares no image with "train".
      levels: number of values that a pixel can have; 0 if pixels are continuous.
      left_out: what was found beside the images and is not used, in words; "" if nothing was.
    """

    classes: Sequence[str] = ()
    held_out: bool = True
    levels: int = 256
    left_out: str = ""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of examples."""

    @abc.abstractmethod
    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 or float32 (H, W, C), "label": int32}."""

    def all_labels(self) -> np.ndarray:
        """Returns the labels of all examples, int32 (N,); may read every example."""
        return np.array([self[i]["label"] for i in range(len(self))], np.int32)

    def sizes(self) -> Sequence[int]:
        """Returns numbers that come with the examples at no cost, such as the sizes of files."""
        return ()

    def content(self) -> dict[str, int]:
        """Identifies the examples: their number, and a checksum of `sizes` and of some examples.

        The same images at another place have the same content, and images that were replaced have
        another one, unless all are of the same size and only few were replaced.
        """
        crc = zlib.crc32(np.asarray(self.sizes(), np.int64))
        chosen = np.linspace(0, len(self) - 1, min(len(self), _SAMPLE)).round().astype(int)
        for i in chosen.tolist():
            example = self[i]
            crc = zlib.crc32(np.ascontiguousarray(example["image"]), crc)
            crc = zlib.crc32(np.int32(example["label"]).tobytes(), crc)
        return {"num_images": len(self), "crc32": crc}


def check_split(split: str) -> None:
    """Raises ValueError unless the split is in `SPLITS`."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from: {', '.join(SPLITS)}")
