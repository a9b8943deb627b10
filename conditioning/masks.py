"""Masks for inpainting: (H, W, 1) float32 with 1 where a pixel is known and 0 in the hole.

Masks of series are (L, C), and hide points in time (`get_series_mask`).

A shape of adjustable size is described by one number per pixel: the size at which the growing shape
reaches the pixel. A fraction is drawn from a range of `AMOUNTS`, and the hole consists of all
pixels reached at the size that hides this fraction. The hidden fraction thus stays inside its range
for every image size, wherever the shape lies and however much of it the border cuts off.
"""

import functools
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from PIL import Image

from scorax.utils.tables import lookup

# (H, W, generator) -> size at which the growing shape reaches each pixel: (H, W)
Growth = Callable[[int, int, np.random.Generator], np.ndarray]
SMALLEST = 8  # pixels; in smaller images a single row can exceed a range of AMOUNTS


def get_mask(
    name: str | os.PathLike,
    size: int | tuple[int, int],
    amount: str = "light",
    seed: int = 0,
) -> np.ndarray:
    """A named mask, or a mask painted by the user.

    Args:
      name: a row of MASKS, or the path of a picture in which white is known and black is the hole,
        or whose transparent part is the hole.
      size: (H, W) of the images, or the side of square images.
      amount: a row of AMOUNTS, the range of the hidden fraction; only masks in GROWING use it.
      seed: determines the place and exact size of masks in GROWING.

    Returns:
      (H, W, 1) float32, 1 = known.

    Raises:
      ValueError: for an unknown name or amount, too small a size, or a file that does not hold a
        mask of this size.
    """
    h, w = (size, size) if isinstance(size, int) else size
    if os.fspath(name) not in MASKS and ("." in os.path.basename(name) or os.path.exists(name)):
        return _read_mask(name, h, w)
    draw = lookup(MASKS, name, "mask")
    fractions = lookup(AMOUNTS, amount, "amount of a mask")
    if min(h, w) < SMALLEST:
        raise ValueError(f"a mask of {h}x{w} is too small; its sides must be at least {SMALLEST}")
    hidden = draw(h, w, fractions, np.random.default_rng(seed))
    return 1 - hidden[:, :, None].astype(np.float32)


def get_series_mask(
    name: str, length: int, channels: int, points: int = 0, only: Sequence[int] = (), seed: int = 0
) -> np.ndarray:
    """A mask of series: (length, channels) float32, 1 = known.

    Args:
      name: a row of SERIES_MASKS.
      length, channels: shape of a series.
      points: number of hidden points; 0: a quarter of the series.
      only: channels in which points are hidden; (): all.
      seed: determines which points "random" hides, in each channel others, and where "block" lies.

    Raises:
      ValueError: for an unknown name, numbers out of range, or a mask that leaves nothing known.
    """
    draw = lookup(SERIES_MASKS, name, "mask of series (eval.mask)")
    points = points or max(1, length // 4)
    wrong = [k for k in only if not 0 <= k < channels]
    if wrong:
        raise ValueError(
            f"eval.mask_channels={tuple(only)}: there is no channel {wrong[0]}; choose from 0 ... "
            f"{channels - 1}"
        )
    if not 0 < points <= length:
        raise ValueError(
            f"eval.mask_points={points} must lie between 1 and the {length} points of a series"
        )
    hidden = draw(length, channels, points, np.random.default_rng(seed))
    hidden = hidden & np.isin(np.arange(channels), list(only) or range(channels))
    if hidden.all():
        raise ValueError(
            f"eval.mask={name!r} with eval.mask_points={points} hides everything; leave a "
            "point, or a channel (eval.mask_channels), known"
        )
    return 1 - hidden.astype(np.float32)


def check_mask(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The mask as an array that broadcasts against a batch.

    Args:
      mask: mask of one example or of a batch; an axis of length one applies to all.
      shape: (B, *S), shape of the batch.

    Returns:
      An array with len(shape) axes.

    Raises:
      ValueError: for a mask of the wrong size, or values other than 0 and 1.
    """
    full = mask if mask.ndim == len(shape) else mask[None]
    if full.ndim != len(shape) or any(
        m not in (1, s) for m, s in zip(full.shape, shape, strict=True)
    ):
        raise ValueError(
            f"a mask of shape {mask.shape} does not fit images of shape {shape[1:]}; make a mask "
            "of the size of the images, with one channel or as many channels as the images"
        )
    # The values of a traced mask are unknown.
    if not isinstance(mask, jax.core.Tracer) and not np.isin(np.asarray(mask), (0, 1)).all():
        raise ValueError("a mask must hold only 1 (known) and 0 (hole)")
    return full


def from_alpha(alpha: np.ndarray, name: str | os.PathLike) -> np.ndarray:
    """The mask of a picture whose transparent part, alpha 0 of [0, 1], is the hole: (H, W, 1).

    Raises:
      ValueError: for pixels that are half transparent, or if nothing is known; begins with `name`.
    """
    if not np.isin(alpha, (0, 1)).all():
        raise ValueError(
            f"{name}: pixels that are half transparent are neither known nor a hole; erase the "
            "hole with a hard edge"
        )
    return _checked(alpha.astype(np.float32), name)


def _read_mask(path: str | os.PathLike, h: int, w: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
            pixels = np.asarray(image.convert("L"), np.float32) / 255
            lossy = image.format in ("JPEG", "WEBP")
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise ValueError(f"{path}: not a readable image: {error}") from error
    if pixels.shape != (h, w):
        raise ValueError(
            f"{path}: the mask has {pixels.shape[0]}x{pixels.shape[1]} pixels, but the images have "
            f"{h}x{w}; resize it without interpolation"
        )
    if alpha is not None and min(alpha.getextrema()) < 255:
        return from_alpha(np.asarray(alpha, np.float32) / 255, path)
    # Lossy formats blur the edge of a hole by some levels of gray.
    rounded = np.round(pixels)
    if np.abs(pixels - rounded).max() > (0.25 if lossy else 0):
        raise ValueError(
            f"{path}: a mask must be black (hole) and white (known) only; this one has gray pixels"
        )
    return _checked(rounded, path)


def _checked(mask: np.ndarray, name: str | os.PathLike) -> np.ndarray:
    """The mask (H, W) as (H, W, 1), which has to know something and to hide something."""
    if mask.min() == mask.max():
        what, part = ("hides nothing", "hole") if mask.all() else ("hides everything", "known part")
        raise ValueError(
            f"{name}: the mask {what}; paint the {part} {'black' if mask.all() else 'white'}, or "
            "erase the hole so that it is transparent"
        )
    return mask.astype(np.float32)[:, :, None]


def _grown(
    h: int, w: int, fractions: tuple[float, float], rng: np.random.Generator, growth: Growth
) -> np.ndarray:
    """The hole (H, W) of a growing shape, hiding a random fraction within the given range."""
    reached = growth(h, w, rng)
    sizes, counts = np.unique(reached, return_counts=True)
    hidden = np.cumsum(counts) / (h * w)
    low, high = fractions
    distance = np.abs(hidden - rng.uniform(low, high))
    distance[(hidden < low) | (hidden > high)] = np.inf
    return reached <= sizes[np.argmin(distance)]


def _offsets(h: int, w: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows (H, 1) and columns (1, W) from a random center in the middle third, in pixels."""
    y, x = rng.uniform(1 / 3, 2 / 3, 2) * (h, w)
    return np.arange(h)[:, None] + 0.5 - y, np.arange(w)[None] + 0.5 - x


def _square(h: int, w: int, rng: np.random.Generator) -> np.ndarray:
    y, x = _offsets(h, w, rng)
    return np.maximum(np.abs(y), np.abs(x))


def _rectangle(h: int, w: int, rng: np.random.Generator) -> np.ndarray:
    """Twice as long as wide, horizontal or vertical."""
    y, x = _offsets(h, w, rng)
    return np.maximum(np.abs(y), np.abs(x) / 2 if rng.random() < 0.5 else 2 * np.abs(x))


def _triangle(h: int, w: int, rng: np.random.Generator) -> np.ndarray:
    """Equilateral and pointing up: reaches a pixel once it is inside all three edges."""
    y, x = _offsets(h, w, rng)
    return np.maximum(y, (np.sqrt(3) * np.abs(x) - y) / 2)


def _circle(h: int, w: int, rng: np.random.Generator) -> np.ndarray:
    return np.hypot(*_offsets(h, w, rng))


def _eight(h: int, w: int, rng: np.random.Generator) -> np.ndarray:
    """Two discs of radius r, one above the other, with edges at x^2 + y^2 = 2 r |y|."""
    y, x = _offsets(h, w, rng)
    return (x**2 + y**2) / (2 * np.abs(y))


def _patches(h: int, w: int, rng: np.random.Generator) -> np.ndarray:
    """Square patches, an eighth of the shorter side long, appearing one after another."""
    side, n = min(h, w) // 8, 1000
    reached = np.full((h, w), n)
    corners = np.stack([rng.integers(1 - side, h, n), rng.integers(1 - side, w, n)], 1)
    for k, (i, j) in reversed(list(enumerate(corners))):
        reached[max(i, 0) : i + side, max(j, 0) : j + side] = k
    return reached


def _box(h: int, w: int, *_: object) -> np.ndarray:
    hidden = np.zeros((h, w), bool)
    hidden[h // 4 : h // 4 + h // 2, w // 4 : w // 4 + w // 2] = True
    return hidden


def _half(h: int, w: int, *_: object, side: str) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    return {"left": x < w // 2, "right": x >= w // 2, "top": y < h // 2, "bottom": y >= h // 2}[
        side
    ]


def _every_other_pixel(h: int, w: int, *_: object) -> np.ndarray:
    return np.add.outer(np.arange(h), np.arange(w)) % 2 == 1


def _last(length: int, channels: int, points: int, rng: np.random.Generator) -> np.ndarray:
    """The last points: a forecast."""
    return np.tile(np.arange(length)[:, None] >= length - points, channels)


def _block(length: int, channels: int, points: int, rng: np.random.Generator) -> np.ndarray:
    start = rng.integers(length - points + 1)
    i = np.arange(length)[:, None]
    return np.tile((i >= start) & (i < start + points), channels)


def _missing(length: int, channels: int, points: int, rng: np.random.Generator) -> np.ndarray:
    order = rng.permuted(np.tile(np.arange(length)[:, None], channels), axis=0)
    return order < points


def _whole(length: int, channels: int, points: int, rng: np.random.Generator) -> np.ndarray:
    return np.ones((length, channels), bool)


# Hidden fraction of the masks in GROWING, as in the AFHQ project.
AMOUNTS = {"light": (0.10, 0.25), "heavy": (0.50, 0.75)}
GROWING = {
    "square": _square,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "eight": _eight,
    "circle": _circle,
    "random_patches": _patches,
}
# (H, W, range of the hidden fraction, generator) -> the hole (H, W)
MASKS = {
    **{name: functools.partial(_grown, growth=growth) for name, growth in GROWING.items()},
    "box": _box,
    **{
        f"{side}_half": functools.partial(_half, side=side)
        for side in ("left", "right", "top", "bottom")
    },
    "every_other_pixel": _every_other_pixel,
}
# (L, C, number of points, generator) -> what is hidden, (L, C)
SERIES_MASKS = {"last": _last, "block": _block, "random": _missing, "channels": _whole}
