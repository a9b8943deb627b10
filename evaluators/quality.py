"""The task "fd": compares the samples of the task "samples" with the data, by their features."""

import logging
import os
from collections.abc import Iterable, Iterator

import ml_collections

from scorax.datasets import get_source
from scorax.evaluators.context import Numbers, TaskContext
from scorax.evaluators.samples import read_archive
from scorax.experiment import Experiment
from scorax.metrics import features
from scorax.metrics.feature_sets import METRICS, Features, Statistics
from scorax.utils import parallel
from scorax.utils.bars import elapsing
from scorax.utils.logging import progress_bar
from scorax.utils.options import configured
from scorax.utils.rounds import Arrays
from scorax.utils.tables import lookup

_log = logging.getLogger(__name__)

_KEPT = 50_000  # number of reference images whose features are kept; FID uses as many samples


def evaluate_fd(context: TaskContext) -> Numbers:
    """Computes all rows of `feature_sets.METRICS` for samples and the training images.

    The Fréchet distance is named after its features, and only with Inception-v3 is it "FID". A
    metric that cannot be computed is listed in "left_out" with the reason, except for the Fréchet
    distance, which the task requires.
    """
    n = context.config.eval.num_samples
    extractor = features.get_feature_extractor(context.config)
    reference = _get_reference(context, extractor)
    samples = read_archive(context.folder)["samples"][:n]

    def extract(i: int) -> Arrays:
        found = extractor(samples[i * context.batch_size : (i + 1) * context.batch_size])
        return {name: x for name, x in found._asdict().items() if x is not None}

    found = Features(**context.show_rounds("features", n, extract))
    report = {
        "features": extractor.name,
        "num_samples": n,
        "num_reference": int(reference.num) or None,  # unknown for published statistics
        "reference": " ".join(reference.provenance[key] for key in ("dataset", "split")).strip(),
    }
    with elapsing("comparing the features"):
        report |= _measure(context.config, found, reference, extractor.distance_name)
    fewest = min(n, report["num_reference"] or n)
    if fewest <= len(reference.mean):
        report["warning"] = (
            f"{fewest} images for {len(reference.mean)} features: their covariance is singular, "
            f"and the {extractor.distance_name} too large to be compared with others; take more "
            f"than {len(reference.mean)} (eval.num_samples={n})"
        )
        _log.warning("fd: %s", report["warning"])
    return report


def _measure(
    config: ml_collections.ConfigDict, found: Features, reference: Statistics, distance_name: str
) -> Numbers:
    """The numbers of all metrics, and the reasons why some were left out."""
    numbers, left_out = {distance_name: METRICS["fd"](found, reference)["fd"]}, {}
    for name, metric in METRICS.items():
        options = configured(metric, config)
        try:
            numbers |= metric(found, reference, **options) if name != "fd" else {}
        except ValueError as e:
            _log.info("fd: %s is left out: %s", name, e)
            left_out[name] = str(e)
    return numbers | ({"left_out": left_out} if left_out else {})


def _get_reference(context: TaskContext, extractor: features.FeatureExtractor) -> Statistics:
    """The reference statistics of the config.

    They are in the file `eval.stats`, or else of the images in the folder `eval.stats` or of the
    training images; these are saved for other checkpoints.
    """
    config = context.config
    if _has_statistics(config.eval.stats):
        return features.get_reference_statistics(config, extractor)
    config = _get_reference_config(config)
    path = os.path.join(os.path.dirname(context.folder), f"statistics_{extractor.name}.npz")
    expected = features.get_data_description(config, "train")
    expected |= {key: extractor.provenance[key] for key in ("features", "sha256")}
    statistics = None
    if os.path.exists(path):
        try:
            statistics = features.load_statistics(path, expected)
        except ValueError as e:
            _log.info("%s; they are computed again", e)
    if not parallel.any_process(statistics is None):
        return statistics
    with progress_bar(1, desc="reference") as bar:
        bar.leave = False

        def show(parts: Iterable, total: int) -> Iterator:
            bar.total = total
            for part in parts:
                yield part
                bar.update()

        statistics = features.get_statistics(config, extractor, "train", _KEPT, show)
    if parallel.is_primary():
        features.save_statistics(path, statistics)
    return statistics


def _has_statistics(path: str) -> bool:
    """Whether a path is a file with statistics, and not a folder or ZIP file of images."""
    return os.path.isfile(path) and not path.lower().endswith(".zip")


def _get_reference_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A config whose training images are the reference."""
    if not config.eval.stats:
        return config
    config = config.copy_and_resolve_references()
    config.data.dataset, config.data.dir = "image_folder", config.eval.stats
    return config


def get_fd_inputs(experiment: Experiment) -> Numbers:
    """What the numbers depend on besides the config: the training images of judge and reference."""
    e = experiment.config.eval
    if e.stats and e.features != "classifier":
        return {}
    return {"content of data": get_source(experiment.config, "train").content()}


def check_fd(experiment: Experiment) -> None:
    """Checks for missing files, but not for the judge, because it may have to be trained first."""
    e = experiment.config.eval
    lookup(features.FEATURES, e.features, "features (eval.features)")
    for metric in METRICS.values():
        configured(metric, experiment.config)
    if e.num_samples < 2:
        raise ValueError(f"eval.num_samples={e.num_samples}: the task fd needs 2 or more")
    if e.stats and not os.path.exists(e.stats):
        raise ValueError(
            f"eval.stats={e.stats!r} is no file; make it with python -m tools.compute_stats, name "
            "a folder of images, or leave it empty for the statistics of the training images"
        )
    in_file = _has_statistics(e.stats)
    if not in_file:
        get_source(_get_reference_config(experiment.config), "train")
    if e.features != "classifier":
        extractor = features.get_feature_extractor(experiment.config)
        if in_file:
            features.get_reference_statistics(experiment.config, extractor)
