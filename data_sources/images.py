"""Images in a folder or a zip, in one of the layouts of `data_sources.layouts`.

All images have one size, which is that of the examples or larger: the middle square is cut out and
scaled. What stands out (another size, too few pixels, grey among colour) is an error that names the
file, found before anything else starts; `python -m tools.prepare_dataset` brings all to one size.
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

MODES = {1: "L", 3: "RGB"}  # PIL's name of an image with this many channels
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
GREY = ("1", "L", "LA")

# For each format: whether the first 8 and the last bytes of a file of this size look whole.
WHOLE: dict[str, Callable[[bytes, bytes, int], bool]] = {
    "PNG": lambda head, tail, size: tail.endswith(b"IEND\xaeB`\x82"),
    "JPEG": lambda head, tail, size: tail.endswith(b"\xff\xd9"),
    "WEBP": lambda head, tail, size: int.from_bytes(head[4:8], "little") + 8 == size,
    "BMP": lambda head, tail, size: int.from_bytes(head[2:6], "little") == size,
}


class Header(NamedTuple):
    """What the beginning of an image file says."""

    mode: str  # PIL's
    width: int  # pixels
    height: int


class ImageFiles:
    """The images of one split, decoded when asked for, their classes taking turns."""

    def __init__(
        self,
        dir: str,
        split: str,
        image_size: int,
        num_channels: int,
        missing: str = "",
        any_size: bool = False,
    ):
        """Lists the files of a split and checks that each is a whole image and like the others.

        Args:
          dir: a folder or a .zip file.
          split: "train" or "test".
          image_size: height and width of the examples in pixels.
          num_channels: 3 for RGB, 1 for grey, into which colours are turned.
          missing: ends the message of a missing folder: where to get the data.
          any_size: whether images of different sizes are as they should be.

        Raises:
          ValueError: if the folder, the split or its images are missing, or naming the first file
            that is not a whole image, is smaller than `image_size` or stands out.
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
          ValueError: naming the file, if it cannot be decoded.
        """
        path, label = self.examples[i]
        image = decode_image(self.files, path, self.mode, self.image_size)
        return {"image": crop_resize(image, self.image_size), "label": np.int32(label)}


def load(dir: str, split: str, image_size: int, num_channels: int) -> ImageFiles:
    """Returns a split of a folder or zip of one's own images.

    Raises:
      ValueError: without a folder, and as `ImageFiles`.
    """
    if not dir:
        raise ValueError(
            "data.dir='' names no image folder; set --config.data.dir=DIR to the folder (or zip) "
            "that holds train/CLASS/*.png and test/CLASS/*.png"
        )
    return ImageFiles(dir, split, image_size, num_channels)


def load_afhq(dir: str, split: str, image_size: int, num_channels: int) -> ImageFiles:
    """Returns AFHQ (512x512 animal faces: cat 0, dog 1, wild 2) from `dir`; "" is data/afhq.

    Raises:
      ValueError: as `ImageFiles`.
    """
    missing = (
        "get AFHQ v2 or v1 (512x512) from https://github.com/clovaai/stargan-v2 and put its "
        "folders train and test there, or say where they are with --config.data.dir=DIR"
    )
    return ImageFiles(dir or "data/afhq", split, image_size, num_channels, missing)


def load_oct(dir: str, split: str, image_size: int, num_channels: int) -> ImageFiles:
    """Returns retinal OCT scans (CNV 0, DME 1, DRUSEN 2, NORMAL 3); "" is data/retinal_oct.

    They are grey and of many sizes: the middle square of each is scaled.

    Raises:
      ValueError: as `ImageFiles`.
    """
    missing = (
        "get the OCT scans of Kermany et al. (OCT2017) from https://data.mendeley.com/datasets/"
        "rscbjbr9sj and put their folders train and test, with CNV, DME, DRUSEN and NORMAL in "
        "each, there, or say where they are with --config.data.dir=DIR"
    )
    dir = dir or "data/retinal_oct"
    return ImageFiles(dir, split, image_size, num_channels, missing, any_size=True)


def check_image(files: Files, path: str) -> Header:
    """Checks the header and the end of an image file, and decodes it only if those look wrong.

    Of a file that is packed in a zip only the header is looked at: the rest has to be unpacked.

    Raises:
      ValueError: naming the file, if it is no image, has more than 8 bits a channel or is cut off.
    """
    try:
        with files.open(path) as file:
            head = file.read(8)
            file.seek(0)
            with Image.open(file) as image:
                header = Header(image.mode, *image.size)
                tail, whole = files.tail(path), WHOLE.get(image.format)
                # Some programs write more behind the end: only decoding tells.
                if tail is not None and not (whole and whole(head, tail, files.size(path))):
                    image.load()
    except Exception as error:  # PIL raises a dozen kinds, some of them not documented
        raise _damaged(files, path, error) from error
    if header.mode not in EIGHT_BIT:
        raise ValueError(
            f"{files.name(path)} has pixels of kind {header.mode!r}; convert it to 8 bits a channel"
        )
    return header


def decode_image(files: Files, path: str, mode: str, image_size: int) -> np.ndarray:
    """Returns an image: uint8 (H, W, C), at least `image_size` pixels high and wide if it can be.

    Raises:
      ValueError: naming the file, if it cannot be decoded.
    """
    try:
        with files.open(path) as file:
            data = io.BytesIO(file.read())
        with Image.open(data) as image:
            # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size. Twice the wanted size is left
            # for the better filter that follows.
            image.draft(mode, (2 * image_size, 2 * image_size))
            image = ImageOps.exif_transpose(image).convert(mode)
    except Exception as error:  # PIL raises a dozen kinds, some of them not documented
        raise _damaged(files, path, error) from error
    return np.asarray(image).reshape(image.height, image.width, -1)


def _damaged(files: Files, path: str, error: Exception) -> ValueError:
    # PIL's text for something that is no image names the file object, not the trouble.
    unknown = isinstance(error, Image.UnidentifiedImageError)
    why = "not an image" if unknown else str(error) or type(error).__name__
    return ValueError(f"{files.name(path)} cannot be decoded ({why}); replace or remove it")


def _check_alike(
    headers: dict[str, Header], image_size: int, num_channels: int, any_size: bool
) -> None:
    """Raises ValueError, naming the first image that is grey, of another size or too small."""
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
