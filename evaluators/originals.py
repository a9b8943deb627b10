"""The original images that a task starts from, and how similar its results are to them."""

import os

import ml_collections
import numpy as np
from PIL import Image

from scorax.datasets import Source, get_source
from scorax.metrics import image_pairs
from scorax.utils.rounds import Arrays

GREY = ("1", "L", "LA")  # PIL's modes of grey images


def get_originals(config: ml_collections.ConfigDict) -> Source:
    """The images in the folder `eval.images`, in the order of their names, or else of `eval.split`.

    Raises:
      ValueError: naming the file, for a file that is not an image, or whose size or kind of pixels
        differs from the config; see also `datasets.get_source`.
    """
    folder = config.eval.images
    if not folder:
        return get_source(config, config.eval.split)
    if not os.path.exists(folder):
        raise ValueError(
            f"eval.images={folder!r} does not exist; name a folder of PNG or JPEG files, or leave "
            "it empty for the images of eval.split"
        )
    config = config.copy_and_resolve_references()
    config.data.dataset, config.data.dir = "image_folder", folder
    try:
        source = get_source(config, config.eval.split)
    except ValueError as error:
        raise ValueError(f"eval.images={folder!r}: {error}") from error
    for path, _ in source.examples:
        with source.files.open(path) as file, Image.open(file) as image:
            _check(source.files.name(path), image, config.data)
    return source


def _check(name: str, image: Image.Image, data: ml_collections.ConfigDict) -> None:
    """Refuses images that the reader would convert, which would not be the user's images then."""
    if image.size != (data.image_size, data.image_size):
        raise ValueError(
            f"eval.images: {name} has {image.width}x{image.height} pixels, but the network makes "
            f"images of {data.image_size}x{data.image_size}; scale it, or cut out a square"
        )
    if data.num_channels == 1 and image.mode not in GREY:
        raise ValueError(
            f"eval.images: {name} has pixels of kind {image.mode!r}, but the network makes grey "
            "images (data.num_channels=1); convert it to grey"
        )


def likeness(x: np.ndarray, originals: np.ndarray) -> Arrays:
    """PSNR, at most 100, and SSIM of images: (N,) each; x is clipped to [0, 1] first."""
    pair = np.clip(x, 0, 1), originals
    psnr = np.minimum(image_pairs.psnr(*pair), 100)  # equal images: 100, not infinity
    return {"psnr": psnr, "ssim": image_pairs.ssim(*pair)}
