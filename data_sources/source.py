"""What all data sources have in common: numbered, labelled arrays.

A source is a sequence of examples, `source[i] -> {"image": array, "label": int32}`, in an order
that never changes. The array is called "image", as in score_sde, whatever it is. Images are uint8
(H, W, C), 0 ... 255, or float32 in [0, 1] if their files have more than 8 bits; `datasets` scales
both. Examples of other kinds are float32 in units of their own, of a shape that
`utils.shapes.KINDS` lists. In a data set without labels, every label is 0.
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
      kind: what an example is: "images", "series", "points" or "fields".
      classes: names of the labels 0, 1, ...; empty if they have none, or if there are no labels.
      held_out: whether the split "test" shares no image with "train".
      levels: number of values that a pixel can have; 0 if values are continuous.
      left_out: what was found beside the images and is not used, in words; "" if nothing was.
    """

    kind: str = "images"
    classes: Sequence[str] = ()
    held_out: bool = True
    levels: int = 256
    left_out: str = ""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of examples."""

    @abc.abstractmethod
    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 or float32 array, "label": int32}."""

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Returns the logarithm of the density of the data at x: (N, *S) -> (N,), in nats.

        Raises:
          NotImplementedError: if it is not known, as for all data that were measured.
        """
        raise NotImplementedError(f"the density of {type(self).__name__} is not known")

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


class Arrays(Source):
    """Examples other than images, held in memory.

    Attributes:
      examples: float32 (N, *S).
      labels: int32 (N,).
    """

    levels = 0

    def __init__(
        self,
        kind: str,
        examples: np.ndarray,
        labels: np.ndarray | None = None,
        classes: Sequence[str] = (),
        held_out: bool = True,
    ):
        self.kind, self.classes, self.held_out = kind, list(classes), held_out
        self.examples = np.asarray(examples, np.float32)
        self.examples.setflags(write=False)
        labels = np.zeros(len(examples)) if labels is None else labels
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": float32 array, "label": int32}."""
        return {"image": self.examples[i], "label": self.labels[i]}

    def all_labels(self) -> np.ndarray:
        """Returns the labels of all examples, int32 (N,)."""
        return self.labels

    def sizes(self) -> np.ndarray:
        """Returns a checksum of all examples: reading memory costs little."""
        return np.array([zlib.crc32(np.ascontiguousarray(self.examples))])


def check_split(split: str) -> None:
    """Raises ValueError unless the split is in `SPLITS`."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from: {', '.join(SPLITS)}")
