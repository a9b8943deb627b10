"""The largest distance between two images of a data set, the recommended sigma_max of VE models.

Pixels are whole numbers, so the squared distance between two images is a whole number too, and it
is computed without rounding. Pixels are shifted to -128 ... 127, and their products are summed over
1,024 pixels in float32, where every partial sum is a whole number of at most 2^24. The sums of the
chunks are then added in int64. Images with more than 8 bits are computed in float64.

Pairs are compared in blocks. With radii r_i = |x_i - c| around any point c, images i and j are at
most r_i + r_j apart. Images are sorted by decreasing radius, so the blocks that cannot contain the
farthest pair come last and need not be compared.

Source: technique 1 of Song & Ermon (2020), "Improved Techniques for Training Score-Based Generative
Models", arXiv:2006.09011.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CHUNK = 1024  # pixels whose products add up to at most 1024 * 2^14 = 2^24
BLOCK_BYTES = 2**27  # bytes of pixels in a block
MAX_BLOCK = 2048  # images in a block
HELD_BYTES = 2**32  # bytes of pixels that may stay in memory; larger sets are read for every block

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # items, their number, what they are


class Farthest(NamedTuple):
    """The two images that are farthest apart."""

    distance: float  # for pixels in [0, 1]
    pair: tuple[int, int]  # indices in the source
    images: int  # number of images that were compared
    held: bool  # whether all pixels were kept in memory
    compared: float  # share of the pairs of blocks that had to be compared


def farthest_pair(
    source: Any,
    max_images: int | None = None,
    seed: int = 0,
    progress: Progress = lambda items, total, what: items,
) -> Farthest:
    """Returns the largest Euclidean distance between two images.

    Memory: at most 1 GiB for a few blocks of pixels and of distances. In addition the pixels of all
    images, one byte each, are kept in memory if they take at most 4 GiB.

    Args:
      source: examples {"image": uint8, or float32 in [0, 1], (H, W, C)}, all of one shape.
      max_images: number of examples to compare, drawn at random; None for all.
      seed: seed of the draw.
      progress: wraps the loops over blocks and over pairs of blocks.

    Raises:
      ValueError: for fewer than two images, or images of another type or of several shapes.
    """
    count = len(source) if max_images is None else min(max_images, len(source))
    if count < 2:
        raise ValueError(f"{count} images have no distance; compare at least two")
    numbers = np.arange(len(source))
    if count < len(source):
        numbers = np.sort(np.random.default_rng(seed).choice(numbers, count, replace=False))
    pixels = _Pixels(source, numbers)
    size = max(1, min(BLOCK_BYTES // pixels.count, MAX_BLOCK, count))
    radii = pixels.radii(size, progress)
    order = np.argsort(-radii, kind="stable")
    # The last block is filled up by repeating its own images.
    blocks = [np.resize(order[k : k + size], size) for k in range(0, len(order), size)]
    pairs = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]
    best, farthest, compared, loaded = -1, (0, 0), 0, {}
    for i, j in progress(pairs, len(pairs), "pairs of blocks"):
        if best >= 0 and radii[blocks[i][0]] + radii[blocks[j][0]] <= best**0.5:
            continue
        loaded = {k: loaded[k] if k in loaded else pixels.read(blocks[k]) for k in {i, j}}
        with jax.enable_x64(True):
            squared, a, b = (x.item() for x in _farthest(loaded[i], loaded[j]))
        compared += 1
        if squared > best:
            best, farthest = squared, (blocks[i][a], blocks[j][b])
    first, second = sorted(int(numbers[k]) for k in farthest)
    share = compared / len(pairs)
    return Farthest(best**0.5 / 255, (first, second), count, pixels.held is not None, share)


class _Pixels:
    """The images as rows of pixels, shifted by 128 and padded to whole chunks with zeros.

    Bytes become int8. Real numbers become float32 in the same units, 255 for the whole range.
    """

    def __init__(self, source: Any, numbers: np.ndarray):
        self._source = source
        self._numbers = numbers
        first = source[int(numbers[0])]["image"]
        self._shape, self._dtype = first.shape, first.dtype
        self._row_dtype = np.dtype(np.int8 if first.dtype == np.uint8 else np.float32)
        self.count = CHUNK * -(-int(np.prod(self._shape)) // CHUNK)  # pixels in a padded row
        held = len(numbers) * self.count * self._row_dtype.itemsize <= HELD_BYTES
        self.held = np.zeros((len(numbers), self.count), self._row_dtype) if held else None
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def radii(self, size: int, progress: Progress) -> np.ndarray:
        """Returns each image's distance to the mean of the first `size` images: float64 (N,)."""
        radii, centre = np.zeros(len(self._numbers)), None
        starts = range(0, len(radii), size)
        for start in progress(starts, len(starts), "blocks"):
            members = np.arange(start, min(start + size, len(radii)))
            rows = np.stack(list(self._pool.map(self._decode, members)))
            if self.held is not None:
                self.held[members] = rows
            centre = rows.mean(0, dtype=np.float64) if centre is None else centre
            radii[members] = list(self._pool.map(_distance, rows, [centre] * len(rows)))
        return radii

    def read(self, members: np.ndarray) -> np.ndarray:
        """Returns the rows of some images: (n, count)."""
        if self.held is not None:
            return self.held[members]
        return np.stack(list(self._pool.map(self._decode, members)))

    def _decode(self, k: int) -> np.ndarray:
        image = self._source[int(self._numbers[k])]["image"]
        if image.dtype != self._dtype or image.shape != self._shape:
            raise ValueError(
                f"image {self._numbers[k]} is {image.dtype} {image.shape}, but image "
                f"{self._numbers[0]} is {self._dtype} {self._shape}; give images of one "
                "type and shape"
            )
        row = np.zeros(self.count, self._row_dtype)
        if image.dtype == np.uint8:
            row[: image.size] = image.ravel().view(np.int8) ^ np.int8(-128)  # x - 128
        else:
            row[: image.size] = 255 * image.ravel() - 128
        return row


def _distance(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.linalg.norm(x - y))


@jax.jit
def _farthest(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the largest squared distance between rows of x and y, (n, D), and both indices.

    JAX's 64-bit types must be enabled.
    """

    product, total = jnp.float32, jnp.int64
    if x.dtype != jnp.int8:
        product = total = jnp.float64

    def add(sums: tuple, chunk: tuple) -> tuple[tuple, None]:
        a, b = (c.astype(product) for c in chunk)
        terms = jnp.sum(a * a, 1), jnp.sum(b * b, 1), a @ b.T
        return tuple(s + t.astype(total) for s, t in zip(sums, terms, strict=True)), None

    chunks = [a.reshape(a.shape[0], -1, CHUNK).swapaxes(0, 1) for a in (x, y)]
    zeros = [jnp.zeros(shape, total) for shape in ((len(x),), (len(y),), (len(x), len(y)))]
    (xx, yy, xy), _ = jax.lax.scan(add, tuple(zeros), tuple(chunks))
    squared = xx[:, None] + yy[None, :] - 2 * xy
    i, j = jnp.unravel_index(jnp.argmax(squared), squared.shape)
    return squared[i, j], i, j
