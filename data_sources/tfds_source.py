"""Data sets that TensorFlow Datasets (TFDS) has prepared as array_record files.

    DIR/cifar10/3.0.2/...   DIR/lsun/bedroom/3.1.0/...

These files allow random access and need no TensorFlow, unlike TFDS's other format, tfrecord. Images
are decoded on access, and cropped and scaled as score_sde does for each data set. The test split is
the split that score_sde evaluates on; for CelebA and LSUN that is TFDS's "validation".
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scorax.data_sources import resizing
from scorax.data_sources.pixels import decode
from scorax.data_sources.source import Source, check_split
from scorax.data_sources.values import Values
from scorax.utils.shapes import Size, height_and_width


class Published(NamedTuple):
    """TFDS's names for a data set, and how score_sde uses it."""

    title: str
    name: str  # with {size} or {category} where there are several variants
    test: str = "test"  # TFDS's name of the split to evaluate on
    resize: Callable[[np.ndarray, Size], np.ndarray] | None = None  # None: keep the stored size
    needs_tensorflow: bool = False  # TensorFlow is needed for preparing (not for reading)


PUBLISHED = {
    "mnist": Published("MNIST", "mnist"),
    "fashion_mnist": Published("Fashion-MNIST", "fashion_mnist"),
    "cifar10": Published("CIFAR-10", "cifar10", resize=resizing.resize_square),
    "svhn": Published("SVHN", "svhn_cropped", resize=resizing.resize_square),
    "celeba": Published("CelebA", "celeb_a", "validation", resizing.resize_celeba),
    # CelebA-HQ has a single split, which score_sde also evaluates on.
    "celebahq": Published("CelebA-HQ", "celeb_a_hq/{size}", "train", needs_tensorflow=True),
    "lsun": Published("LSUN", "lsun/{category}", "validation", resizing.resize_lsun, True),
}


class TfdsSource(Source):
    """One split of a data set, decoded on access; several threads may read at once."""

    def __init__(
        self,
        folder: Path,
        split: str,
        resize: Callable[[np.ndarray], np.ndarray],
        prepare: str = "prepare it again",
        held_out: bool = True,
        values: Values = Values(),  # noqa: B008 (immutable)
    ):
        """Opens a data set.

        Args:
          folder: the folder of one version, which holds `dataset_info.json`.
          split: TFDS's name of the split.
          resize: function that is applied to each image, uint8 (H, W, C).
          prepare: end of the message about files in another format: what to do.
          held_out: whether the split for testing is not the one for training.
          values: how pixels are read.

        Raises:
          ValueError: if the split or one of its files is missing, or has another format.
        """
        import tensorflow_datasets as tfds  # takes a second to import, so only where it is used

        self.folder, self.held_out, self._values = folder, held_out, values
        self.resize = resize
        builder = tfds.builder_from_directory(os.fspath(folder))
        splits = builder.info.splits
        if split not in splits:
            raise ValueError(
                f"'{folder}' has no split {split!r}, only {', '.join(splits)}; prepare all of it"
            )
        undecoded = {"image": tfds.decode.SkipDecoding()}
        try:
            self._records = builder.as_data_source(split, decoders=undecoded)
        except NotImplementedError as error:
            raise ValueError(
                f"'{folder}' holds {builder.info.file_format.value} files, which only TensorFlow "
                f"can read; {prepare}"
            ) from error
        for path in splits[split].filepaths:
            if not Path(path).is_file():
                raise ValueError(f"{path} is missing; prepare the data set again")
        self._channels = builder.info.features["image"].shape[-1] or 3
        features = builder.info.features
        label = features["label"] if "label" in features else None
        self.classes = list(getattr(label, "names", None) or [])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 (H, W, C), "label": int32}; label 0 if it has none.

        Raises:
          ValueError: if a file is damaged; the message names the folder.
        """
        try:
            record, name = self._records[i], f"example {i} of '{self.folder}'"
            x = decode(record["image"], name, self._channels, self._values)
        except Exception as error:  # array_record, protobuf and PIL raise a dozen types
            raise ValueError(
                f"example {i} of '{self.folder}' cannot be read ({error}); prepare the data set "
                "again"
            ) from error
        return {"image": self.resize(x), "label": np.int32(record.get("label", 0))}

    def all_labels(self) -> np.ndarray:
        """Returns the labels of all examples, int32 (N,); reads them all, but decodes no image."""
        labels = (self._records[i].get("label", 0) for i in range(len(self)))
        return np.fromiter(labels, np.int32, len(self))


def load(
    dataset: str,
    dir: str,
    split: str,
    image_size: Size,
    category: str = "",
    values: Values = Values(),  # noqa: B008 (immutable)
) -> TfdsSource:
    """Returns a split of a data set of `PUBLISHED`.

    Args:
      dataset: its key in `PUBLISHED`.
      dir: TFDS's data_dir; "" stands for $TFDS_DATA_DIR or else ~/tensorflow_datasets.
      split: "train" or "test".
      image_size: side of the examples in pixels, or (height, width).
      category: category of LSUN: bedroom, church_outdoor, ...
      values: how pixels are read.

    Raises:
      ValueError: if the data set is missing (the message says how to prepare it); see also
        `TfdsSource`.
    """
    check_split(split)
    row = PUBLISHED[dataset]
    if not category and "{category}" in row.name:
        raise ValueError(
            f"data.category='' names no part of {row.title}; set --config.data.category to "
            "bedroom, church_outdoor or another category"
        )
    name = row.name.format(size=max(height_and_width(image_size)), category=category)
    root = _data_dir(dir)
    folder = _find_version(root / name)
    how = "prepare it as array_record files"
    how += " (there TensorFlow has to be installed)" if row.needs_tensorflow else ""
    if folder is None:
        raise ValueError(
            f"{row.title} is not in '{root / name}'; {how}: {_command(name, root)}, or say where "
            "it is with --config.data.dir=DIR"
        )
    resize = row.resize or (lambda image, size: image)
    return TfdsSource(
        folder,
        row.test if split == "test" else split,
        lambda image: resize(image, image_size),
        f"{how} in another folder: {_command(name, 'DIR')}, and set --config.data.dir=DIR",
        row.test != "train",
        values,
    )


def holds(dataset: str, dir: str, image_size: Size = 1) -> bool:
    """Returns whether `dir`, as in `load`, holds a data set of `PUBLISHED` without categories."""
    name = PUBLISHED[dataset].name.format(size=max(height_and_width(image_size)))
    return _find_version(_data_dir(dir) / name) is not None


def _command(name: str, dir: str | os.PathLike) -> str:
    # The program `tfds build` does the same, but needs TensorFlow to start.
    return (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{dir}', file_format='array_record')"
        '.download_and_prepare()"'
    )


def _data_dir(dir: str) -> Path:
    return Path(dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def _find_version(folder: Path) -> Path | None:
    """Returns the folder of the newest complete version in a data set's folder, or None."""
    found = [path.parent for path in folder.glob("*/dataset_info.json")]
    versions = [p for p in found if re.fullmatch(r"\d+\.\d+\.\d+", p.name)]
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".")], default=None)
