"""The images and measurements that a task starts from, and how similar its results are to images.

Pictures of the user's own, in a folder, a zip or a single file, are never scaled or cut out: their
size has to be right.
"""

import os

import ml_collections
import numpy as np
from PIL import Image

from scorax.data_sources.images import ImageFiles
from scorax.data_sources.pixels import GREY
from scorax.data_sources.source import Source
from scorax.data_sources.values import Values
from scorax.datasets import get_source
from scorax.metrics import image_pairs
from scorax.utils.rounds import Arrays
from scorax.utils.shapes import image_shape


def get_originals(config: ml_collections.ConfigDict) -> Source:
    """The pictures in `eval.images`, in the order of their names, or else the split `eval.split`.

    Raises:
      ValueError: naming the file, for a file that is not an image, or whose size or kind of pixels
        differs from the config; see also `datasets.get_source`.
    """
    if config.eval.images and config.data.kind != "images":
        raise ValueError(
            f"eval.images={config.eval.images!r} names pictures, but data.kind={config.data.kind!r}"
            "; name a file with gaps by eval.measurements, or leave it empty for eval.split"
        )
    if config.eval.images:
        return read_pictures(config, "images", image_shape(config))
    return get_source(config, config.eval.split)


def count_originals(config: ml_collections.ConfigDict, source: Source, limit: int) -> int:
    """The number of images to work on: all of the user's own pictures, or `limit` of the split."""
    return len(source) if config.eval.images else min(limit, len(source))


def read_pictures(
    config: ml_collections.ConfigDict, field: str, shape: tuple[int, int, int]
) -> ImageFiles:
    """Opens the pictures that a field of `config.eval` names, all of a shape (H, W, C).

    Raises:
      ValueError: naming field and file, for a file that is not an image, or whose size or kind of
        pixels is another.
    """
    path, data = config.eval[field], config.data
    if not os.path.exists(path):
        raise ValueError(
            f"eval.{field}={path!r} does not exist; name a folder of pictures or a single one"
            + (", or leave it empty for the images of eval.split" if field == "images" else "")
        )
    values = Values(tuple(data.value_range), data.background)
    kind = "images" if field == "images" else "pictures"
    wanted = f"the network {'makes' if field == 'images' else 'needs'} {kind}"
    try:
        source = ImageFiles(path, "test", shape[:2], shape[2], values, any_size=True, one_file=True)
    except ValueError as error:
        raise ValueError(f"eval.{field}={path!r}: {error}") from error
    for name in source.names():
        with source.files.open(name) as file, Image.open(file) as image:
            _check(f"eval.{field}: {source.files.name(name)}", image, shape, wanted)
    return source


def _check(name: str, image: Image.Image, shape: tuple[int, int, int], wanted: str) -> None:
    """Refuses images that the reader would convert, which would not be the user's images then."""
    height, width, channels = shape
    if image.size != (width, height):
        raise ValueError(
            f"{name} has {image.width}x{image.height} pixels, but {wanted} of {width}x{height}; "
            "scale it, or cut out a part"
        )
    if channels < 3 and image.mode not in GREY and not (image.mode == "P" and _is_grey(image)):
        raise ValueError(
            f"{name} has pixels of kind {image.mode!r}, but {wanted} that are grey; convert it to "
            "grey"
        )


def _is_grey(image: Image.Image) -> bool:
    """Whether all colours of a palette are grey."""
    red, green, blue = np.asarray(image.convert("RGB")).reshape(-1, 3).T
    return bool((red == green).all() and (green == blue).all())


def file_stems(names: list[str]) -> list[str]:
    """Names for results of pictures: without suffix, each once, and without folders."""
    stems = [os.path.splitext(name)[0].replace("/", "_") for name in names]
    several = {stem for stem in stems if stems.count(stem) > 1}
    return [
        name.replace("/", "_") if stem in several else stem
        for name, stem in zip(names, stems, strict=True)
    ]


def likeness(x: np.ndarray, originals: np.ndarray) -> Arrays:
    """PSNR, at most 100, and SSIM of images: (N,) each; x is clipped to [0, 1] first."""
    pair = np.clip(x, 0, 1), originals
    psnr = np.minimum(image_pairs.psnr(*pair), 100)  # equal images: 100, not infinity
    return {"psnr": psnr, "ssim": image_pairs.ssim(*pair)}
