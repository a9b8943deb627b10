"""The shapes of examples, as `config.data` describes them.

An example is an array: its kind, `data.kind`, says what it is and which shape it has.

    images   (H, W, C)      data.image_size, a number or (height, width); data.num_channels
    series   (L, C)         data.length, data.num_channels
    points   (C,)           data.num_channels
    fields   (L, H, W, C)   data.length, data.image_size, data.num_channels

A network sees the same shape, except for series with an embedding (utils/embeddings.py): these are
images of `data.image_size`.
"""

from collections.abc import Callable, Sequence

import ml_collections

from scorax.utils.tables import lookup

Size = int | Sequence[int]
Shape = tuple[int, ...]


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


def size_text(size: Size) -> str:
    """Returns a size as the command line takes it: "32", or "24,40" for height and width."""
    height, width = height_and_width(size)
    return str(height) if height == width else f"{height},{width}"


def image_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
    """Returns the shape (H, W, C) of the images of a config, which may be its section `data`.

    Raises:
      ValueError: see `height_and_width`.
    """
    data = _data(config)
    return (*height_and_width(data.image_size), data.num_channels)


def example_shape(config: ml_collections.ConfigDict) -> Shape:
    """Returns the shape of an example of a config, which may be its section `data`.

    Raises:
      ValueError: for an unknown kind, or a length or size out of range.
    """
    data = _data(config)
    return lookup(KINDS, data.kind, "kind of data (data.kind)")(data)


def model_shape(config: ml_collections.ConfigDict) -> Shape:
    """Returns the shape of an example as the network sees it.

    Raises:
      ValueError: see `example_shape`.
    """
    data = _data(config)
    if data.kind != "series" or not data.embedding:
        return example_shape(data)
    height, width, channels = image_shape(data)
    return height, width, channels * (2 if data.embedding == "stft" else 1)


def _data(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    return config.data if "data" in config else config


def _length(data: ml_collections.ConfigDict) -> int:
    if data.length < 1:
        raise ValueError(
            f"data.length={data.length} must be at least 1 for data.kind={data.kind!r}"
        )
    return data.length


# kind -> function of `config.data` that returns the shape of an example
KINDS: dict[str, Callable[[ml_collections.ConfigDict], Shape]] = {
    "images": image_shape,
    "series": lambda data: (_length(data), data.num_channels),
    "points": lambda data: (data.num_channels,),
    "fields": lambda data: (_length(data), *image_shape(data)),
}
