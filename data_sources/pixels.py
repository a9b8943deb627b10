"""Decoding image files: exact for 8, 16 and 32 bits, transparent pixels over a background.

Pillow keeps the high byte of colours with 16 bits. Both bytes can be had by decoding twice: once as
it does by default, and once as if the file had the other order of bytes.
"""

import io
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps

from scorax.data_sources.files import Files
from scorax.data_sources.values import Values

# Number of channels -> PIL's mode of 8-bit images: grey, grey and alpha, RGB, RGB and alpha.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B"}  # PIL's suffixes of 16-bit layouts
# PIL refuses images beyond twice this number of pixels, for fear that they exhaust the memory.
Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, 2**30)

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
    dtype: np.dtype  # of the pixels


def check_image(files: Files, path: str) -> Header:
    """Checks the header and the end of an image file, and decodes it only if these look wrong.

    If the file is compressed in a zip, only the header is checked, because reading the end would
    mean unpacking the whole file.

    Raises:
      ValueError: if the file is not an image or is truncated; the message names the file.
    """
    try:
        with files.open(path) as file:
            head = file.read(8)
            file.seek(0)
            with Image.open(file) as image:
                # Of other formats, the orientation may only be known after decoding.
                turned = image.format == "JPEG" and image.getexif().get(0x0112, 1) > 4
                size = image.size[::-1] if turned else image.size
                header = Header(image.mode, *size, _dtype(image))
                tail, whole = files.tail(path), WHOLE.get(image.format)
                # Some programs append data after the image, so only decoding can tell.
                if tail is not None and not (whole and whole(head, tail, files.size(path))):
                    image.load()
    except Exception as error:  # PIL raises a dozen types, some of them undocumented
        raise damaged(files.name(path), error) from error
    return header


def read_image(
    files: Files, path: str, channels: int, values: Values, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Returns an image of a folder or zip; see `decode`.

    Raises:
      ValueError: if the file cannot be decoded; the message names it.
    """
    name = files.name(path)
    try:
        with files.open(path) as file:
            data = file.read()
    except Exception as error:  # zipfile raises many types
        raise damaged(name, error) from error
    return decode(data, name, channels, values, size)


def decode(
    data: bytes,
    name: str | os.PathLike,
    channels: int,
    values: Values = Values(),  # noqa: B008 (immutable)
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decodes an image file, turned upright; of an animation, the first frame.

    Args:
      data: the contents of the file.
      name: of the file, for messages.
      channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha). Without alpha,
        transparent images are composed over `values.background`.
      values: how pixels are read.
      size: (height, width) that suffices: a JPEG may be decoded at a half, a quarter or an eighth
        of its size, but at no less than twice this size, unless the file itself is smaller.

    Returns:
      uint8 (H, W, C), or float32 in [0, 1] for files with more than 8 bits, see `values.to_unit`.

    Raises:
      ValueError: if the file cannot be decoded, has values out of range, or is transparent and
        `values.background` is "refuse"; the message names it.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            dtype = _dtype(image)
            if dtype == np.uint8:
                x, alpha = _decode_bytes(image, channels, size)
            else:
                x, alpha = _decode_deep(data, image, dtype)
    except Exception as error:  # PIL raises a dozen types, some of them undocumented
        raise damaged(name, error) from error
    x = values.to_unit(x, str(name))
    x = _with_colours(x, 1 if channels < 3 else 3)
    if channels in (2, 4):
        alpha = np.ones((*x.shape[:2], 1), np.float32) if alpha is None else alpha
        extra = np.rint(255 * alpha) if x.dtype == np.uint8 else alpha
        return np.concatenate([x, extra.astype(x.dtype)], -1)
    return _compose(x, alpha, values.background, name)


def damaged(name: str | os.PathLike, error: Exception) -> ValueError:
    """The error that says that a file is not an image that can be read."""
    # PIL's message for a file that is not an image names the file object, not the problem.
    unknown = isinstance(error, Image.UnidentifiedImageError)
    why = "not an image" if unknown else str(error) or type(error).__name__
    return ValueError(f"{name} cannot be decoded ({why}); replace or remove it")


def _dtype(image: Image.Image) -> np.dtype:
    """The type of the pixels in the file, from its header."""
    if image.mode == "F":
        return np.dtype(np.float32)
    if image.mode == "I":
        return np.dtype(np.int32)
    deep = image.mode.startswith("I;16") or ";16" in _raw_mode(image)
    return np.dtype(np.uint16 if deep else np.uint8)


def _raw_mode(image: Image.Image) -> str:
    """PIL's name for the layout of the pixels in the file; "" if it has none."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _decode_bytes(
    image: Image.Image, channels: int, size: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels uint8 (H, W, 1 or 3), and alpha float32 (H, W, 1) in [0, 1] or None."""
    grey = channels < 3
    if size is not None:
        image.draft("L" if grey else "RGB", (2 * size[1], 2 * size[0]))
    transparent = image.has_transparency_data
    image = ImageOps.exif_transpose(image)
    if transparent:
        # Converted by way of RGBA, because PIL drops the transparency of other conversions.
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"), np.float32)[..., None] / 255
        image = image.convert("RGB")
    image = image.convert("L" if grey else "RGB")
    x = np.asarray(image).reshape(image.height, image.width, -1)
    return x, alpha if transparent else None


def _decode_deep(
    data: bytes, image: Image.Image, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (H, W, 1 or 3) of a type other than uint8, and alpha float32 in [0, 1] or None."""
    if image.mode in GREY:
        x = np.asarray(image).astype(dtype)[..., None]
    elif image.mode in ("RGB", "RGBA"):
        x = _both_bytes(data, _raw_mode(image))
    else:
        raise ValueError(f"16 bits in the mode {image.mode}, which is neither grey nor RGB")
    key, alpha = image.info.get("transparency"), None
    if x.shape[2] in (2, 4):
        x, alpha = x[..., :-1], x[..., -1:].astype(np.float32) / np.iinfo(dtype).max
    elif key is not None:
        alpha = np.any(x != np.asarray(key), -1, keepdims=True).astype(np.float32)
    turn = _UPRIGHT.get(image.getexif().get(0x0112, 1))  # PIL turns TIFF files by itself
    return (x, alpha) if turn is None else (turn(x), alpha if alpha is None else turn(alpha))


def _both_bytes(data: bytes, raw: str) -> np.ndarray:
    """The 16-bit channels of an image that PIL would reduce to their high bytes."""
    if raw == "LA;16B":  # four bytes a pixel, which is what PIL calls RGBA
        both = _decode_as(data, "RGBA").astype(np.uint16)
        return 256 * both[..., ::2] + both[..., 1::2]
    high, low = _decode_as(data, raw), _decode_as(data, raw[:-1] + _OTHER_BYTE[raw[-1]])
    return 256 * high.astype(np.uint16) + low


def _decode_as(data: bytes, raw: str) -> np.ndarray:
    """The pixels, uint8 (H, W, C), of a file whose pixels are laid out as PIL's `raw`."""
    with Image.open(io.BytesIO(data)) as image:
        tiles = []
        for codec, extents, offset, arguments in image.tile:
            changed = (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw
            tiles.append(ImageFile._Tile(codec, extents, offset, changed))
        image.tile = tiles
        return np.asarray(image)


_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF orientation -> its inverse
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def _with_colours(x: np.ndarray, count: int) -> np.ndarray:
    """Repeats grey, or takes the luma of colours as PIL does (ITU-R 601-2): (H, W, count)."""
    if x.shape[2] == count:
        return x
    if count == 3:
        return np.repeat(x, 3, -1)
    return (x @ np.array([0.299, 0.587, 0.114])).astype(np.float32)[..., None]


def _compose(
    x: np.ndarray, alpha: np.ndarray | None, background: str, name: str | os.PathLike
) -> np.ndarray:
    """Composes pixels over a uniform background."""
    if alpha is None or alpha.min() == 1:
        return x
    if background == "refuse":
        raise ValueError(
            f"{name} has transparent pixels; with data.background='refuse' replace or remove it, "
            "or set --config.data.background to white or black"
        )
    white = np.float32((255 if x.dtype == np.uint8 else 1) * (background == "white"))
    composed = alpha * x + (1 - alpha) * white
    return (np.rint(composed) if x.dtype == np.uint8 else composed).astype(x.dtype)
