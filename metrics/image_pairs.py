"""Similarity of images to originals: PSNR and SSIM, as scikit-image defines them.

Images are (N, H, W, C) on the host; image i is compared with original i. Results are (N,) in double
precision. The range of the values, from black to white, is 255 for uint8 and otherwise 1, unless
the caller gives it.
"""

import functools

import numpy as np
from numpy.typing import ArrayLike
from skimage.metrics import structural_similarity

_GAUSSIAN_SIZE = 11  # pixels: size of the window whose weights have standard deviation 1.5


def psnr(images: ArrayLike, originals: ArrayLike, data_range: float | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio 10 log10(range^2 / mean squared error), in decibels.

    Args:
      images, originals: (N, H, W, C).
      data_range: white minus black; None: the default in the module docstring.

    Returns:
      (N,), infinite for equal images.

    Raises:
      ValueError: for images that cannot be compared.
    """
    x, y, data_range = _check(images, originals, data_range)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(data_range**2 / np.mean((x - y) ** 2, axis=(1, 2, 3)))


def ssim(
    images: ArrayLike,
    originals: ArrayLike,
    data_range: float | None = None,
    gaussian: bool = False,
    size: int = 7,
) -> np.ndarray:
    """Structural similarity (Wang et al. 2004, equation 13), with K1 = .01 and K2 = .03.

    The result is the mean over the channels and over all pixels whose window lies inside the image.

    Args:
      images, originals: (N, H, W, C).
      data_range: white minus black; None: the default in the module docstring.
      gaussian: True for Gaussian weights with standard deviation 1.5 in a window of 11, as in the
        paper; False for equal weights and the sample covariance.
      size: size of the window with equal weights, an odd number of pixels.

    Returns:
      (N,), 1 for equal images.

    Raises:
      ValueError: for images that cannot be compared, or are smaller than the window.
    """
    x, y, data_range = _check(images, originals, data_range)
    size = _GAUSSIAN_SIZE if gaussian else size
    if size < 3 or size % 2 == 0 or min(x.shape[1:3]) < size:
        raise ValueError(
            f"SSIM with a window of {size} pixels of images of {x.shape[1]}x{x.shape[2]} cannot be "
            "computed; give an odd window size of at least 3 and images at least as large as it"
        )
    options = {"gaussian_weights": gaussian, "use_sample_covariance": not gaussian}
    similarity = functools.partial(
        structural_similarity, win_size=size, data_range=data_range, channel_axis=-1, **options
    )
    return np.array([similarity(*pair) for pair in zip(x, y, strict=True)])


def _check(
    images: ArrayLike, originals: ArrayLike, data_range: float | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns both arrays as float64, and the range of their values."""
    images, originals = np.asarray(images), np.asarray(originals)
    if images.ndim != 4 or images.shape != originals.shape or 0 in images.shape:
        raise ValueError(
            f"images of shape {images.shape} cannot be compared with originals of shape "
            f"{originals.shape}; give both the same shape (N, H, W, C), without a 0"
        )
    if images.dtype != originals.dtype and np.uint8 in (images.dtype, originals.dtype):
        raise ValueError(
            f"images are {images.dtype} and originals {originals.dtype}; give both the same range "
            "and type"
        )
    if data_range is None:
        data_range = 255.0 if images.dtype == np.uint8 else 1.0
    if not data_range > 0:
        raise ValueError(f"data_range={data_range} must be positive")
    x, y = images.astype(np.float64), originals.astype(np.float64)
    for name, z in (("images", x), ("originals", y)):
        if not np.isfinite(z).all():
            raise ValueError(
                f"{np.sum(~np.isfinite(z))} of {z.size} values of {name} are not finite"
            )
    return x, y, float(data_range)
