"""Cropping and scaling of images, for each published data set as in score_sde.

Images are uint8 (H, W, C) with values 0 ... 255, or float32 in [0, 1]. A size is a number, the side
of a square, or (height, width). The
filters are antialiased, computed in float32 and use only pixels inside the image: near an edge the
weights are renormalised, as in `tf.image.resize(antialias=True)` and `jax.image.resize`. The one
deviation from score_sde is the last step: here results are clipped, and bytes rounded to whole
levels, whereas score_sde kept fractions (bilinear), or truncated them and let overshoots wrap
around (bicubic).

Source: https://github.com/yang-song/score_sde/blob/main/datasets.py
"""

import numpy as np
from PIL import Image

from scorax.utils.shapes import Size, height_and_width

BILINEAR = Image.Resampling.BILINEAR
BICUBIC = Image.Resampling.BICUBIC
CELEBA_CROP = 140  # pixels: the central square of a CelebA image that holds the face


def resize(
    image: np.ndarray, height: int, width: int, method: Image.Resampling = BILINEAR
) -> np.ndarray:
    """Returns an image (H, W, C) scaled to (height, width, C), antialiased.

    An image that already has this size is returned unchanged.
    """
    if image.shape[:2] == (height, width):
        return image
    scaled = np.empty((height, width, image.shape[2]), np.float32)
    for channel in range(image.shape[2]):
        # PIL scales floats only one plane at a time, and rounds and clips bytes between the axes.
        plane = Image.fromarray(image[..., channel].astype(np.float32))
        scaled[..., channel] = plane.resize((width, height), method)
    if image.dtype == np.uint8:
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return np.clip(scaled, 0, 1)


def resize_square(image: np.ndarray, size: Size) -> np.ndarray:
    """Scales an image of CIFAR-10 or SVHN to the size, bilinear."""
    return resize(image, *height_and_width(size))


def resize_small(image: np.ndarray, size: int) -> np.ndarray:
    """Scales an image (H, W, C) so that its short side has `size` pixels, bilinear."""
    ratio = size / min(image.shape[:2])
    return resize(image, *(round(side * ratio) for side in image.shape[:2]))


def central_crop(image: np.ndarray, size: Size) -> np.ndarray:
    """Cuts the middle out of an image (H, W, C): (*size, C).

    Raises:
      ValueError: if the image is smaller than that.
    """
    height, width = image.shape[:2]
    rows, columns = height_and_width(size)
    if height < rows or width < columns:
        raise ValueError(
            f"an image of {height}x{width} pixels has no {rows}x{columns} middle; use larger images"
        )
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]


def crop_resize(image: np.ndarray, size: Size, method: Image.Resampling = BICUBIC) -> np.ndarray:
    """Scales the largest middle part of an image (H, W, C) that has the shape of `size`.

    The result is (*size, C). For a square, the part is the central square.
    """
    rows, columns = height_and_width(size)
    ratio = min(image.shape[0] / rows, image.shape[1] / columns)
    middle = central_crop(image, (max(1, round(rows * ratio)), max(1, round(columns * ratio))))
    return resize(middle, rows, columns, method)


def resize_celeba(image: np.ndarray, size: Size) -> np.ndarray:
    """Crops and scales the face in a CelebA image: uint8 (218, 178, 3) to (*size, 3)."""
    return crop_resize(central_crop(image, CELEBA_CROP), size, BILINEAR)


def resize_lsun(image: np.ndarray, size: Size) -> np.ndarray:
    """Crops and scales an LSUN image: uint8 (H, W, 3) to (*size, 3).

    As in score_sde, an image for 128 pixels is scaled bilinearly and then cropped; for any other
    size it is cropped and then scaled bicubically.
    """
    if height_and_width(size) == (128, 128):
        size = 128
        return central_crop(resize_small(image, size), size)
    return crop_resize(image, size)
