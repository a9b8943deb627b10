"""The shape of the images in a config: `data.image_size` is a number, or (height, width)."""

from collections.abc import Sequence

import ml_collections

Size = int | Sequence[int]


def height_and_width(size: Size) -> tuple[int, int]:
    """Returns (height, width) in pixels; a single number is the side of a square.

    Raises:
      ValueError: for anything but one or two positive whole numbers.
    """
    sides = (size, size) if isinstance(size, int) else size
    pair = isinstance(sides, Sequence) and not isinstance(sides, str) and len(sides) == 2
    if not pair or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"data.image_size={size!r} must be a positive number of pixels, or height and width, "
            "as in --config.data.image_size=24,40"
        )
    return tuple(sides)


def image_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
    """Returns the shape (H, W, C) of the images of a config, which may be its section `data`.

    Raises:
      ValueError: see `height_and_width`.
    """
    data = config.data if "data" in config else config
    return (*height_and_width(data.image_size), data.num_channels)


def size_text(size: Size) -> str:
    """Returns a size as the command line takes it: "32", or "24,40" for height and width."""
    height, width = height_and_width(size)
    return str(height) if height == width else f"{height},{width}"
