"""The networks that make features of images, and the feature statistics of data sets.

`eval.features` selects the network:

* "inception": the Inception-v3 network of FID, whose weights the user has to provide as a file.
  Images are resized as TensorFlow 1 did; grey images are given three equal channels.
* "classifier": the judge (`metrics.judge`), a small classifier that is trained once on the data set
  of the config and kept in a file. Fréchet distances between its features are called FD, never FID,
  and can be compared only if they were computed with the same file.

Images are uint8 (N, H, W, C); images with more than 8 bits are rounded to them, as samples are. The
reference statistics of a data set cover all images of a split, without flips. The file that holds
them records the content of the data and the network they were computed from, and is refused for any
other data or network. Statistics files of pytorch-fid and EDM record neither, and are taken as they
are.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from scorax.data_sources.source import Source
from scorax.datasets import get_source
from scorax.metrics import inception, judge
from scorax.metrics.feature_sets import Features, Moments, Statistics
from scorax.utils import parallel
from scorax.utils.bars import Bar
from scorax.utils.images import to_float, to_uint8
from scorax.utils.logging import versions, write_atomically
from scorax.utils.shapes import image_shape
from scorax.utils.tables import lookup
from scorax.weights import formats, torch_files

log = logging.getLogger(__name__)

Variables = dict[str, Any]
Progress = Callable[[Iterable, int], Iterable]  # (parts, number of parts) -> the parts

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
)
STEPS, SEED = 1500, 0  # of the judge's training
NAMELESS = ("image_folder", "array_record", "npz", "hdf5", "tfrecord")  # named after their folder
CHUNK = 512  # images of a data set in memory at a time while statistics are computed


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
    """A network that makes features of images, compiled once for each image size.

    Attributes:
      name: name of the network: "inception-v3", "mnist-classifier", ...
      provenance: "features" (the name), "sha256" (of the weights) and, for the judge, "trained_on".
      variables: variables of the network.
      apply: function of the variables and of images uint8 (B, H, W, C).
      batch_size: images per batch, over all devices.
    """

    name: str
    provenance: dict[str, Any]
    variables: Variables
    apply: Callable[[Variables, jax.Array], Features]
    batch_size: int

    @property
    def distance_name(self) -> str:
        """Name of the Fréchet distance between these features: "FID" is reserved for Inception."""
        return "FID" if self.name == "inception-v3" else f"FD-{self.name}"

    def __call__(self, images: np.ndarray) -> Features:
        """Returns features (N, D) and logits (N, K), float32, of images: uint8 (N, H, W, C).

        Raises:
          ValueError: for images of another type or shape, or no image.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            raise ValueError(
                f"images are {images.dtype} of shape {images.shape}; features are made of uint8 "
                "(N, H, W, C), at least one"
            )
        parts = []
        # All batches have the same size, so that the last one needs no compilation of its own.
        n = -(-self.batch_size // parallel.device_count()) * parallel.device_count()
        for i in range(0, len(images), n):
            batch = images[i : i + n]
            missing = n - len(batch)
            padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
            found = parallel.to_host(self._compiled(self._device_variables, padded))
            parts.append(jax.tree.map(lambda x, b=batch: x[: len(b)], found))
        return _join(parts)

    @functools.cached_property
    def _compiled(self) -> Callable[[Variables, np.ndarray], Features]:
        return jax.jit(lambda variables, x: self.apply(variables, parallel.shard_batch(x)))

    @functools.cached_property
    def _device_variables(self) -> Variables:
        everywhere = NamedSharding(parallel.batch_sharding().mesh, PartitionSpec())
        return jax.device_put(self.variables, everywhere)


def _join(parts: list[Features]) -> Features:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _check_kind(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for data that are no images, of which there are no features."""
    if config.data.kind != "images":
        raise ValueError(
            f"features, and the Fréchet distance, are of images, but data.kind={config.data.kind!r}"
            "; series are compared by the task series, and points by their density, the task bpd"
        )


def get_feature_extractor(config: ml_collections.ConfigDict) -> FeatureExtractor:
    """Returns the network that `config.eval.features` names, a row of `FEATURES`.

    Raises:
      ValueError: for an unknown name, a missing or wrong file, data with fewer than two classes, or
        data that are no images.
    """
    _check_kind(config)
    return lookup(FEATURES, config.eval.features, "features (eval.features)")(config)


def _get_inception(config: ml_collections.ConfigDict) -> FeatureExtractor:
    return inception_extractor(config.eval.inception_path, config.eval.batch_size)


def _get_judge(config: ml_collections.ConfigDict) -> FeatureExtractor:
    """Returns the judge in `config.eval.features_path`; trains it first if the file is missing."""
    source = get_source(config, "train")
    trained_on = get_data_description(config, "train", source)
    dir = os.path.splitext(os.path.basename(os.path.normpath(config.data.dir)))[0]
    parts = trained_on["dataset"], dir if trained_on["dataset"] in NAMELESS else ""
    name = "-".join(filter(None, (*parts, config.data.category)))
    size = "x".join(map(str, image_shape(config)))
    file = f"{name}-{size}-{trained_on['crc32']:08x}.safetensors"
    path = config.eval.features_path or f"data/classifiers/{file}"

    def load() -> tuple[np.ndarray, np.ndarray]:
        examples = [source[i] for i in range(len(source))]
        pixels = np.stack([to_uint8(to_float(e["image"])) for e in examples])
        return pixels, np.array([e["label"] for e in examples])

    shape = source[0]["image"].shape
    model, variables = trained_judge(path, trained_on, shape, load, STEPS, SEED)
    return judge_extractor(
        f"{name}-classifier", model, variables, trained_on, config.eval.batch_size
    )


def inception_extractor(path: str, batch_size: int) -> FeatureExtractor:
    """Returns the Inception-v3 network of FID.

    Args:
      path: a .pth or .safetensors file of the weights, with PyTorch's names.
      batch_size: images per batch, over all devices.

    Raises:
      ValueError: if the file is missing or is a different one; the message says where to get it.
    """
    remedy = (
        f"get {INCEPTION_FILE} from {INCEPTION_URL} and give it with "
        "--config.eval.inception_path=FILE, or choose --config.eval.features=classifier"
    )
    if not os.path.isfile(path):
        raise ValueError(f"eval.inception_path='{path}' is no file; {remedy}")
    readers = {
        "torch": torch_files.load,
        "safetensors": lambda path: formats.read_safetensors(path)[0],
    }
    arrays = lookup(readers, formats.detect(path), f"format of {path}")(path)
    if not isinstance(arrays, Mapping) or not all(hasattr(x, "shape") for x in arrays.values()):
        raise ValueError(f"{path} holds no arrays by name; {remedy}")
    try:
        variables = inception.from_torch(arrays)
    except ValueError as e:
        raise ValueError(f"{path} is not the Inception-v3 of FID: {e}; {remedy}") from e
    model, name = inception.InceptionV3(), "inception-v3"

    def apply(variables: Variables, images: jax.Array) -> Features:
        if images.shape[-1] not in (1, 3):
            raise ValueError(
                f"Inception-v3 takes images of 1 or 3 channels, not {images.shape[-1]}; choose "
                "--config.eval.features=classifier"
            )
        shape = (*images.shape[:-1], 3)
        found = model.apply(variables, jnp.broadcast_to(images, shape))
        return Features(found["2048"], found["logits_unbiased"])

    provenance = {"features": name, "sha256": sha256_of(variables)}
    return FeatureExtractor(name, provenance, variables, apply, batch_size)


def judge_extractor(
    name: str,
    model: judge.Judge,
    variables: Variables,
    trained_on: Mapping[str, Any],
    batch_size: int,
) -> FeatureExtractor:
    """Returns the last hidden layer and the logits of a judge as a `FeatureExtractor`."""

    def apply(variables: Variables, images: jax.Array) -> Features:
        logits, features = model.apply(variables, images / jnp.float32(255))
        return Features(features, logits)

    provenance = {"features": name, "sha256": sha256_of(variables), "trained_on": dict(trained_on)}
    return FeatureExtractor(name, provenance, variables, apply, batch_size)


def trained_judge(
    path: str | None,
    trained_on: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    load: Callable[[], tuple[np.ndarray, np.ndarray]],
    steps: int,
    seed: int,
) -> tuple[judge.Judge, Variables]:
    """Reads a judge from a file, or trains it and writes the file.

    Args:
      path: the .safetensors file; None to train without writing a file.
      trained_on: description of the data, of JSON types; an existing file must have the same one.
      image_shape: (H, W, C) of the images.
      load: returns images, uint8 (N, H, W, C), and labels, whole numbers (N,) from 0.
      steps, seed: number of training steps and seed of the training.

    Returns:
      The network and its variables.

    Raises:
      ValueError: for a file that holds something else, or data with fewer than two classes.
    """
    settings = {**trained_on, "steps": steps, "seed": seed}
    if path and os.path.exists(path):
        return _read_judge(path, settings, image_shape)
    images, labels = load()
    classes = int(labels.max()) + 1
    if len(np.unique(labels)) < 2:
        raise ValueError(
            "the judge (eval.features='classifier') cannot be trained on images of one class; use "
            "data with labels, or --config.eval.features=inception"
        )
    model = judge.fit_judge(image_shape, classes)
    log.info("training the judge on %d images of %d classes", len(images), classes)
    variables = judge.train_judge(
        model, images, labels.astype(np.int32), steps, seed, _show_training
    )
    if path and parallel.is_primary():
        arrays = flax.traverse_util.flatten_dict(variables, sep=".")
        notes = {"settings": json.dumps(settings), "classes": str(classes), "format": "flax"}
        formats.write_safetensors(path, arrays, notes)
    return model, variables


def _show_training(steps: range) -> Bar:
    bar = Bar(steps, "the judge", unit=" steps", disable=not parallel.is_primary())
    bar.leave = False
    return bar


def _read_judge(
    path: str, settings: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> tuple[judge.Judge, Variables]:
    arrays, notes = formats.read_safetensors(path)
    if "settings" not in notes:
        raise ValueError(f"{path} was not written as a judge; set another eval.features_path")
    if changes := _differences(json.loads(notes["settings"]), settings):
        raise ValueError(
            f"{path} is a judge of other data ({changes}); remove the file, or set another "
            "eval.features_path"
        )
    model = judge.fit_judge(image_shape, int(notes["classes"]))
    return model, flax.traverse_util.unflatten_dict(arrays, sep=".")


def sha256_of(variables: Variables) -> str:
    """Returns the SHA-256 of arrays and their names, which is the same for every file format."""
    digest = hashlib.sha256()
    for name, x in sorted(flax.traverse_util.flatten_dict(variables, sep="/").items()):
        digest.update(f"{name} {x.shape} {x.dtype} ".encode())
        digest.update(np.ascontiguousarray(x))
    return digest.hexdigest()


def get_data_description(
    config: ml_collections.ConfigDict, split: str = "train", source: Source | None = None
) -> dict[str, Any]:
    """Returns what two splits must have in common to share statistics and a judge."""
    source = get_source(config, split) if source is None else source
    return _get_kind(config) | {"split": split, **source.content()}


def _get_kind(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The part of the description that is in the config."""
    data, size = config.data, config.data.image_size
    return {
        "dataset": data.dataset.lower(),
        "category": data.category,
        "image_size": size if isinstance(size, int) else list(size),
        "num_channels": data.num_channels,
    }


def get_reference_statistics(
    config: ml_collections.ConfigDict, extractor: FeatureExtractor
) -> Statistics:
    """Reads the statistics in the file `config.eval.stats`.

    Where that is "", they are computed from all training images.

    Raises:
      ValueError: if the file is missing, or its statistics are of other data or another network.
    """
    if not config.eval.stats:
        return get_statistics(config, extractor)
    path = config.eval.stats
    made_by = {key: extractor.provenance[key] for key in ("features", "sha256")}
    statistics = load_statistics(path, {})
    if "sha256" not in statistics.provenance:
        if extractor.name != "inception-v3":
            raise ValueError(
                f"{path} holds statistics of the Inception-v3 features of FID; compare with them "
                "by --config.eval.features=inception"
            )
        return statistics
    split = statistics.provenance.get("split", "train")
    try:
        data = get_data_description(config, split)
    except ValueError as e:
        log.warning("%s cannot be compared with the data of this config: %s", path, e)
        data = _get_kind(config)
    return load_statistics(path, data | made_by)


def get_statistics(
    config: ml_collections.ConfigDict,
    extractor: FeatureExtractor,
    split: str = "train",
    keep: int | None = None,
    progress: Progress = lambda parts, total: parts,
) -> Statistics:
    """Computes the statistics of all images of a split of the data set.

    Args:
      config: only `config.data` is used; images are not flipped or dequantised.
      extractor: makes the features.
      split: "train" or "test".
      keep: number of images, evenly spread, whose features and logits are kept; None for all.
      progress: wraps the loop over the parts of the data set.

    Raises:
      ValueError: see `get_source`; also if `keep` is negative.
    """
    source = get_source(config, split)
    keep = len(source) if keep is None else min(keep, len(source))
    if keep < 0:
        raise ValueError(f"keep={keep} features cannot be kept; give 0 or more")
    kept = np.arange(keep) * len(source) // max(keep, 1)
    moments, parts = Moments(), []
    starts = range(0, len(source), CHUNK)
    with ThreadPoolExecutor(config.data.num_threads) as pool:
        for start in progress(starts, len(starts)):
            rows = range(start, min(start + CHUNK, len(source)))
            examples = pool.map(source.__getitem__, rows)
            found = extractor(np.stack([to_uint8(to_float(e["image"])) for e in examples]))
            moments.add(found.features)
            mine = kept[(kept >= rows.start) & (kept < rows.stop)] - start
            parts.append(jax.tree.map(lambda x, mine=mine: x[mine], found))
    found = _join(parts) if keep else Features(None)
    provenance = get_data_description(config, split, source)
    provenance |= extractor.provenance | {"versions": versions()}
    return Statistics(*moments.statistics(), len(source), *found, provenance)


def save_statistics(path: str | os.PathLike, statistics: Statistics) -> None:
    """Writes an npz file: `mean`, `cov`, `num`, kept features and logits, `provenance` as JSON."""
    arrays = {k: x for k, x in statistics._asdict().items() if x is not None}
    arrays["provenance"] = np.array(json.dumps(statistics.provenance))
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def load_statistics(path: str | os.PathLike, expected: Mapping[str, Any]) -> Statistics:
    """Reads statistics from a file that `save_statistics` wrote, or pytorch-fid or EDM.

    Args:
      path: the file.
      expected: entries that its provenance must have: data set, image size, features, ...

    Raises:
      ValueError: if the file is missing or damaged, or its provenance differs from `expected`.
    """
    remedy = "make it with python -m tools.compute_stats"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if {"mu", "sigma"} <= arrays.keys():
            name = os.path.basename(path)
            return Statistics(arrays["mu"], arrays["sigma"], 0, None, None, _published(name))
        provenance = json.loads(str(arrays.pop("provenance")))
        statistics = Statistics(**arrays, provenance=provenance)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as e:
        raise ValueError(f"{path} holds no reference statistics ({e}); {remedy}") from e
    if changes := _differences(provenance, expected):
        raise ValueError(f"{path} holds statistics of something else ({changes}); {remedy}")
    return statistics._replace(num=int(statistics.num))


def _published(name: str) -> dict[str, str]:
    """The provenance of statistics that record none: only the name of the file."""
    return {"dataset": name, "split": ""}


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Returns a text that lists the entries of `found` that differ from `expected`.

    Files of an older version have no checksum; the name of a published data set identifies it.
    """
    older = "crc32" not in found and found.get("dataset") not in NAMELESS
    keys = [key for key in expected if not (older and key == "crc32")]
    pairs = ((key, found.get(key), expected[key]) for key in keys)
    return ", ".join(f"{k}: {x!r} instead of {y!r}" for k, x, y in pairs if x != y)


# name -> builder: config -> FeatureExtractor
FEATURES: dict[str, Callable[[ml_collections.ConfigDict], FeatureExtractor]] = {
    "inception": _get_inception,
    "classifier": _get_judge,
}
