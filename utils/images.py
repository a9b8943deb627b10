"""Writes images to files: grids, animations, arrays.

Images are (N, H, W, C) in [0, 1], on the host or a device; values outside the range are clipped. Of
images with more than three channels, pictures show the first three, and of two channels both in
grey, side by side. Files are written atomically, so that no partial file appears under its name.
"""

import io
import logging
import math
import os
import shutil
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scorax.utils.logging import write_atomically

_log = logging.getLogger(__name__)

GIF_BYTES = 1_000_000  # largest size of an animation
_GIF_COLORS, _GIF_FRAMES = 16, 20  # left of a larger one, before it loses pixels
_GRID_PIXELS = 600  # grids of tiny images are enlarged to about this width or height


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Maps [0, 1] to 0, ..., 255 for any shape: clips, rounds halves up, and turns NaN into 0."""
    x = np.nan_to_num(np.asarray(images, np.float32))
    return np.floor(255.0 * np.clip(x, 0.0, 1.0) + 0.5).astype(np.uint8)


def to_float(images: np.ndarray) -> np.ndarray:
    """Maps bytes 0, ..., 255 to [0, 1], float32; images that are real numbers stay as they are."""
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images


def shown(images: np.ndarray) -> np.ndarray:
    """What pictures show of images (..., H, W, C): (..., H, W', 1 or 3)."""
    if images.shape[-1] == 2:
        return np.concatenate([images[..., :1], images[..., 1:]], axis=-2)
    return images if images.shape[-1] == 1 else images[..., :3]


def make_grid(
    images: np.ndarray, columns: int | None = None, padding: int = 2, scale: int | None = None
) -> np.ndarray:
    """Lays images out row by row on a black background.

    Args:
      images: (N, H, W, C) in [0, 1].
      columns: number of images in a row; None for a nearly square grid.
      padding: pixels around and between the images.
      scale: how often each pixel is repeated along both axes; None for 1, or for tiny images the
        factor that makes the grid about 600 pixels large.

    Returns:
      uint8 (H', W', 3), or (H', W') if C = 1.

    Raises:
      ValueError: for another shape, or numbers that are not positive.
    """
    x = to_uint8(shown(_check(images, "grid", 4)))
    n, height, width, channels = x.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else min(columns, n)
    if columns < 1 or padding < 0 or (scale is not None and scale < 1):
        raise ValueError(
            f"columns={columns}, padding={padding}, scale={scale}: a grid needs at least 1 column, "
            "padding 0 and scale 1"
        )
    rows = math.ceil(n / columns)
    scale = scale or max(1, round(_GRID_PIXELS / max(rows * height, columns * width)))
    x = x.repeat(scale, axis=1).repeat(scale, axis=2)
    cell = (height * scale + padding, width * scale + padding)
    grid = np.zeros((rows * cell[0] + padding, columns * cell[1] + padding, channels), np.uint8)
    for i, image in enumerate(x):
        top, left = (i // columns) * cell[0] + padding, (i % columns) * cell[1] + padding
        grid[top : top + height * scale, left : left + width * scale] = image
    return grid[..., 0] if channels == 1 else grid


def save_grid(path: str | os.PathLike, images: np.ndarray, columns: int | None = None) -> None:
    """Writes images (N, H, W, C) in [0, 1] as one PNG file, laid out by `make_grid`.

    Raises:
      ValueError: see `make_grid`.
    """
    picture = Image.fromarray(make_grid(images, columns))
    write_atomically(path, lambda file: picture.save(file, format="PNG"))


def save_each(folder: str | os.PathLike, images: np.ndarray, names: Sequence[str]) -> None:
    """Writes images (N, H, W, C) in [0, 1] as PNG files of the given names, without suffix.

    Images with 2 or 4 channels keep the last one as their transparency.
    """
    for name, x in zip(names, to_uint8(images), strict=True):
        x = x if x.shape[-1] <= 4 else x[..., :3]
        picture = Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x)
        path = os.path.join(folder, f"{name}.png")
        write_atomically(path, lambda file, picture=picture: picture.save(file, format="PNG"))


def save_gif(
    path: str | os.PathLike,
    frames: np.ndarray,
    seconds: float = 4.0,
    hold: float = 2.0,
    columns: int | None = None,
) -> None:
    """Writes an endless animation of grids as a GIF file; PIL merges consecutive equal frames.

    Args:
      path: the file to write.
      frames: (F, N, H, W, C) in [0, 1].
      seconds: total length without `hold`; each frame lasts 0.04 to 0.5 seconds.
      hold: seconds for which the last frame is shown.
      columns: number of images in a row, as in `make_grid`.

    Raises:
      ValueError: for another shape.
    """
    frames = _check(frames, "animation", 5)
    pictures = [make_grid(frame, columns) for frame in frames]
    write_atomically(path, lambda file: write_gif(file, pictures, seconds, hold))


def write_gif(
    file: BinaryIO, pictures: Sequence[np.ndarray], seconds: float = 4.0, hold: float = 2.0
) -> None:
    """Writes pictures, uint8 (H, W[, 3]), as an animation of at most `GIF_BYTES`; see `save_gif`.

    A larger one loses colours, then frames, then pixels.
    """
    frames = [Image.fromarray(picture) for picture in pictures]
    data = _encode_gif(frames, seconds, hold)
    if len(data) > GIF_BYTES:  # noise does not compress
        data = _encode_gif(frames, seconds, hold, _GIF_COLORS)
    while len(data) > GIF_BYTES and (len(frames) > _GIF_FRAMES or min(frames[0].size) > 32):
        if len(frames) > _GIF_FRAMES:
            count = max(len(frames) * 3 // 4, _GIF_FRAMES)
            kept = np.linspace(0, len(frames) - 1, count).round().astype(int)
            frames = [frames[i] for i in kept]
        else:
            frames = [frame.reduce(2) for frame in frames]
        data = _encode_gif(frames, seconds, hold, _GIF_COLORS)
    file.write(data)


def save_film(path: str | os.PathLike, pictures: Sequence[np.ndarray]) -> None:
    """Writes pictures, uint8 (H, W[, 3]), as a GIF file and, where ffmpeg is installed, as MP4.

    The MP4 file has all frames and colours, and the name of the GIF file but for its end.
    """
    write_atomically(path, lambda file: write_gif(file, pictures))
    if program := shutil.which("ffmpeg"):
        film = os.path.splitext(path)[0] + ".mp4"
        try:
            data = _encode_mp4(program, pictures)
        except (OSError, subprocess.CalledProcessError) as e:
            _log.warning("%s: ffmpeg could not write it; %s has the same film (%s)", film, path, e)
        else:
            write_atomically(film, lambda file: file.write(data))


def _encode_mp4(
    program: str, pictures: Sequence[np.ndarray], seconds: float = 4.0, hold: float = 2.0
) -> bytes:
    """Encodes pictures as H.264; sides are made even by repeating the last row and column."""
    each = min(max(seconds / len(pictures), 0.04), 0.5)
    frames = [*pictures, *[pictures[-1]] * round(hold / each)]
    height, width = frames[0].shape[:2]
    margins = ((0, height % 2), (0, width % 2), (0, 0))
    size = f"{width + width % 2}x{height + height % 2}"
    taken = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{1 / each:.4f}", "-i", "-"]
    made = ["-pix_fmt", "yuv420p", "-crf", "18", "-movflags", "+faststart"]
    with tempfile.TemporaryDirectory() as folder:
        film = os.path.join(folder, "film.mp4")
        command = [program, "-loglevel", "error", *taken, *made, film]
        raw = b"".join(
            np.pad(frame if frame.ndim == 3 else frame[..., None].repeat(3, -1), margins, "edge")
            .astype(np.uint8)
            .tobytes()
            for frame in frames
        )
        subprocess.run(command, input=raw, capture_output=True, check=True)
        with open(film, "rb") as file:
            return file.read()


def label_rows(picture: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Writes a name beside each row of a grid, uint8 (H, W[, 3]), on a black margin at the left."""
    height = picture.shape[0] / len(names)
    font = ImageFont.load_default(min(max(height / 3, 10), 24))
    width = math.ceil(max(font.getlength(name) for name in names)) + 16
    margin = Image.new("L", (width, picture.shape[0]))
    draw = ImageDraw.Draw(margin)
    for i, name in enumerate(names):
        draw.text((width / 2, (i + 0.5) * height), name, fill=255, font=font, anchor="mm")
    pixels = np.asarray(margin)
    pixels = pixels if picture.ndim == 2 else np.repeat(pixels[..., None], 3, -1)
    return np.concatenate([pixels, picture], 1)


def _encode_gif(
    frames: Sequence[Image.Image], seconds: float, hold: float, colors: int = 256
) -> bytes:
    each = min(max(seconds / len(frames), 0.04), 0.5)  # viewers slow down shorter frames
    durations = [round(1000 * s) for s in [each] * (len(frames) - 1) + [hold]]
    if colors < 256:
        frames = [frame.quantize(colors, dither=Image.Dither.NONE) for frame in frames]
    (first, *rest), buffer = frames, io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0)
    return buffer.getvalue()


def save_npz(path: str | os.PathLike, /, **arrays: np.ndarray) -> None:
    """Writes named arrays, compressed, for `numpy.load`."""
    host = {name: np.asarray(x) for name, x in arrays.items()}
    write_atomically(path, lambda file: np.savez_compressed(file, **host))


def load_npz(path: str | os.PathLike, *names: str) -> dict[str, np.ndarray]:
    """Returns the named arrays of a file that `save_npz` has written, or all of them.

    Raises:
      ValueError: if the file is damaged, or lacks one of them.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names or arrays.files}
    except (EOFError, IsADirectoryError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as e:
        said = "it is no file of arrays" if "pickle" in str(e) else str(e)
        raise ValueError(
            f"{path} is damaged ({said}); move it away, and the same command makes it anew"
        ) from e


def _check(images: np.ndarray, what: str, ndim: int) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != ndim or 0 in images.shape:
        axes = "(N, H, W, C)" if ndim == 4 else "(F, N, H, W, C)"
        raise ValueError(
            f"images of shape {images.shape} cannot be drawn as a picture ({what}); "
            f"give {axes}, without a 0"
        )
    return images
