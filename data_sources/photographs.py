"""Tiles of the color photographs that come with scikit-image and need no download.

Each photograph is cut into non-overlapping tiles, starting at its top left corner; the rest at
the right and at the bottom is not used. The two splits use different photographs, so that they
share no pixel. The two photographs of the motorcycle are a stereo pair.
"""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from scorax.data_sources.arrays import ArraySource
from scorax.data_sources.source import check_split
from scorax.utils.shapes import Size, height_and_width

FILES = {  # files in the folder skimage/data
    "train": ("astronaut.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
    "test": ("chelsea.png", "coffee.png"),
}


def load(split: str, image_size: Size) -> ArraySource:
    """Returns the tiles of a split: uint8 (*image_size, 3), without labels.

    With 32 pixels there are 1,206 tiles for training and 342 for testing. They are in a random
    order that never changes, so that consecutive tiles come from all photographs.

    Raises:
      ValueError: for an unknown split or an impossible size, or if the package is missing.
    """
    check_split(split)
    photographs = [_read(name) for name in FILES[split]]
    tiles = np.concatenate([cut(photograph, image_size) for photograph in photographs])
    if not len(tiles):
        limit = max(min(photograph.shape[:2]) for photograph in photographs)
        raise ValueError(
            f"data.image_size={image_size} is larger than every photograph of the {split} split; "
            f"set it to {limit} or less"
        )
    np.random.default_rng(0).shuffle(tiles)
    return ArraySource(tiles, np.zeros(len(tiles), np.int32))


def cut(image: np.ndarray, size: Size) -> np.ndarray:
    """Returns the tiles of an image (H, W, C), row by row: (N, *size, C).

    Raises:
      ValueError: if the size is not positive.
    """
    h, w = height_and_width(size)
    height, width, channels = image.shape
    rows, columns = height // h, width // w
    whole = image[: rows * h, : columns * w]
    grid = whole.reshape(rows, h, columns, w, channels).swapaxes(1, 2)
    return grid.reshape(rows * columns, h, w, channels)


def _read(name: str) -> np.ndarray:
    """Returns a photograph: uint8 (H, W, 3)."""
    # The package is located but not imported, because the import takes a second.
    spec = importlib.util.find_spec("skimage")
    folder = Path(spec.submodule_search_locations[0]) if spec else Path("skimage")
    path = folder / "data" / name
    if not path.is_file():
        raise ValueError(
            f"the photograph {name} of scikit-image is not installed; run 'pip install "
            "scikit-image', or set --config.data.dataset to other images"
        )
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # damaged PNG files raise SyntaxError
        raise ValueError(f"{path} is damaged ({error}); install scikit-image again") from error
