"""Preparation of images: converts a folder, zip or tfrecord file to array_record files of one size.

Every image is fully decoded, cropped, scaled and stored as PNG (exact) or JPEG, or as an array if
it has more than 8 bits. Several processes do this work, because PIL holds Python's global lock
while it encodes. Each process opens the source itself; the main process writes the files.
"""

import contextlib
import functools
import io
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from scorax.data_sources import array_records, resizing, tfrecords
from scorax.data_sources.files import Files, open_files
from scorax.data_sources.layouts import Examples, list_examples
from scorax.data_sources.pixels import MODES, check_image, read_image
from scorax.data_sources.source import SPLITS
from scorax.data_sources.values import Values, on_levels
from scorax.utils.shapes import Size, height_and_width

SKIPPED = "skipped.txt"  # lists images that were left out, one message per line

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # items, their number, split -> items


class Settings(NamedTuple):
    """How images are prepared."""

    size: Size  # side of squares in pixels, or (height, width)
    channels: int = 3  # 1: grey, to which colours are converted; 3: RGB; 2, 4: with alpha
    crop: str = "center"  # a row of CROPS
    format: str = "png"  # a row of FORMATS
    quality: int = 95  # of JPEG, 1 ... 100; colours are stored at full resolution
    splits: tuple[str, ...] = SPLITS
    values: Values = Values()  # how pixels are read


class Pictures(NamedTuple):
    """The unprepared images of one split, of any size."""

    names: list[str]
    read: Callable[[int], tuple[np.ndarray, int]]  # number -> image (H, W, C), label
    classes: list[str]
    left_out: str = ""  # what was found and is not used, in words
    levels: int = 256  # number of values that a pixel can have; 0: real numbers


def prepare(
    source: str,
    dest: str,
    settings: Settings,
    workers: int = 0,
    skip_corrupt: bool = False,
    progress: Progress = lambda items, total, split: items,
) -> dict[str, Any]:
    """Writes the images of `source` to a folder `dest` that `array_records.load` can read.

    The folder appears only when it is complete. If `source` has no splits, its images are stored
    once and serve as both splits.

    Args:
      source: a folder, a .zip or a .tfrecords file; see `layouts` and `tfrecords`.
      dest: the folder to write, which must not exist.
      settings: size, format and so on.
      workers: number of processes; 0 for one per CPU core.
      skip_corrupt: True to leave out images that cannot be used and list them in `skipped.txt`;
        False to raise an error for the first one.
      progress: wraps the loop over the images of a split.

    Returns:
      The contents of `info.json`.

    Raises:
      ValueError: for impossible settings, if `dest` exists, and for the first image that cannot be
        used because it is damaged, smaller than `size` or not suitable for `crop`.
    """
    _check(settings, source, Path(dest), workers)
    pictures = {split: _open(Path(source), split, settings) for split in settings.splits}
    final = Path(os.path.abspath(dest))
    folder = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    folder.mkdir(parents=True)
    splits, skipped = {}, []
    try:
        workers = workers or os.cpu_count() or 1
        window = 4 * workers  # images are large, so finished ones must not pile up
        with _pool(workers) as pool:
            for split, (names, *_) in pictures.items():
                same = [s for s in splits if pictures[s].names == names]
                if same:
                    splits[split] = splits[same[0]]
                    continue
                encode = functools.partial(_encode, Path(source), split, settings)
                futures = _in_order(pool, encode, len(names), window)
                futures = progress(futures, len(names), split)
                splits[split] = _write(folder, split, futures, skipped if skip_corrupt else None)
        if skipped:
            # Names of files need not be UTF-8.
            text = "\n".join(skipped) + "\n"
            (folder / SKIPPED).write_text(text, encoding="utf-8", errors="surrogateescape")
        info = _describe(source, settings, pictures, splits, len(skipped))
        array_records.write_info(folder, info)
        os.rename(folder, final)
    except BrokenExecutor as error:
        raise ValueError(
            "a worker was killed, perhaps for lack of memory; give fewer --workers"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return info


def _check(settings: Settings, source: str, dest: Path, workers: int) -> None:
    """Raises ValueError for arguments that cannot work, before anything is read or written."""
    if settings.channels not in MODES:
        raise ValueError(f"--channels {settings.channels} is not possible; give 1 to 4")
    settings.values.check()
    if not 1 <= settings.quality <= 100:
        raise ValueError(f"--quality {settings.quality} is not possible; give 1 to 100")
    if workers < 0:
        raise ValueError(f"--workers {workers} is not possible; give 1 or more, or 0 for all cores")
    if not Path(source).exists():
        raise ValueError(f"'{source}' does not exist; give a folder, a .zip or a .tfrecords file")
    if os.path.lexists(dest):
        raise ValueError(f"'{dest}' exists already; remove it or give another folder to write")


def _open(source: Path, split: str, settings: Settings) -> Pictures:
    """Returns the images of a split; raises ValueError if the source or the split is missing."""
    if source.suffix in tfrecords.SUFFIXES:
        records = tfrecords.TFRecordSource(source)
        found = records.shape[0]
        if found != settings.channels:
            raise ValueError(
                f"the images of {source} have {found} channels; use --channels {found}"
            )
        names = [f"{source} record {i}" for i in range(len(records))]
        return Pictures(names, lambda i: (records[i]["image"], 0), [""])
    files = open_files(source)
    missing = "add it, or prepare only the other one with --splits"
    found = list_examples(files, split, missing)

    def read(i: int) -> tuple[np.ndarray, int]:
        path, label = found.examples[i]
        check_image(files, path)
        return read_image(files, path, settings.channels, settings.values), label

    names = [files.name(path) for path, _ in found.examples]
    levels = settings.values.levels(_first_type(files, found.examples))
    return Pictures(names, read, found.classes, found.describe_rest(), levels)


def _first_type(files: Files, examples: Examples) -> np.dtype:
    """The type of the pixels of the first image that can be read."""
    for path, _ in examples:
        with contextlib.suppress(ValueError):
            return check_image(files, path).dtype
    return np.dtype(np.uint8)


_open_once = functools.lru_cache(len(SPLITS))(_open)  # once in every worker


def _encode(source: Path, split: str, settings: Settings, i: int) -> tuple[bytes, int]:
    """Returns prepared image i of a split, as the bytes of a PNG or JPEG file, and its label.

    Raises:
      ValueError: if the image cannot be used; the message names it.
    """
    pictures = _open_once(source, split, settings)
    name = pictures.names[i]
    image, label = pictures.read(i)
    height, width = image.shape[:2]
    rows, columns = height_and_width(settings.size)
    if height < rows or width < columns:
        size = rows if rows == columns else f"{rows}x{columns}"
        raise ValueError(
            f"{name} is too small ({width}x{height} pixels) for --size {size}; give a "
            "smaller size, or replace or remove the image"
        )
    try:
        image = CROPS[settings.crop](image, settings.size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    file = io.BytesIO()
    if image.dtype != np.uint8:
        np.save(file, on_levels(image, pictures.levels))
        return file.getvalue(), label
    image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    image.save(file, **FORMATS[settings.format](settings.quality))
    return file.getvalue(), label


def _pool(workers: int) -> Executor:
    """Returns an executor with `workers` processes, or with one thread if `workers` is 1."""
    _open_once.cache_clear()
    if workers == 1:
        return ThreadPoolExecutor(1)
    # A forked process would inherit the state of a process with threads, above all its locks.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_start_worker)


def _start_worker() -> None:
    """Makes a worker ignore Ctrl-C and exit when the main process ends for any reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _in_order(
    pool: Executor, function: Callable[[int], Any], count: int, window: int
) -> Iterator[Future]:
    """Yields futures of function(0), ..., function(count - 1), with at most `window` pending."""
    pending: deque[Future] = deque()
    try:
        for i in range(count):
            pending.append(pool.submit(function, i))
            if len(pending) == window:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        for future in pending:
            future.cancel()


def _write(
    folder: Path, split: str, futures: Iterable[Future], skipped: list[str] | None
) -> list[dict[str, Any]]:
    """Writes the examples of a split and returns its files.

    Args:
      folder: the folder to write into.
      split: name of the split.
      futures: futures of the results of `_encode`.
      skipped: receives the messages about images that cannot be used; if None, they are errors.
    """
    writer = array_records.Writer(folder, split)
    try:
        for future in futures:
            try:
                writer.write(*future.result())
            except ValueError as error:
                if skipped is None:
                    raise ValueError(
                        f"{error}; --skip-corrupt leaves out all such images"
                    ) from error
                skipped.append(str(error))
    finally:
        writer.close()
    if not writer.shards:
        raise ValueError(f"no image of the {split} split can be used; the first: {skipped[0]}")
    return writer.shards


def _describe(
    source: str,
    settings: Settings,
    pictures: dict[str, Pictures],
    splits: dict[str, list[dict[str, Any]]],
    skipped: int,
) -> dict[str, Any]:
    options = settings._asdict() | settings.values._asdict()
    del options["splits"], options["values"]
    counts = {split: sum(shard["examples"] for shard in splits[split]) for split in splits}
    parts = list(pictures.values())
    return options | {
        "source": os.path.abspath(source),
        "classes": parts[0].classes,
        "examples": counts,
        "skipped": skipped,
        "left_out": "; ".join(dict.fromkeys(filter(None, (p.left_out for p in parts)))),
        "levels": parts[0].levels,
        "splits": splits,
    }


def _scale_whole(image: np.ndarray, size: Size) -> np.ndarray:
    """Scales an image (H, W, C) that has the shape of `size`: (*size, C).

    Raises:
      ValueError: if the image has another shape.
    """
    (height, width), (rows, columns) = image.shape[:2], height_and_width(size)
    if height * columns != width * rows:
        shape = "square" if rows == columns else f"part of the shape of {columns}x{rows}"
        raise ValueError(
            f"{width}x{height} pixels are no {shape}; cut out a {shape} with --crop center"
        )
    return resizing.crop_resize(image, size)


CROPS = {
    "center": resizing.crop_resize,  # the largest middle part
    "none": _scale_whole,  # an image of another shape is an error
    "celeba": resizing.resize_celeba,
    "lsun": resizing.resize_lsun,
}
FORMATS = {  # quality -> options of PIL
    "png": lambda quality: {"format": "PNG"},
    "jpeg": lambda quality: {"format": "JPEG", "quality": quality, "subsampling": 0},
}
