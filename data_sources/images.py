"""Folders of images, one subfolder a class, as AFHQ is laid out.

    DIR/train/cat/*.png   DIR/train/dog/*.png   ...   DIR/test/cat/*.png   ...

Labels count the class names of all splits in alphabetical order. A split folder may also hold its
images directly: all of them have label 0 then. The test split may be called `val`. Files of other
kinds than those of `SUFFIXES` and hidden files are passed over.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data_sources.arrays import check_split

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FOLDERS = {"train": ("train",), "test": ("test", "val")}  # of each split, the first that exists
MODES = {1: "L", 3: "RGB"}  # PIL's name of an image with this many channels
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
TAIL = 64  # bytes read from the end of a file

# For each format: whether the first 8 and the last bytes of a file of this size look whole.
WHOLE: dict[str, Callable[[bytes, bytes, int], bool]] = {
    "PNG": lambda head, tail, size: tail.endswith(b"IEND\xaeB`\x82"),
    "JPEG": lambda head, tail, size: tail.endswith(b"\xff\xd9"),
    "WEBP": lambda head, tail, size: int.from_bytes(head[4:8], "little") + 8 == size,
    "BMP": lambda head, tail, size: int.from_bytes(head[2:6], "little") == size,
}


class ImageFolder:
    """The images of one split, decoded when asked for, their classes taking turns."""

    def __init__(self, dir: str, split: str, image_size: int, num_channels: int, missing: str = ""):
        """Lists the files of a split and checks that each is a whole image.

        Args:
          dir: folder that holds the split folders.
          split: "train" or "test".
          image_size: height and width of the examples in pixels: the short side of an image is
            scaled to it and the middle cut out.
          num_channels: 3 for RGB, 1 for grey.
          missing: ends the message of a missing folder: where to get the data.

        Raises:
          ValueError: if the folder, the split or its images are missing, or for a file that is not
            a whole image.
        """
        check_split(split)
        if num_channels not in MODES:
            raise ValueError(f"data.num_channels={num_channels} is not possible; set 1 or 3")
        self.image_size = image_size
        self.mode = MODES[num_channels]
        root = _find_split(Path(dir), split, missing)
        self.classes, self.examples = _list_examples(root, _class_names(Path(dir)))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for _ in pool.map(check_image, [path for path, _ in self.examples]):
                pass

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 (image_size, image_size, C), "label": int32}.

        Raises:
          ValueError: naming the file, if it cannot be decoded.
        """
        path, label = self.examples[i]
        image = decode_image(path, self.image_size, self.mode)
        return {"image": image, "label": np.int32(label)}


def load(dir: str, split: str, image_size: int, num_channels: int) -> ImageFolder:
    """Returns a split of a folder of one's own images.

    Raises:
      ValueError: without a folder, and as `ImageFolder`.
    """
    if not dir:
        raise ValueError(
            "data.dir='' names no image folder; set --config.data.dir=DIR to the folder that "
            "holds train/CLASS/*.png and test/CLASS/*.png"
        )
    return ImageFolder(dir, split, image_size, num_channels)


def load_afhq(dir: str, split: str, image_size: int, num_channels: int) -> ImageFolder:
    """Returns AFHQ (512x512 animal faces: cat 0, dog 1, wild 2) from `dir`; "" is data/afhq.

    Raises:
      ValueError: as `ImageFolder`.
    """
    missing = (
        "get AFHQ v2 or v1 (512x512) from https://github.com/clovaai/stargan-v2 and put its "
        "folders train and test there, or say where they are with --config.data.dir=DIR"
    )
    return ImageFolder(dir or "data/afhq", split, image_size, num_channels, missing)


def check_image(path: Path) -> None:
    """Checks the header and the end of an image file, and decodes it only if those look wrong.

    Raises:
      ValueError: naming the file, if it is no image, has more than 8 bits a channel or is cut off.
    """
    try:
        with path.open("rb") as file, Image.open(file) as image:
            mode = image.mode
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            tail = file.read()
            file.seek(0)
            whole = image.format in WHOLE and WHOLE[image.format](file.read(8), tail, size)
        if not whole:  # some programs write more behind the end: only decoding tells
            with Image.open(path) as image:
                image.load()
    except Exception as error:  # PIL raises a dozen kinds, some of them not documented
        raise ValueError(_damaged(path, error)) from error
    if mode not in EIGHT_BIT:
        raise ValueError(f"{path} has pixels of kind {mode!r}; convert it to 8 bits a channel")


def decode_image(path: Path, image_size: int, mode: str) -> np.ndarray:
    """Returns the middle of an image, scaled: uint8 (image_size, image_size, C).

    Raises:
      ValueError: naming the file, if it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size. Twice the wanted size is left
            # for the better filter below.
            image.draft(mode, (2 * image_size, 2 * image_size))
            image = ImageOps.exif_transpose(image).convert(mode)
    except Exception as error:  # PIL raises a dozen kinds, some of them not documented
        raise ValueError(_damaged(path, error)) from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    image = image.resize((image_size, image_size), Image.Resampling.LANCZOS, box)
    return np.asarray(image).reshape(image_size, image_size, -1)


def _damaged(path: Path, error: Exception) -> str:
    # PIL's text for something that is no image names the file object, not the trouble.
    unknown = isinstance(error, Image.UnidentifiedImageError)
    why = "not an image" if unknown else str(error) or type(error).__name__
    return f"{path} cannot be decoded ({why}); replace or remove it"


def _find_split(dir: Path, split: str, missing: str) -> Path:
    """Returns the folder of a split."""
    for name in FOLDERS[split]:
        if (dir / name).is_dir():
            return dir / name
    what = f"the image folder '{dir}' does not exist"
    if dir.is_dir():
        what = f"the image folder '{dir}' has no folder {' or '.join(FOLDERS[split])}"
    missing = missing or (
        f"put the images into '{dir}/{split}/CLASS/', or set --config.data.dir=DIR to the folder "
        "that holds train and test"
    )
    raise ValueError(f"{what}; {missing}")


def _class_names(dir: Path) -> list[str]:
    """Returns the class folders of all splits, so that a class has one label in each of them."""
    splits = [dir / name for names in FOLDERS.values() for name in names]
    return sorted({c.name for s in splits if s.is_dir() for c in _visible(s) if c.is_dir()})


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.suffix.lower() in SUFFIXES]


def _list_examples(root: Path, classes: list[str]) -> tuple[list[str], list[tuple[Path, int]]]:
    """Returns the class names and the (file, label) of a split folder."""
    folders = {root / name: label for label, name in enumerate(classes) if (root / name).is_dir()}
    direct = _images(root)
    if direct and folders:
        raise ValueError(
            f"'{root}' holds both images ({direct[0].name}) and class folders "
            f"({next(iter(folders)).name}); move its images into class folders"
        )
    if direct:
        classes, folders = [""], {root: 0}
    found = []
    for folder, label in folders.items():
        paths = _images(folder)
        if not paths:
            raise ValueError(
                f"'{folder}' holds no image; put {', '.join(SUFFIXES)} files there or remove it"
            )
        found += [(turn, label, path) for turn, path in enumerate(paths)]
    if not found:
        raise ValueError(
            f"'{root}' holds no image; put class folders with {', '.join(SUFFIXES)} files there"
        )
    # In turns, so that a batch in order has all classes and not the first one alone.
    return classes, [(path, label) for _, label, path in sorted(found)]
