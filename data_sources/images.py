"""Images in a folder or a zip, in one of the layouts of `data_sources.layouts`.

All images must have the same size, at least as large as the examples; the central square of each is
cut out and scaled. Opening a split checks every file, and raises an error that names the first file
with another size, too few pixels or no colour. `python -m tools.prepare_dataset` brings images of
different sizes to one size.
"""

import io
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from scorax.data_sources.arrays import check_split
from scorax.data_sources.files import Files, open_files
from scorax.data_sources.layouts import list_examples
from scorax.data_sources.resizing import crop_resize

MODES = {1: "L", 3: "RGB"}  # number of channels -> PIL's mode
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
GREY = ("1", "L", "LA")

# For each format: (first 8 bytes, last bytes, size of the file) -> whether the file looks complete.
WHOLE: dict[str, Callable[[bytes, bytes, int], bool]] = {
    "PNG": lambda head, tail, size: tail.endswith(b"IEND\xaeB`\x82"),
    "JPEG": lambda head, tail, size: tail.endswith(b"\xff\xd9"),
    "WEBP": lambda head, tail, size: int.from_bytes(head[4:8], "little") + 8 == size,
    "BMP": lambda head, tail, size: int.from_bytes(head[2:6], "little") == size,
}


class Header(NamedTuple):
    """The properties in the header of an image file."""

    mode: str  # PIL's name
    width: int  # pixels
    height: int


class ImageFiles:
    """The images of one split, decoded on access; the classes alternate."""

    def __init__(
        self,
        dir: str,
        split: str,
        image_size: int,
        num_channels: int,
        missing: str = "",
        any_size: bool = False,
    ):
        """Lists the files of a split and checks that all are complete images of one kind.

        Args:
          dir: a folder or a .zip file.
          split: "train" or "test".
          image_size: height and width of the examples in pixels.
          num_channels: 3 for RGB, 1 for grey; with 1, colour images are converted to grey.
          missing: end of the message about a missing folder: where to get the data.
          any_size: whether images of different sizes are allowed.

        Raises:
          ValueError: if the folder, the split or its images are missing, or if a file is not a
            complete image, is smaller than `image_size` or differs from the others; the message
            names the first such file.
        """
        check_split(split)
        if num_channels not in MODES:
            raise ValueError(f"data.num_channels={num_channels} is not possible; set 1 or 3")
        self.image_size = image_size
        self.mode = MODES[num_channels]
        missing = missing or (
            f"put the images into '{dir}/{split}/CLASS/', or set --config.data.dir=DIR to the "
            "folder (or zip) that holds train and test"
        )
        if not Path(dir).exists():
            kind = "zip" if dir.endswith(".zip") else "image folder"
            raise ValueError(f"the {kind} '{dir}' does not exist; {missing}")
        self.files = open_files(Path(dir))
        self.classes, self.examples = list_examples(self.files, split, missing)
        paths = [path for path, _ in self.examples]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            headers = list(pool.map(lambda path: check_image(self.files, path), paths))
        named = dict(zip(map(self.files.name, paths), headers, strict=True))
        _check_alike(named, image_size, num_channels, any_size)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 (image_size, image_size, C), "label": int32}.

        Raises:
          ValueError: if the file cannot be decoded; the message names it.
        """
        path, label = self.examples[i]
        image = decode_image(self.files, path, self.mode, self.image_size)
        return {"image": crop_resize(image, self.image_size), "label": np.int32(label)}


def load(dir: str, split: str, image_size: int, num_channels: int) -> ImageFiles:
    """Returns a split of a folder or zip of the user's own images.

    Raises:
      ValueError: if `dir` is empty; see also `ImageFiles`.
    """
    if not dir:
        raise ValueError(
            "data.dir='' names no image folder; set --config.data.dir=DIR to the folder (or zip) "
            "that holds train/CLASS/*.png and test/CLASS/*.png"
        )
    return ImageFiles(dir, split, image_size, num_channels)


def load_afhq(dir: str, split: str, image_size: int, num_channels: int) -> ImageFiles:
    """Returns AFHQ (512x512 animal faces: cat 0, dog 1, wild 2) from `dir` or else data/afhq.

    Raises:
      ValueError: see `ImageFiles`.
    """
    missing = (
        "get AFHQ v2 or v1 (512x512) from https://github.com/clovaai/stargan-v2 and put its "
        "folders train and test there, or say where they are with --config.data.dir=DIR"
    )
    return ImageFiles(dir or "data/afhq", split, image_size, num_channels, missing)


def load_oct(dir: str, split: str, image_size: int, num_channels: int) -> ImageFiles:
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
    return ImageFiles(dir, split, image_size, num_channels, missing, any_size=True)


def check_image(files: Files, path: str) -> Header:
    """Checks the header and the end of an image file, and decodes it only if these look wrong.

    If the file is compressed in a zip, only the header is checked, because reading the end would
    mean unpacking the whole file.

    Raises:
      ValueError: if the file is not an image, has more than 8 bits per channel or is truncated; the
        message names the file.
    """
    try:
        with files.open(path) as file:
            head = file.read(8)
            file.seek(0)
            with Image.open(file) as image:
                header = Header(image.mode, *image.size)
                tail, whole = files.tail(path), WHOLE.get(image.format)
                # Some programs append data after the image, so only decoding can tell.
                if tail is not None and not (whole and whole(head, tail, files.size(path))):
                    image.load()
    except Exception as error:  # PIL raises a dozen types, some of them undocumented
        raise _damaged(files, path, error) from error
    if header.mode not in EIGHT_BIT:
        raise ValueError(
            f"{files.name(path)} has pixels of kind {header.mode!r}; convert it to 8 bits a channel"
        )
    return header


def decode_image(files: Files, path: str, mode: str, image_size: int) -> np.ndarray:
    """Returns an image: uint8 (H, W, C), perhaps decoded at a reduced size.

    The reduced height and width are at least `image_size`, unless the file itself is smaller.

    Raises:
      ValueError: if the file cannot be decoded; the message names it.
    """
    try:
        with files.open(path) as file:
            data = io.BytesIO(file.read())
        with Image.open(data) as image:
            # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size. Keep twice the wanted size: the
            # filter that scales the rest is better.
            image.draft(mode, (2 * image_size, 2 * image_size))
            image = ImageOps.exif_transpose(image).convert(mode)
    except Exception as error:  # PIL raises a dozen types, some of them undocumented
        raise _damaged(files, path, error) from error
    return np.asarray(image).reshape(image.height, image.width, -1)


def _damaged(files: Files, path: str, error: Exception) -> ValueError:
    # PIL's message for a file that is not an image names the file object, not the problem.
    unknown = isinstance(error, Image.UnidentifiedImageError)
    why = "not an image" if unknown else str(error) or type(error).__name__
    return ValueError(f"{files.name(path)} cannot be decoded ({why}); replace or remove it")


def _check_alike(
    headers: dict[str, Header], image_size: int, num_channels: int, any_size: bool
) -> None:
    """Raises ValueError for images that are grey, of another size or too small; names the first."""
    grey = [name for name, header in headers.items() if header.mode in GREY]
    if grey and num_channels == 3:
        raise ValueError(
            f"{_all(grey)} greyscale where data.num_channels=3 asks for colour; convert it to RGB "
            "or remove it, or set --config.data.num_channels=1"
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
    small = [name for name, size in sizes.items() if size[0] < image_size]
    if small:
        raise ValueError(
            f"{_all(small)} too small ({_size(headers[small[0]])} pixels) for "
            f"data.image_size={image_size}; set a smaller --config.data.image_size or remove it"
        )


def _all(names: list[str]) -> str:
    others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]}{others} is"


def _size(header: Header) -> str:
    return f"{header.width}x{header.height}"
