"""Cropping and scaling of images, each published data set's as in score_sde.

Images are uint8 (H, W, C), values 0 ... 255, here and everywhere before `datasets` scales them. The
filters are antialiased, computed in float32 and evaluated over the picture alone: near an edge the
weights are normalised, as in `tf.image.resize(antialias=True)` and `jax.image.resize`. The one
difference to score_sde is the end: results are clipped and rounded to whole levels, where the
original kept fractions (bilinear) or cut them off and let overshoots wrap around (bicubic).

Source: https://github.com/yang-song/score_sde/blob/main/datasets.py
"""

import numpy as np
from PIL import Image

BILINEAR = Image.Resampling.BILINEAR
BICUBIC = Image.Resampling.BICUBIC
CELEBA_CROP = 140  # pixels in the middle of a CelebA image that hold the face


def resize(
    image: np.ndarray, height: int, width: int, method: Image.Resampling = BILINEAR
) -> np.ndarray:
    """Returns image: uint8 (H, W, C) scaled to uint8 (height, width, C), antialiased.

    An image that has this size already is returned as it is.
    """
    if image.shape[:2] == (height, width):
        return image
    scaled = np.empty((height, width, image.shape[2]), np.float32)
    for channel in range(image.shape[2]):
        # PIL scales floats one plane at a time; bytes it would round and clip between the two axes.
        plane = Image.fromarray(image[..., channel].astype(np.float32))
        scaled[..., channel] = plane.resize((width, height), method)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def resize_square(image: np.ndarray, size: int) -> np.ndarray:
    """Returns CIFAR-10's and SVHN's image: uint8 (H, W, C) as uint8 (size, size, C), bilinear."""
    return resize(image, size, size)


def resize_small(image: np.ndarray, size: int) -> np.ndarray:
    """Scales image: uint8 (H, W, C) so that its short side has `size` pixels, bilinear."""
    ratio = size / min(image.shape[:2])
    return resize(image, *(round(side * ratio) for side in image.shape[:2]))


def central_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the middle of image: uint8 (H, W, C) as uint8 (size, size, C).

    Raises:
      ValueError: if the image is smaller than that.
    """
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"an image of {height}x{width} pixels has no {size}x{size} middle; use larger images"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


def crop_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the middle square of image: uint8 (H, W, C) as uint8 (size, size, C), bicubic."""
    return resize(central_crop(image, min(image.shape[:2])), size, size, BICUBIC)


def resize_celeba(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the face of CelebA's image: uint8 (218, 178, 3) as uint8 (size, size, 3)."""
    return resize_small(central_crop(image, CELEBA_CROP), size)


def resize_lsun(image: np.ndarray, size: int) -> np.ndarray:
    """Returns LSUN's image: uint8 (H, W, 3) as uint8 (size, size, 3).

    For 128 pixels bilinear and then cropped, otherwise cropped and then bicubic, as published.
    """
    if size == 128:
        return central_crop(resize_small(image, size), size)
    return crop_resize(image, size)
