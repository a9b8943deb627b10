"""Time series as images, and back: delay embedding and short-time Fourier transform.

A series is (..., L, C), an image (..., H, W, C'). Entries of an image that hold no part of the
series are its padding. The embeddings are those of ImagenTime (Naiman et al. 2024, arXiv
2410.19538), with three differences: images need not be square, entries of a generated image that
stand for the same point are averaged, where the original keeps the last one, and padding is
declared, so that neither losses nor samples depend on it. All functions take NumPy arrays, or JAX
arrays inside `jit`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax.utils.arrays import align
from scorax.utils.shapes import height_and_width
from scorax.utils.tables import lookup

Array = Any
OVERLAPS = ("mean", "last")


class _Gather(NamedTuple):
    """For each of L points, the flat places (L, K) where it stands, and which of them count."""

    places: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, index: np.ndarray, length: int) -> "_Gather":
        """Inverts an index (places,) of points; -1 stands for no point."""
        places = np.flatnonzero(index >= 0)
        places = places[np.argsort(index[places], kind="stable")]
        number = np.bincount(index[places], minlength=length)
        first = np.cumsum(number) - number
        rank = np.arange(max(number.max(), 1))
        counts = rank < number[:, None]
        chosen = np.minimum(first[:, None] + rank, len(places) - 1)
        return cls(np.where(counts, places[chosen], 0), counts)


@dataclasses.dataclass(frozen=True)
class DelayEmbedding:
    """Columns are windows of the series: column i holds the points i m ... i m + n - 1.

    There are as many columns as fit into the series, and one that ends with the series if points
    are left, which is padded below.

    Attributes:
      length: L, the number of points.
      delay: m, the number of points from one column to the next.
      rows: n, the number of points in a column.
      width: number of columns of the image; those that are not needed are padding. 0: as needed.
    """

    length: int
    delay: int
    rows: int
    width: int = 0

    channels = 1  # channels of an image for each channel of the series
    of_each = ()  # shape of the statistics of a channel: one number

    def __post_init__(self) -> None:
        if min(self.length, self.delay, self.rows) < 1:
            raise ValueError(
                f"a delay embedding of {self.length} points with delay {self.delay} and "
                f"{self.rows} rows needs positive numbers; change data.length, data.delay or "
                "data.image_size"
            )
        if self.delay > self.rows:
            raise ValueError(
                f"data.delay={self.delay} is larger than the {self.rows} rows of an image, so the "
                "points between two columns would be in neither, and no series could be read from "
                f"an image; set data.delay to {self.rows} or less"
            )
        if self.width and self.width < self.columns:
            raise ValueError(
                f"{self.length} points with data.delay={self.delay} take {self.columns} columns "
                f"of {self.rows} rows, more than {self.width}; set data.image_size={self.rows},"
                f"{self.columns} or wider, or a larger data.delay"
            )

    @property
    def columns(self) -> int:
        """The number of columns that hold points."""
        whole = max(0, (self.length - self.rows) // self.delay + 1)
        covered = (whole - 1) * self.delay + self.rows if whole else 0
        return whole + (covered < self.length)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.rows, self.width or self.columns

    @functools.cached_property
    def _index(self) -> np.ndarray:
        """The point at each entry of an image, -1 for padding: (H, W)."""
        index = np.add.outer(np.arange(self.rows), self.delay * np.arange(self.shape[1]))
        index[index >= self.length] = -1
        index[:, self.columns :] = -1
        return index

    @functools.cached_property
    def _inverse(self) -> _Gather:
        return _Gather.of(self._index.T.reshape(-1), self.length)  # column by column

    @property
    def is_data(self) -> np.ndarray:
        """Which entries of an image hold points: bool (H, W, 1)."""
        return self._index[..., None] >= 0

    def to_image(self, x: Array, padding: float = 0.0) -> Array:
        """Embeds series (..., L, C) as images (..., H, W, C).

        Columns that are not needed have the value `padding`; below a partial column there are
        zeros.
        """
        _check(x, 2, (self.length,), "series", "L, C")
        filling = np.where(np.arange(self.shape[1]) < self.columns, 0, padding)
        filling = filling.astype(np.float32)[:, None]
        images = x[..., self._index, :]
        return _namespace(x).where(align(self.is_data, images), images, align(filling, images))

    def from_image(self, images: Array, overlap: str = "mean") -> Array:
        """Reads series (..., L, C) from images (..., H, W, C).

        Args:
          images: the images; padding does not matter.
          overlap: "mean" averages the entries of a point, "last" takes the one farthest right.
        """
        _check(images, 3, self.shape, "images", "H, W, C")
        if overlap not in OVERLAPS:
            raise ValueError(f"unknown overlap {overlap!r}; choose from: {', '.join(OVERLAPS)}")
        places, counts = self._inverse
        if overlap == "last":
            places, counts = places[np.arange(len(places)), counts.sum(1) - 1][:, None], None
        height = self.shape[0]
        entries = images[..., places % height, places // height, :]
        return _mean(entries, counts)


@dataclasses.dataclass(frozen=True)
class STFTEmbedding:
    """Short-time Fourier transform: rows are frequencies, columns are times.

    The window is a periodic Hann window, frames are centred with reflected ends, and spectra are
    one-sided and not normalised. An image has the real parts of all channels of the series, and
    then their imaginary parts.

    Attributes:
      length: L, the number of points.
      n_fft: length of the window.
      hop: number of points from one frame to the next.
      size: height and width of an image; what is not needed is padding. (): as needed.
    """

    length: int
    n_fft: int
    hop: int
    size: tuple[int, ...] = ()

    channels = 2

    def __post_init__(self) -> None:
        if min(self.length, self.n_fft, self.hop) < 1 or self.n_fft // 2 >= self.length:
            raise ValueError(
                f"a Fourier transform of {self.length} points with data.n_fft={self.n_fft} and "
                f"data.hop={self.hop} is impossible; set positive numbers, and n_fft to at most "
                f"{2 * self.length - 1}"
            )
        if (self._weights <= 1e-6).any():
            raise ValueError(
                f"data.hop={self.hop} leaves points that no window of {self.n_fft} points covers, "
                f"so no series could be read from an image; set it to {max(1, self.n_fft // 2)} or "
                "less"
            )
        if self.size and any(a < b for a, b in zip(self.size, self.of_each, strict=True)):
            raise ValueError(
                f"{self.length} points with data.n_fft={self.n_fft} and data.hop={self.hop} take "
                f"{self.of_each[0]} frequencies and {self.of_each[1]} times; set "
                f"data.image_size={self.of_each[0]},{self.of_each[1]} or larger"
            )

    @property
    def of_each(self) -> tuple[int, int]:
        """The numbers of frequencies and times: the shape of the statistics of a channel."""
        padded = self.length + 2 * (self.n_fft // 2)
        return self.n_fft // 2 + 1, (padded - self.n_fft) // self.hop + 1

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.size or self.of_each

    @property
    def is_data(self) -> np.ndarray:
        """Which entries of an image hold a coefficient: bool (H, W, 1)."""
        height, width = self.of_each
        data = np.ones((height, width, 1), bool)
        return np.pad(data, ((0, self.shape[0] - height), (0, self.shape[1] - width), (0, 0)))

    @functools.cached_property
    def _window(self) -> np.ndarray:
        n = np.arange(self.n_fft)
        return (0.5 - 0.5 * np.cos(2 * np.pi * n / self.n_fft)).astype(np.float32)

    @functools.cached_property
    def _frames(self) -> np.ndarray:
        """Positions (T, n_fft) of the frames in the padded series."""
        return np.add.outer(self.hop * np.arange(self.of_each[1]), np.arange(self.n_fft))

    @functools.cached_property
    def _inverse(self) -> _Gather:
        half = self.n_fft // 2
        index = self._frames.reshape(-1) - half
        return _Gather.of(np.where(index < self.length, index, -1), self.length)

    @functools.cached_property
    def _weights(self) -> np.ndarray:
        """The sum of the squared windows at each point: (L,)."""
        places, counts = self._inverse
        squares = np.tile(self._window**2, self.of_each[1])
        return (squares[places] * counts).sum(1)

    def to_image(self, x: Array, padding: float = 0.0) -> Array:
        """Transforms series (..., L, C) into images (..., H, W, 2 C)."""
        _check(x, 2, (self.length,), "series", "L, C")
        xp, half = _namespace(x), self.n_fft // 2
        if xp is np:
            x = x.astype(np.float64)  # or parts that are always 0 would show their rounding errors
        ends = [(0, 0)] * (x.ndim - 2) + [(half, half), (0, 0)]
        frames = xp.moveaxis(xp.pad(x, ends, mode="reflect"), -1, -2)[..., self._frames]
        spectra = xp.fft.rfft(frames * align(self._window, frames))  # (..., C, T, F)
        parts = xp.concatenate([spectra.real, spectra.imag], axis=-3)
        images = xp.moveaxis(xp.swapaxes(parts, -1, -2), -3, -1).astype(np.float32)
        (height, width), (rows, columns) = self.shape, self.of_each
        ends = [(0, 0)] * (x.ndim - 2) + [(0, height - rows), (0, width - columns), (0, 0)]
        return xp.pad(images, ends, constant_values=padding)

    def from_image(self, images: Array) -> Array:
        """The series (..., L, C) whose transform is closest to images (..., H, W, 2 C).

        The least-squares inverse (Griffin & Lim 1984, eq. 6): frames are windowed again, added up
        and divided by the sum of the squared windows.
        """
        _check(images, 3, self.shape, "images", "H, W, C")
        xp, (rows, columns) = _namespace(images), self.of_each
        parts = xp.swapaxes(xp.moveaxis(images[..., :rows, :columns, :], -1, -3), -1, -2)
        real, imag = xp.split(parts, 2, axis=-3)
        frames = xp.fft.irfft(real + 1j * imag, n=self.n_fft)  # (..., C, T, n_fft)
        frames = frames * align(self._window, frames)
        places, counts = self._inverse
        flat = frames.reshape(*frames.shape[:-2], -1)
        entries = flat[..., places]
        summed = (entries * align(counts, entries)).sum(-1)
        series = xp.swapaxes(summed / align(self._weights, summed), -1, -2)
        return series.astype(np.float32)


Embedding = DelayEmbedding | STFTEmbedding


def min_max(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale that map every entry of images (N, H, W, C) to [-1, 1]: (H, W, C) each.

    As in ImagenTime, 1e-7 is added to the range of an entry, because it may be constant.
    """
    low, high = images.min(0), images.max(0)
    scale = (high - low + np.float32(1e-7)) / 2
    return low + scale, scale


def get_embedding(config: ml_collections.ConfigDict) -> Embedding | None:
    """The embedding `data.embedding` of a config, which may be its section `data`.

    Raises:
      ValueError: for an unknown name, or numbers that do not fit.
    """
    data = config.data if "data" in config else config
    if data.kind != "series" or not data.embedding:
        return None
    return lookup(EMBEDDINGS, data.embedding, "embedding (data.embedding)")(data)


def get_padding(config: ml_collections.ConfigDict) -> np.ndarray | None:
    """Which entries of what the network sees are padding, bool (H, W, 1); None if none is."""
    embedding = get_embedding(config)
    return None if embedding is None or embedding.is_data.all() else ~embedding.is_data


def _namespace(x: Array) -> Any:
    return jnp if isinstance(x, jax.Array) else np


def _mean(entries: Array, counts: np.ndarray | None) -> Array:
    """The mean of entries (..., L, K, C) that count, (L, K)."""
    if counts is None or counts.shape[1] == 1:
        return entries[..., 0, :]
    weights = (counts / counts.sum(1, keepdims=True)).astype(np.float32)
    return (entries * align(weights[..., None], entries)).sum(-2)


def _check(x: Array, ndim: int, sizes: tuple[int, ...], what: str, axes: str) -> None:
    if x.ndim < ndim or x.shape[-ndim:-1] != sizes:
        raise ValueError(
            f"{what} of shape {x.shape} do not fit an embedding of (..., {axes}) with "
            f"{axes[:-3]} = {', '.join(map(str, sizes))}"
        )


def _delay(data: ml_collections.ConfigDict) -> DelayEmbedding:
    return DelayEmbedding(data.length, data.delay, *height_and_width(data.image_size))


def _stft(data: ml_collections.ConfigDict) -> STFTEmbedding:
    return STFTEmbedding(data.length, data.n_fft, data.hop, height_and_width(data.image_size))


EMBEDDINGS = {"delay": _delay, "stft": _stft}
