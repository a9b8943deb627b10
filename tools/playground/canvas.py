"""What somebody drew in the browser, as an image and as the part of it that is hidden."""

from typing import Any

import numpy as np
from PIL import Image

RED = "#ff0000"  # the paint that hides
_SHARE = 0.2  # of a pixel under red paint, from which on the pixel is hidden


def read_canvas(
    value: dict[str, Any] | None, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the value of an image editor at the size of a network's images.

    Args:
      value: "background" and "layers", RGBA uint8 (H', W', 4), each None if it is empty.
      shape: (H, W, C) with C = 1 or 3.

    Returns:
      The image (H, W, C) in [0, 1] without the red paint, on black; and where a fifth or more of a
      pixel is under red paint, (H, W).

    Raises:
      ValueError: if there is no drawing.
    """
    sheets = [value["background"], *value["layers"]] if value else []
    sheets = [np.asarray(sheet) for sheet in sheets if sheet is not None]
    if not sheets:
        raise ValueError("the canvas is empty; draw something, or choose a picture to start from")
    height, width = max(sheet.shape[:2] for sheet in sheets)
    image, red = np.zeros((height, width, 3)), np.zeros((height, width))
    for i, sheet in enumerate(sheets):
        sheet = _resize(sheet, height, width) / 255
        color, alpha = sheet[..., :3], sheet[..., 3:]
        if i or value["background"] is None:
            hides = (color[..., 0] > 0.55) & (color[..., 1:].max(-1) < 0.45)
            red = np.maximum(red, hides * alpha[..., 0])
            alpha = alpha * ~hides[..., None]
        image = alpha * color + (1 - alpha) * image
    h, w, channels = shape
    image = _resize(np.floor(255 * image + 0.5).astype(np.uint8), h, w) / 255
    image = image if channels == 3 else image.mean(-1, keepdims=True)
    cover = _resize(np.floor(255 * red + 0.5).astype(np.uint8), h, w) / 255
    return image.astype(np.float32), cover >= _SHARE


def to_canvas(image: np.ndarray, side: int) -> np.ndarray:
    """An image (H, W, C) in [0, 1] as a background: uint8 (H', W', 3), the longer side `side`."""
    factor = max(1, side // max(image.shape[:2]))
    pixels = np.floor(255 * np.clip(image, 0, 1) + 0.5).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).repeat(factor, 0).repeat(factor, 1)


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averages or repeats the pixels of uint8 (H', W'[, C])."""
    picture = Image.fromarray(pixels)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX))
