"""Pictures of examples: how each kind of data is kept, shown, animated and put side by side.

A row of `PICTURES` is what differs between images, series, points and fields; everything else asks
the row of `config.data.kind`. Examples are (N, *S) in units of the data: images in [0, 1], other
kinds as `utils.data_range` describes.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from scorax.utils import images
from scorax.utils.fields import vorticity
from scorax.utils.logging import write_atomically
from scorax.utils.plots import plot
from scorax.utils.tables import lookup

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # quantiles of a fan
_LINES = 12  # largest number of series drawn as lines
_PANELS = 16  # largest number of panels
_COLUMNS = 8  # largest number of samples of an image
_FIELDS = 8  # largest number of fields
Limits = Any  # of the axes of a plot, so that the frames of an animation agree


class Pictures(NamedTuple):
    """How examples of a kind are kept and shown.

    Attributes:
      keep: examples -> what is written to archives: bytes for images, float32 otherwise.
      draw: (examples, columns or None, limits or None) -> a picture, uint8 (H, W[, 3]).
      limits: examples -> limits of the axes for `draw`; None where there are no axes.
      compare: (measurements, samples (I, S, *S'), originals or None) -> a picture with a row or
        panel for each of I measurements. NaN in a measurement stands for what is unknown.
      film: the same arguments -> frames of a film, for kinds of data that have a time; or None.
    """

    keep: Callable[[np.ndarray], np.ndarray]
    draw: Callable[[np.ndarray, int | None, Limits], np.ndarray]
    limits: Callable[[np.ndarray], Limits]
    compare: Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
    film: Callable[[np.ndarray, np.ndarray, np.ndarray | None], list[np.ndarray]] | None = None

    def save(
        self, path: str | os.PathLike, examples: np.ndarray, columns: int | None = None
    ) -> None:
        """Writes a picture of examples as a PNG file."""
        save_picture(path, self.draw(images.to_float(examples), columns, None))

    def animate(self, path: str | os.PathLike, frames: Sequence[np.ndarray]) -> None:
        """Writes frames of examples, each (N, *S), as a film; the last one fixes the axes.

        See `images.save_film` for its files.
        """
        limits = self.limits(frames[-1])
        pictures = [self.draw(frame, None, limits) for frame in frames]
        images.save_film(path, pictures)


def get_pictures(kind: str) -> Pictures:
    """The row of `PICTURES` for a kind of data.

    Raises:
      ValueError: for an unknown kind.
    """
    return lookup(PICTURES, kind, "kind of data (data.kind)")


def save_picture(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Writes a picture, uint8 (H, W[, 3]), as a PNG file."""

    def write(file: BinaryIO) -> None:
        Image.fromarray(picture).save(file, format="PNG")

    write_atomically(path, write)


def _compare_images(y: np.ndarray, samples: np.ndarray, originals: np.ndarray | None) -> np.ndarray:
    """A row for each image: measurement, samples, original."""
    columns = [
        y[:, None],
        samples[:, :_COLUMNS],
        *([] if originals is None else [originals[:, None]]),
    ]
    rows = np.concatenate(columns, axis=1)
    return images.make_grid(rows.reshape(-1, *rows.shape[2:]), columns=rows.shape[1])


def _draw_series(x: np.ndarray, columns: int | None = None, limits: Limits = None) -> np.ndarray:
    """Some series (N, L, C) as lines, and quantiles of all of them; a panel for each channel."""
    channels = x.shape[-1]
    limits = _series_limits(x) if limits is None else limits

    def draw(axes: Sequence[Any]) -> None:
        for k, ax in enumerate(axes):
            fan(ax, x[..., k], "0.6")
            ax.plot(x[:_LINES, :, k].T, lw=0.8)
            ax.set(
                ylim=limits[k], xlabel="time step", ylabel=f"channel {k}" if channels > 1 else ""
            )

    return plot(channels, 1, draw, (8.0, 3.5 if channels == 1 else 2.2))


def fan(ax: Any, x: np.ndarray, color: str) -> None:
    """Draws the quantiles `LEVELS` of series (N, L) into axes: median and two bands."""
    low, quarter, median, three, high = np.quantile(x, LEVELS, axis=0)
    points = np.arange(x.shape[1])
    ax.fill_between(points, low, high, color=color, alpha=0.25, lw=0, label="5-95 %")
    ax.fill_between(points, quarter, three, color=color, alpha=0.35, lw=0, label="25-75 %")
    ax.plot(points, median, color=color, lw=1.5, ls="--", label="median")


def _series_limits(x: np.ndarray) -> np.ndarray:
    """The range of each channel of series (N, L, C), somewhat widened: (C, 2)."""
    low, high = np.nanquantile(x, (0.001, 0.999), axis=(0, 1))
    margin = 0.15 * np.maximum(high - low, 1e-6)
    return np.stack([low - margin, high + margin], 1)


def _compare_series(y: np.ndarray, samples: np.ndarray, originals: np.ndarray | None) -> np.ndarray:
    """A panel for each series and channel: what is known, quantiles of samples, the original."""
    channels = samples.shape[-1]
    shown = [(i, k) for i in range(len(samples)) for k in range(channels)][:_PANELS]
    columns = 1 if len(shown) < 3 else 2

    def draw(axes: Sequence[Any]) -> None:
        for ax, (i, k) in zip(axes, shown, strict=False):
            fan(ax, samples[i, ..., k], "C0")
            if originals is not None:
                ax.plot(originals[i, :, k], color="C3", lw=1, label="truth")
            ax.plot(y[i, :, k], ".", color="k", ms=3, label="known")
            title = f"series {i}" + (f", channel {k}" if channels > 1 else "")
            ax.set(title=title, xlabel="time step")
        for ax in axes[len(shown) :]:
            ax.set_axis_off()
        axes[0].legend(loc="best")

    return plot(math.ceil(len(shown) / columns), columns, draw, (6.0, 2.4))


def _draw_points(x: np.ndarray, columns: int | None = None, limits: Limits = None) -> np.ndarray:
    """The first two coordinates of points (N, C) as dots."""
    limits = _point_limits(x) if limits is None else limits
    pair = x[:, :2] if x.shape[1] > 1 else np.stack([x[:, 0], np.zeros(len(x))], 1)

    def draw(axes: Sequence[Any]) -> None:
        axes[0].plot(*pair.T, ".", ms=max(2.0, 120 / math.sqrt(len(x))), alpha=0.6, mew=0)
        axes[0].set(xlim=limits[0], ylim=limits[1], aspect="equal", xlabel="x", ylabel="y")

    return plot(1, 1, draw, (5.0, 5.0))


def _point_limits(x: np.ndarray) -> np.ndarray:
    """A square around points (N, C): the ranges of both axes, (2, 2)."""
    pair = x[:, :2] if x.shape[1] > 1 else np.repeat(x, 2, axis=1)
    low, high = np.quantile(pair, (0.001, 0.999), axis=0)
    half = 0.6 * max(float((high - low).max()), 1e-6)
    middle = (low + high) / 2
    return np.stack([middle - half, middle + half], 1)


def _compare_points(y: np.ndarray, samples: np.ndarray, originals: np.ndarray | None) -> np.ndarray:
    """Samples of all measurements, and the originals, in one panel."""
    everything = samples.reshape(-1, samples.shape[-1])
    return _draw_points(
        everything if originals is None else np.concatenate([everything, originals])
    )


def _field_panels(x: np.ndarray) -> np.ndarray:
    """One number for each pixel of fields (..., H, W, C): vorticity of velocities, or channel 0."""
    return vorticity(x) if x.shape[-1] == 2 else x[..., 0]


def _color(panels: np.ndarray, most: float) -> np.ndarray:
    """Colors of numbers in [-most, most]: (...) -> (..., 3) in [0, 1]; NaN is grey."""
    from matplotlib import colormaps

    colors = colormaps["RdBu_r"](np.clip(panels / (2 * most) + 0.5, 0, 1))[..., :3]
    return np.where(np.isnan(panels)[..., None], 0.8, colors)


def _draw_fields(x: np.ndarray, columns: int | None = None, limits: Limits = None) -> np.ndarray:
    """A row for each field (L, H, W, C), a column for each of some times."""
    most = _field_limits(x) if limits is None else limits
    return _draw_rows(_field_panels(x[:_FIELDS]), most)


def _draw_rows(panels: np.ndarray, most: float) -> np.ndarray:
    """A row for each field (L, H, W), a column for each of some times."""
    times = np.linspace(0, panels.shape[1] - 1, min(panels.shape[1], 8)).round().astype(int)
    colors = _color(panels[:, times], most)
    return images.make_grid(colors.reshape(-1, *colors.shape[2:]), columns=len(times))


def _field_limits(x: np.ndarray) -> float:
    return float(np.nanquantile(np.abs(_field_panels(x)), 0.995)) or 1.0


def _field_rows(
    y: np.ndarray, samples: np.ndarray, originals: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """Rows (R, L, H, W) for the first measurement, and their limit: original, y, samples."""
    rows = [] if originals is None else [_field_panels(originals[:1])]
    seen = _field_panels(y[:1])
    rows += [y[:1, ..., 0] if np.isnan(seen).all() else seen, _field_panels(samples[0][:_FIELDS])]
    return np.concatenate(rows), _field_limits(samples[0])


def _compare_fields(y: np.ndarray, samples: np.ndarray, originals: np.ndarray | None) -> np.ndarray:
    """Original, measurement and samples, for the first measurement, at some times."""
    return _draw_rows(*_field_rows(y, samples, originals))


def _film_fields(
    y: np.ndarray, samples: np.ndarray, originals: np.ndarray | None
) -> list[np.ndarray]:
    """Original, measurement and samples side by side, for the first measurement, in time."""
    rows, most = _field_rows(y, samples, originals)
    colors = _color(rows, most)
    frames = [images.make_grid(colors[:, t], columns=len(rows)) for t in range(rows.shape[1])]
    return [frame.repeat(2, 0).repeat(2, 1) for frame in frames]


def _as_float32(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)


PICTURES = {
    "images": Pictures(
        images.to_uint8,
        lambda x, columns, limits: images.make_grid(x, columns),
        lambda x: None,
        _compare_images,
    ),
    "series": Pictures(_as_float32, _draw_series, _series_limits, _compare_series),
    "points": Pictures(_as_float32, _draw_points, _point_limits, _compare_points),
    "fields": Pictures(_as_float32, _draw_fields, _field_limits, _compare_fields, _film_fields),
}
