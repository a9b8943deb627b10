"""Data sets as endless streams of batches, converted into the model's range.

Positions in a stream are numbered. Position i holds one example with its own flip and its own
dequantisation noise, all functions of `config.seed` and i. Batch k consists of positions kB ...
(k+1)B - 1, and process p of P reads every P-th of them, starting with the p-th. A stream is
therefore the same for any number of processes, devices and threads, and its whole state is the
number of the next batch.

Examples are float32, with the shape that the network sees. Images are NHWC, in [0, 1] or, with
`config.data.centered`, in [-1, 1]; other data are standardised (`utils.data_range`). A batch calls
them "image", as score_sde does, whatever they are.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator

import grain
import ml_collections
import numpy as np

from scorax.data_sources import (
    array_records,
    cifar10,
    digits,
    dynamics,
    hdf5,
    images,
    mnist,
    npz,
    ou,
    photographs,
    points,
    series,
    sines,
    tfds_source,
    tfrecords,
    trajectories,
    waves,
)
from scorax.data_sources.source import Source
from scorax.data_sources.values import Values
from scorax.utils import parallel
from scorax.utils.data_range import (
    compute_statistics,
    get_data_inverse_scaler,  # noqa: F401 (score_sde has it here)
    get_data_scaler,
)
from scorax.utils.fields import random_symmetry
from scorax.utils.shapes import Size, example_shape, image_shape, model_shape, size_text
from scorax.utils.tables import lookup

Batch = dict[str, np.ndarray]

_SHOWN = 20  # largest number of classes named in a line
_MEASURED = 100_000  # largest number of examples from which statistics are computed
# A config to start from, for each kind of data.
_CONFIGS = {
    "images": ", such as configs/ve/mnist.py",
    "series": ", such as configs/edm/series.py",
    "points": ", such as configs/vp/points.py",
    "fields": ", such as configs/kolmogorov/small.py",
}


def get_source(config: ml_collections.ConfigDict, split: str = "train") -> Source:
    """Returns the examples of a split ("train" or "test") of `config.data.dataset`.

    Raises:
      ValueError: for an unknown data set, for missing or damaged files, or if the examples differ
        from the config in kind or shape.
    """
    data = config.data
    name = data.dataset.lower()  # score_sde writes CIFAR10
    source = lookup(DATASETS, name, "dataset (data.dataset)")(data, split)
    if source.kind != data.kind:
        raise ValueError(
            f"data.kind={data.kind!r}, but the examples of data.dataset={data.dataset!r} are "
            f"{source.kind}; take a config made for {source.kind}"
            f"{_CONFIGS.get(source.kind, '')}, or other data"
        )
    found, expected = source[0]["image"].shape, example_shape(data)
    if source.kind == "images":
        _check_image(data, found)
    elif found != expected:
        raise ValueError(
            f"the {source.kind} of data.dataset={data.dataset!r} have the shape {found}, but the "
            f"config expects {expected}; change data.length, data.image_size or data.num_channels"
        )
    return source


def _check_image(data: ml_collections.ConfigDict, shape: tuple[int, int, int]) -> None:
    """Raises ValueError unless images of a shape (H, W, C) are as the config expects."""
    (height, width, channels), expected = shape, image_shape(data)
    if (height, width, channels) == (expected[2], *expected[:2]) != expected:
        raise ValueError(
            f"the images of {data.dataset} have their channels first, {(height, width, channels)}; "
            "transpose them to (N, H, W, C)"
        )
    if (height, width) != expected[:2]:
        raise ValueError(
            f"data.image_size={size_text(data.image_size)} but the images of {data.dataset} are "
            f"{height}x{width}; set --config.data.image_size={size_text((height, width))}"
        )
    if channels != expected[2]:
        raise ValueError(
            f"data.num_channels={data.num_channels} but the images of {data.dataset} have "
            f"{channels}; set --config.data.num_channels={channels}"
        )


def describe(source: Source) -> str:
    """Returns a line about a split: "1,000 images, 2 classes: 0 cat, 1 dog"."""
    parts = [f"{len(source):,} {source.kind}"]
    if source.classes:
        shown = [f"{i} {name}" for i, name in enumerate(source.classes)]
        more = f", ... and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        parts.append(f"{len(shown)} classes: {', '.join(shown[:_SHOWN])}{more}")
    else:
        parts.append("no classes")
    return ", ".join(parts) + (f"; not used: {source.left_out}" if source.left_out else "")


def get_dataset(
    config: ml_collections.ConfigDict,
    split: str = "train",
    batch_size: int | None = None,
    shuffle: bool | None = None,
    source: Source | None = None,
) -> grain.MapDataset:
    """Returns this process's share of the batches of a split; `dataset[k]` is batch k.

    Args:
      config: the whole config, of which `data`, `seed` and `training.batch_size` are used.
      split: "train" or "test".
      batch_size: number of examples over all processes; None: `config.training.batch_size`.
      shuffle: whether every epoch has a new random order; None: only for "train".
      source: the examples; None: `get_source`.

    Returns:
      An endless dataset of {"image": float32 (b, *S) in the model's range,
      "label": int32 (b,), "index": uint32 (b,)}, where b = batch_size / processes and `index` is
      the position in the stream (modulo 2^32). Only in a shuffled "train", examples are changed at
      random, as set by `config.data.random_flip`, `random_shift` and `random_symmetry`.

    Raises:
      ValueError: see `get_source`; also for a seed, batch size or shift out of range.
    """
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed={config.seed} is out of range; set 0 <= seed < 2**32")
    _check_augmentation(config.data)
    field = "training.batch_size" if batch_size is None else "batch_size"
    batch_size = config.training.batch_size if batch_size is None else batch_size
    parallel.local_batch_size(batch_size, field)  # raises if the batch cannot be split
    training = split == "train"
    shuffle = training if shuffle is None else shuffle
    augmented = training and shuffle
    source = get_source(config, split) if source is None else source
    if config.data.uniform_dequantization and not source.levels:
        raise ValueError(
            "data.uniform_dequantization=True fills the gaps between the levels of pixels, but "
            f"the pixels of {config.data.dataset} are real numbers; set it to False"
        )
    batches = Batches(
        source=source,
        order=_get_order(len(source), config.seed if shuffle else None),
        batch_size=batch_size,
        process=(parallel.process_index(), parallel.process_count()),
        key=(config.seed, 0 if training else 1),
        shape=model_shape(config),
        flip=augmented and config.data.random_flip,
        shift=augmented * config.data.random_shift,
        force=augmented * config.data.random_symmetry * config.simulation.wavenumber,
        dequantize=config.data.uniform_dequantization,
        scaler=get_data_scaler(config),
    )
    return grain.MapDataset.source(batches)


def _check_augmentation(data: ml_collections.ConfigDict) -> None:
    """Raises ValueError for random changes that the data do not allow."""
    if data.random_symmetry and (data.kind != "fields" or data.num_channels != 2):
        raise ValueError(
            "data.random_symmetry=True changes velocities of a flow, but the data are "
            f"{data.kind} of {data.num_channels} channels; set it to False"
        )
    if data.kind != "images":
        if data.random_flip or data.random_shift:
            raise ValueError(
                f"data.random_flip={data.random_flip} and data.random_shift={data.random_shift} "
                f"change images, but data.kind={data.kind!r}; set them to False and 0"
            )
        return
    side = min(image_shape(data)[:2])
    if not 0 <= data.random_shift < side:
        raise ValueError(
            f"data.random_shift={data.random_shift} must be less than the {side} pixels of an "
            "image, and at least 0; 0 means no shift"
        )


def get_statistics(
    config: ml_collections.ConfigDict, source: Source
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The values of `data.mean` and `data.scale` for a training set; ((), ()) for images.

    Raises:
      ValueError: see `utils.data_range.compute_statistics`.
    """
    if source.kind == "images":
        return (), ()
    chosen = np.linspace(0, len(source) - 1, min(len(source), _MEASURED)).round().astype(int)
    return compute_statistics(config, np.stack([source[i]["image"] for i in chosen.tolist()]))


def get_iterator(
    dataset: grain.MapDataset, config: ml_collections.ConfigDict, start: int = 0
) -> "BatchIterator":
    """Returns an iterator over batches `start`, `start + 1`, ... with `config.data.num_threads`.

    Raises:
      ValueError: unless `config.data.num_threads` is positive and `start` is not negative.
    """
    return BatchIterator(dataset, config.data.num_threads, start)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Random access to the batches of a stream, as one process sees them."""

    source: Source
    order: grain.MapDataset  # position -> index of the example in the source
    batch_size: int  # over all processes
    process: tuple[int, int]  # this process's number, number of processes
    shape: tuple[int, ...]  # of an example as the network sees it
    key: tuple[int, int]  # key of the random numbers
    flip: bool
    shift: int  # largest shift in pixels; the uncovered border is filled with 0
    force: int  # wavenumber of the force whose random symmetries are applied to fields; 0: none
    dequantize: bool
    scaler: Callable[[np.ndarray], np.ndarray]

    def __len__(self) -> int:
        return sys.maxsize // self.batch_size

    def __getitem__(self, k: int) -> Batch:
        """Returns batch k; see `get_dataset`."""
        index, count = self.process
        positions = range(k * self.batch_size + index, (k + 1) * self.batch_size, count)
        examples = np.empty((len(positions), *self.shape), np.float32)
        labels = np.empty(len(positions), np.int32)
        for row, position in enumerate(positions):
            example = self.source[self.order[position]]
            # Converts straight into the batch: copying large images costs half as much as decoding.
            self._convert(example["image"], position, examples[row])
            labels[row] = example["label"]
        return {
            "image": examples,
            "label": labels,
            "index": (np.array(positions, np.int64) % 2**32).astype(np.uint32),
        }

    def _convert(self, image: np.ndarray, position: int, out: np.ndarray) -> None:
        """Converts the example at a position, and writes it to out, float32."""
        if self.flip or self.shift or self.force or self.dequantize:
            # A counter-based generator needs none of the random numbers of earlier positions.
            counter = np.array([0, position, 0, 0], np.uint64)
            bits = np.random.Philox(key=np.array(self.key, np.uint64), counter=counter)
            rng = np.random.Generator(bits)
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        if self.shift:
            s, (height, width, _) = self.shift, image.shape
            top, left = rng.integers(2 * s + 1, size=2)
            padded = np.pad(image, ((s, s), (s, s), (0, 0)))
            image = padded[top : top + height, left : left + width]
        if self.force:
            image = random_symmetry(image, rng, self.force)
        is_bytes = image.dtype == np.uint8
        if not self.dequantize and is_bytes:
            np.take(self._levels, image, out=out, mode="clip")  # the default mode would copy
            return
        if not self.dequantize:
            out[...] = self.scaler(image)
            return
        levels = 256 if is_bytes else self.source.levels
        image = image if is_bytes else np.rint(image * (levels - 1.0))
        # 16 bits of u, because more would round 255 + u up to 256, and the result must be below 1.
        u = rng.integers(2**16, size=image.shape, dtype=np.uint16).astype(np.float32) / 2.0**16
        out[...] = self.scaler(((image + u) / levels).astype(np.float32))

    @functools.cached_property
    def _levels(self) -> np.ndarray:
        """The converted values of the pixels 0, 1, ..., 255: float32 (256,)."""
        return self.scaler(np.arange(256, dtype=np.float32) / 255.0)


class BatchIterator:
    """Iterates over batches that threads read ahead; its state is the number of the next batch."""

    def __init__(self, dataset: grain.MapDataset, num_threads: int, start: int = 0):
        if num_threads < 1:
            raise ValueError(f"data.num_threads={num_threads} reads nothing; set 1 or more")
        # Each thread reads one batch, and one more batch is ready.
        options = grain.ReadOptions(num_threads, prefetch_buffer_size=num_threads + 1)
        self._batches = iter(dataset.to_iter_dataset(options))
        self.set_state(start)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            return next(self._batches)
        except Exception:
            # Drops the batches read ahead, or the next one would take the place of the failed one.
            self.set_state(self.get_state())
            raise

    def get_state(self) -> int:
        """Returns the number of the next batch."""
        return self._batches.get_state()["next_index"]

    def set_state(self, k: int) -> None:
        """Continues with batch k.

        Raises:
          ValueError: for a negative number.
        """
        if k < 0:
            raise ValueError(f"there is no batch {k} to start from; start from 0 or later")
        self._batches.set_state({"next_index": int(k)})

    def close(self) -> None:
        """Stops the threads."""
        self._batches.close()


def _get_order(size: int, seed: int | None) -> grain.MapDataset:
    """Returns the endless order of `size` examples: 0, 1, ..., or newly shuffled in every epoch."""
    order = grain.MapDataset.range(size)
    if seed is not None:
        # Grain shuffles epoch e with seed + e, so neighbouring seeds would share epochs.
        order = order.shuffle(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
    order = order.repeat()
    order[0]  # grain initialises itself at the first access, which must happen in a single thread
    return order


def _files(data: ml_collections.ConfigDict) -> tuple[Size, int, Values]:
    """How the files of images are read."""
    return data.image_size, data.num_channels, _values(data)


def _values(data: ml_collections.ConfigDict) -> Values:
    return Values(tuple(data.value_range), data.background).check()


# name -> function of `config.data` and the split that returns the source
DATASETS = {
    "mnist": lambda data, split: mnist.load(data.dir, split),
    "fashion_mnist": lambda data, split: mnist.load_fashion(data.dir, split),
    "digits": lambda data, split: digits.load(split),
    "photographs": lambda data, split: photographs.load(split, data.image_size),
    "cifar10": lambda data, split: cifar10.load(data.dir, split, data.image_size),
    "svhn": lambda data, split: tfds_source.load("svhn", data.dir, split, data.image_size),
    "celeba": lambda data, split: tfds_source.load("celeba", data.dir, split, data.image_size),
    "lsun": lambda data, split: tfds_source.load(
        "lsun", data.dir, split, data.image_size, data.category
    ),
    "image_folder": lambda data, split: images.load(data.dir, split, *_files(data)),
    "afhq": lambda data, split: images.load_afhq(data.dir, split, *_files(data)),
    "retinal_oct": lambda data, split: images.load_oct(data.dir, split, *_files(data)),
    "array_record": lambda data, split: array_records.load(data.dir, split),
    "ou": lambda data, split: ou.load(split, data.length),
    "sines": lambda data, split: sines.load(split, data.length, data.num_channels),
    "series": lambda data, split: series.load(
        data.dir, split, data.length, data.stride, data.num_channels, tuple(data.columns)
    ),
    **{name: lambda data, split, name=name: points.load(name, split) for name in points.POINTS},
    **{
        name: lambda data, split, name=name: trajectories.load_chain(name, split, data.length)
        for name in dynamics.CHAINS
    },
    "waves": lambda data, split: waves.load(split, data.length, *image_shape(data)[:2]),
    "trajectories": lambda data, split: trajectories.load_files(
        data.dir, split, data.length, data.kind
    ),
    "npz": lambda data, split: npz.load(data.dir, split, _values(data)),
    "hdf5": lambda data, split: hdf5.load(data.dir, split, _values(data)),
    "tfrecord": lambda data, split: tfrecords.load(data.dir, split, data.image_size),
    "ffhq": lambda data, split: tfrecords.load_ffhq(data.dir, split, data.image_size),
    "celebahq": lambda data, split: tfrecords.load_celebahq(data.dir, split, data.image_size),
}
