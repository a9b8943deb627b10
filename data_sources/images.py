"""Images in a folder or a zip, in one of the layouts of `data_sources.layouts`.

All images must have the same size, at least as large as the examples; the largest middle part of
each that has the shape of the examples is cut out and scaled. Opening a split checks every file,
and raises an error that names the first file with another size, too few pixels, another number of
bits or no colour. `python -m tools.prepare_dataset` brings images of different sizes to one size.
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from scorax.data_sources.files import OneFile, open_files
from scorax.data_sources.layouts import SUFFIXES, list_examples
from scorax.data_sources.pixels import GREY, MODES, Header, check_image, read_image
from scorax.data_sources.resizing import crop_resize
from scorax.data_sources.source import Source, check_split
from scorax.data_sources.values import Values, on_levels
from scorax.utils.shapes import Size, height_and_width, size_text


class ImageFiles(Source):
    """The images of one split, decoded on access; the classes alternate."""

    def __init__(
        self,
        dir: str,
        split: str,
        image_size: Size,
        num_channels: int,
        values: Values = Values(),  # noqa: B008 (immutable)
        missing: str = "",
        any_size: bool = False,
        one_file: bool = False,
    ):
        """Lists the files of a split and checks that all are complete images of one kind.

        Args:
          dir: a folder or a .zip file.
          split: "train" or "test".
          image_size: side of the examples in pixels, or (height, width).
          num_channels: 1 for grey, to which colours are converted; 2 for grey and alpha, 3 for RGB,
            4 for RGB and alpha.
          values: how pixels are read.
          missing: end of the message about a missing folder: where to get the data.
          any_size: whether images of different sizes are allowed.
          one_file: whether `dir` may also be a single image.

        Raises:
          ValueError: if the folder, the split or its images are missing, or if a file is not a
            complete image, is smaller than `image_size` or differs from the others; the message
            names the first such file.
        """
        check_split(split)
        if num_channels not in MODES:
            raise ValueError(
                f"data.num_channels={num_channels} is not possible for image files; set 1 or 3, or "
                "2 or 4 for images with transparency"
            )
        self.image_size = height_and_width(image_size)
        self.num_channels, self.values = num_channels, values.check()
        missing = missing or (
            f"put the images into '{dir}/{split}/CLASS/', or set --config.data.dir=DIR to the "
            "folder (or zip) that holds train and test"
        )
        if not Path(dir).exists():
            kind = "zip" if dir.endswith(".zip") else "image folder"
            raise ValueError(f"the {kind} '{dir}' does not exist; {missing}")
        single = Path(dir).is_file() and dir.lower().endswith(SUFFIXES)
        if single and not one_file:
            raise ValueError(f"'{dir}' is a single image; give the folder of the images")
        self.files = OneFile(Path(dir)) if single else open_files(Path(dir))
        found = list_examples(self.files, split, missing)
        self.classes = [name for name in found.classes if name]
        self.examples, self.held_out = found.examples, found.has_splits
        self.left_out = found.describe_rest()
        paths = [path for path, _ in self.examples]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            headers = list(pool.map(lambda path: check_image(self.files, path), paths))
        named = dict(zip(map(self.files.name, paths), headers, strict=True))
        _check_alike(named, self.image_size, num_channels, any_size)
        self.levels = values.levels(headers[0].dtype)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 or float32 (*image_size, C), "label": int32}.

        Raises:
          ValueError: if the file cannot be decoded; the message names it.
        """
        path, label = self.examples[i]
        image = read_image(self.files, path, self.num_channels, self.values, self.image_size)
        image = on_levels(crop_resize(image, self.image_size), self.levels)
        return {"image": image, "label": np.int32(label)}

    def all_labels(self) -> np.ndarray:
        """Returns the labels of all examples, int32 (N,)."""
        return np.array([label for _, label in self.examples], np.int32)

    def sizes(self) -> np.ndarray:
        """Returns the labels, and the sizes of the files in bytes."""
        sizes = [self.files.size(path) for path, _ in self.examples]
        return np.concatenate([self.all_labels(), sizes])

    def names(self) -> list[str]:
        """Returns the path of each example inside the folder or zip."""
        return [path for path, _ in self.examples]


def load(
    dir: str,
    split: str,
    image_size: Size,
    num_channels: int,
    values: Values = Values(),  # noqa: B008 (immutable)
) -> ImageFiles:
    """Returns a split of a folder or zip of the user's own images.

    Raises:
      ValueError: if `dir` is empty; see also `ImageFiles`.
    """
    if not dir:
        raise ValueError(
            "data.dir='' names no image folder; set --config.data.dir=DIR to the folder (or zip) "
            "that holds train/CLASS/*.png and test/CLASS/*.png"
        )
    return ImageFiles(dir, split, image_size, num_channels, values)


def load_afhq(
    dir: str,
    split: str,
    image_size: Size,
    num_channels: int,
    values: Values = Values(),  # noqa: B008 (immutable)
) -> ImageFiles:
    """Returns AFHQ (512x512 animal faces: cat 0, dog 1, wild 2) from `dir` or else data/afhq.

    Raises:
      ValueError: see `ImageFiles`.
    """
    missing = (
        "get AFHQ v2 or v1 (512x512) from https://github.com/clovaai/stargan-v2 and put its "
        "folders train and test there, or say where they are with --config.data.dir=DIR"
    )
    return ImageFiles(dir or "data/afhq", split, image_size, num_channels, values, missing)


def load_oct(
    dir: str,
    split: str,
    image_size: Size,
    num_channels: int,
    values: Values = Values(),  # noqa: B008 (immutable)
) -> ImageFiles:
    """Returns retinal OCT scans (CNV 0, DME 1, DRUSEN 2, NORMAL 3) from `dir` or data/retinal_oct.

    The scans are grey and of many sizes; the central square of each is scaled.

    Raises:
      ValueError: see `ImageFiles`.
    """
    missing = (
        "get the OCT scans of Kermany et al. (OCT2017) from https://data.mendeley.com/datasets/"
        "rscbjbr9sj and put their folders train and test there, with CNV, DME, DRUSEN and NORMAL "
        "in each, or say where they are with --config.data.dir=DIR"
    )
    dir = dir or "data/retinal_oct"
    return ImageFiles(dir, split, image_size, num_channels, values, missing, any_size=True)


def _check_alike(
    headers: dict[str, Header], image_size: tuple[int, int], num_channels: int, any_size: bool
) -> None:
    """Raises ValueError for images that stand out or are too small; names the first."""
    grey = [name for name, header in headers.items() if header.mode in GREY]
    if grey and num_channels > 2:
        raise ValueError(
            f"{_all(grey)} greyscale where data.num_channels={num_channels} asks for colour; "
            "convert it to RGB or remove it, or set --config.data.num_channels=1"
        )
    types = Counter(header.dtype for header in headers.values())
    other = [name for name, h in headers.items() if h.dtype != types.most_common(1)[0][0]]
    if other:
        raise ValueError(
            f"{_all(other)} of {headers[other[0]].dtype} pixels where most have "
            f"{types.most_common(1)[0][0]}; convert it, or remove it"
        )
    sizes = {name: tuple(sorted((h.width, h.height))) for name, h in headers.items()}
    usual = Counter(sizes.values()).most_common(1)[0][0]
    odd = [name for name, size in sizes.items() if size != usual]
    if odd and not any_size:
        raise ValueError(
            f"{_all(odd)} of another size ({_size(headers[odd[0]])} pixels) than most "
            f"({usual[1]}x{usual[0]}); bring all to one size with 'python -m "
            "tools.prepare_dataset' or remove it"
        )
    height, width = image_size
    small = [name for name, h in headers.items() if h.height < height or h.width < width]
    if small:
        raise ValueError(
            f"{_all(small)} too small ({_size(headers[small[0]])} pixels) for "
            f"data.image_size={size_text(image_size)}; set a smaller --config.data.image_size or "
            "remove it"
        )


def _all(names: list[str]) -> str:
    others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]}{others} is"


def _size(header: Header) -> str:
    return f"{header.width}x{header.height}"
