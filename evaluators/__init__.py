"""The tasks of `--mode eval`, which evaluate a checkpoint: each is a row of EVALUATORS."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import ml_collections

from scorax.conditioning import DENOISERS, LIKELIHOODS, OPERATORS
from scorax.conditioning.observations import OBSERVATIONS
from scorax.conditioning.operators import get_grayscale, get_masking
from scorax.configs.ranges import check_ranges
from scorax.datasets import get_source
from scorax.evaluators.accuracy import AccuracyCurve, evaluate_accuracy
from scorax.evaluators.assimilation import Assimilation
from scorax.evaluators.batch_sampler import BatchSampler
from scorax.evaluators.class_conditional import (
    check_class_conditional,
    evaluate_class_conditional,
    get_guide_inputs,
)
from scorax.evaluators.conditional import GetProblem, check_conditional, evaluate_conditional
from scorax.evaluators.context import Numbers, rounds_folder
from scorax.evaluators.denoising import check_denoise, evaluate_denoise
from scorax.evaluators.held_out import check_bpd, evaluate_bpd, evaluate_loss
from scorax.evaluators.latents import (
    check_interpolate,
    evaluate_encode,
    evaluate_interpolate,
    get_codec,
)
from scorax.evaluators.originals import get_originals
from scorax.evaluators.problems import Colorization, Inpainting, Problem, Restoration
from scorax.evaluators.quality import check_fd, evaluate_fd, get_fd_inputs
from scorax.evaluators.samples import evaluate_samples, read_settings
from scorax.evaluators.series import evaluate_series
from scorax.evaluators.series_problems import SeriesInpainting
from scorax.evaluators.task import Evaluator
from scorax.experiment import CLASSIFIER, ONE_LEVEL, SCORE, Experiment
from scorax.likelihood import get_likelihood_fn
from scorax.metrics.feature_sets import METRICS
from scorax.solvers.probability_flow import get_encoder
from scorax.utils.logging import read_json
from scorax.utils.shapes import KINDS as _KINDS
from scorax.utils.tables import lookup

__all__ = [
    "EVALUATORS",
    "REPORT",
    "AccuracyCurve",
    "Evaluator",
    "BatchSampler",
    "check",
    "in_order",
    "read_report",
    "rounds_folder",
]

REPORT = "report.json"


def check(experiment: Experiment) -> None:
    """Checks that the tasks of the config can run, before anything is compiled.

    Raises:
      ValueError: for an unknown task, or if something that a task needs is missing.
    """
    check_ranges(experiment.config)
    e = experiment.config.eval
    if e.split not in ("test", "train"):
        raise ValueError(f"unknown eval.split {e.split!r}; choose from: test, train")
    for task in in_order(e.tasks):
        if experiment.network not in EVALUATORS[task].networks:
            raise ValueError(
                f"the task {task!r} (eval.tasks) needs {' or '.join(EVALUATORS[task].networks)}, "
                f"but training.objective={experiment.config.training.objective!r} trains "
                f"{experiment.network}; leave the task out"
            )
        _check_kind(experiment.config, EVALUATORS[task])
        EVALUATORS[task].check(experiment)
        # Opens the images that the task reads, to find out whether they are there and fit.
        if "eval.images" in EVALUATORS[task].keys:
            if not e.measurements:
                get_originals(experiment.config)
        elif "eval.split" in EVALUATORS[task].keys:
            get_source(experiment.config, e.split)


def _check_kind(config: ml_collections.ConfigDict, evaluator: Evaluator) -> None:
    """Raises ValueError unless a task works with the kind of data."""
    kind = config.data.kind
    if kind not in evaluator.kinds:
        able = [name for name, row in EVALUATORS.items() if kind in row.kinds]
        raise ValueError(
            f"the task {evaluator.name!r} (eval.tasks) takes {' and '.join(evaluator.kinds)}, but "
            f"data.kind={kind!r}; for {kind} there are {', '.join(able)}"
        )
    if kind != "images" and config.eval.save_images:
        raise ValueError(
            f"eval.save_images=True writes each sample as a picture, but data.kind={kind!r}; the "
            "samples are in samples.npz"
        )


def in_order(tasks: Sequence[str]) -> list[str]:
    """The tasks without repetitions, each after the tasks whose files it reads.

    Raises:
      ValueError: for an unknown task.
    """
    ordered: list[str] = []
    for task in tasks:
        ordered += [*lookup(EVALUATORS, task, "task (eval.tasks)").after, task]
    return list(dict.fromkeys(ordered))


def read_report(folder: str) -> Numbers:
    """The report of an earlier evaluation; empty if there is none.

    Raises:
      ValueError: if the report is damaged.
    """
    path = os.path.join(folder, REPORT)
    try:
        report = read_json(path)
    except FileNotFoundError:
        return {}
    settings = report.get("settings", {})
    if not isinstance(settings, dict) or not all(isinstance(s, dict) for s in settings.values()):
        raise ValueError(f"{path}: its settings are no settings of tasks; move it away")
    return report


KINDS = tuple(_KINDS)
_SPLIT = ("eval.batch_size", "eval.split")
_SAMPLES = ("sampling.", "eval.batch_size", "eval.num_samples")
_JUDGE = ("eval.features", "eval.features_path")
_ORIGINALS = ("eval.images", "eval.measurements", *_SPLIT)


def _inpainting(experiment: Experiment) -> Problem:
    """Inpainting of the kind of data of an experiment."""
    series = experiment.config.data.kind == "series"
    return SeriesInpainting(experiment) if series else Inpainting(experiment)


def _conditional(
    name: str,
    problem: GetProblem,
    *depends_on: Any,
    kinds: tuple[str, ...] = ("images",),
) -> Evaluator:
    """The row of a task that draws examples given measurements of others."""
    return Evaluator(
        name,
        functools.partial(evaluate_conditional, problem),
        (
            "sampling.",
            "eval.num_conditioned",
            "eval.samples_per_image",
            *_ORIGINALS,
            LIKELIHOODS,
            *depends_on,
        ),
        functools.partial(check_conditional, problem),
        kinds=kinds,
    )


_ROWS = (
    Evaluator(
        "samples",
        evaluate_samples,
        (*_SAMPLES, "eval.save_images"),
        made_with=read_settings,
        at_least="eval.num_samples",
        kinds=KINDS,
    ),
    Evaluator(
        "loss",
        evaluate_loss,
        ("training.", "data.uniform_dequantization", "eval.num_examples", *_SPLIT),
        networks=(SCORE, ONE_LEVEL, CLASSIFIER),
        kinds=KINDS,
    ),
    Evaluator(
        "bpd",
        evaluate_bpd,
        (get_likelihood_fn, "eval.bpd_repeats", "eval.num_examples", *_SPLIT),
        check_bpd,
        kinds=KINDS,
    ),
    Evaluator(
        "fd",
        evaluate_fd,
        (*_SAMPLES, METRICS, *_JUDGE, "eval.inception_path", "eval.stats"),
        check_fd,
        after=("samples",),
        get_inputs=get_fd_inputs,
    ),
    Evaluator("encode", evaluate_encode, (get_encoder, "eval.num_encoded", *_SPLIT), get_codec),
    Evaluator(
        "interpolate",
        evaluate_interpolate,
        (get_encoder, "eval.num_pairs", "eval.num_points", *_SPLIT),
        check_interpolate,
    ),
    Evaluator(
        "denoise",
        evaluate_denoise,
        (
            "sampling.",
            DENOISERS,
            "eval.denoisers",
            "eval.noise_std",
            "eval.num_denoised",
            *_ORIGINALS,
        ),
        check_denoise,
        networks=(SCORE, ONE_LEVEL),
    ),
    Evaluator(
        "accuracy", evaluate_accuracy, ("eval.num_examples", *_SPLIT), networks=(CLASSIFIER,)
    ),
    Evaluator(
        "class_conditional",
        evaluate_class_conditional,
        ("guidance.", "eval.save_images", *_JUDGE, *_SAMPLES),
        check_class_conditional,
        get_inputs=get_guide_inputs,
    ),
    Evaluator(
        "series",
        evaluate_series,
        (*_SAMPLES, "eval.split", "eval.recurrent_steps"),
        after=("samples",),
        kinds=("series",),
    ),
    _conditional(
        "inpaint",
        _inpainting,
        get_masking,
        *("eval.mask_", "eval.known_likelihood", "eval.resampling_", "data.columns"),
        kinds=("images", "series"),
    ),
    _conditional(
        "colorize", Colorization, get_grayscale, "eval.known_likelihood", "eval.resampling_"
    ),
    _conditional(
        "restore",
        Restoration,
        OPERATORS,
        *("eval.operator", "eval.likelihood", "eval.measurement_std"),
    ),
    _conditional(
        "assimilate",
        Assimilation,
        OBSERVATIONS,
        *("eval.states", "eval.observation", "eval.likelihood", "eval.measurement_std"),
        kinds=("series", "fields"),
    ),
)
# task -> (experiment, state, folder) -> numbers for the report
EVALUATORS = {evaluator.name: evaluator for evaluator in _ROWS}
