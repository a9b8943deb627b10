"""Cropping and scaling of images, for each published data set as in score_sde.

Images are uint8 (H, W, C), values 0 ... 255, here and everywhere before `datasets` scales them. The
filters are antialiased, computed in float32 and use only pixels inside the image: near an edge the
weights are renormalised, as in `tf.image.resize(antialias=True)` and `jax.image.resize`. The one
deviation from score_sde is the last step: here results are clipped and rounded to whole levels,
whereas score_sde kept fractions (bilinear), or truncated them and let overshoots wrap around
(bicubic).

Source: https://github.com/yang-song/score_sde/blob/main/datasets.py
"""

import numpy as np
from PIL import Image

BILINEAR = Image.Resampling.BILINEAR
BICUBIC = Image.Resampling.BICUBIC
CELEBA_CROP = 140  # pixels: the central square of a CelebA image that holds the face


def resize(
    image: np.ndarray, height: int, width: int, method: Image.Resampling = BILINEAR
) -> np.ndarray:
    """Returns image: uint8 (H, W, C) scaled to uint8 (height, width, C), antialiased.

    An image that already has this size is returned unchanged.
    """
    if image.shape[:2] == (height, width):
        return image
    scaled = np.empty((height, width, image.shape[2]), np.float32)
    for channel in range(image.shape[2]):
        # PIL scales floats only one plane at a time, and rounds and clips bytes between the axes.
        plane = Image.fromarray(image[..., channel].astype(np.float32))
        scaled[..., channel] = plane.resize((width, height), method)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def resize_square(image: np.ndarray, size: int) -> np.ndarray:
    """Scales an image of CIFAR-10 or SVHN: uint8 (H, W, C) to uint8 (size, size, C), bilinear."""
    return resize(image, size, size)


def resize_small(image: np.ndarray, size: int) -> np.ndarray:
    """Scales an image: uint8 (H, W, C) so that its short side has `size` pixels, bilinear."""
    ratio = size / min(image.shape[:2])
    return resize(image, *(round(side * ratio) for side in image.shape[:2]))


def central_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Cuts the central square out of an image: uint8 (H, W, C) to uint8 (size, size, C).

    Raises:
      ValueError: if the image is smaller than the square.
    """
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"an image of {height}x{width} pixels has no {size}x{size} middle; use larger images"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


def crop_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Scales the central square of an image: uint8 (H, W, C) to uint8 (size, size, C), bicubic."""
    return resize(central_crop(image, min(image.shape[:2])), size, size, BICUBIC)


def resize_celeba(image: np.ndarray, size: int) -> np.ndarray:
    """Crops and scales the face in a CelebA image: uint8 (218, 178, 3) to uint8 (size, size, 3)."""
    return resize_small(central_crop(image, CELEBA_CROP), size)


def resize_lsun(image: np.ndarray, size: int) -> np.ndarray:
    """Crops and scales an LSUN image: uint8 (H, W, 3) to uint8 (size, size, 3).

    As in score_sde, an image for 128 pixels is scaled bilinearly and then cropped; for any other
    size it is cropped and then scaled bicubically.
    """
    if size == 128:
        return central_crop(resize_small(image, size), size)
    return crop_resize(image, size)
