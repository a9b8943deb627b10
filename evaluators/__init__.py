"""What `--mode eval` can find out about a checkpoint: the tasks, one row of EVALUATORS each."""

import functools
import json
import os
from collections.abc import Sequence

from scorax.datasets import get_source
from scorax.evaluators.accuracy import AccuracyCurve, evaluate_accuracy
from scorax.evaluators.class_conditional import (
    check_class_conditional,
    evaluate_class_conditional,
    get_guide_inputs,
)
from scorax.evaluators.conditional import check_conditional, evaluate_conditional
from scorax.evaluators.context import Evaluator, Numbers, rounds_folder
from scorax.evaluators.denoising import check_denoise, evaluate_denoise
from scorax.evaluators.held_out import check_bpd, evaluate_bpd, evaluate_loss
from scorax.evaluators.image_sampler import ImageSampler
from scorax.evaluators.latents import evaluate_encode, evaluate_interpolate, get_codec
from scorax.evaluators.originals import get_originals
from scorax.evaluators.problems import Colorization, Inpainting, Problem, Restoration
from scorax.evaluators.quality import check_fd, evaluate_fd
from scorax.evaluators.samples import evaluate_samples, read_settings
from scorax.experiment import CLASSIFIER, ONE_LEVEL, SCORE, Experiment
from scorax.utils.arrays import lookup

__all__ = ["EVALUATORS", "REPORT", "AccuracyCurve", "Evaluator", "ImageSampler", "check"]
__all__ += ["in_order", "read_report", "rounds_folder"]

REPORT = "report.json"

# field -> smallest value
_RANGES = {"num_examples": 0, "num_encoded": 1, "num_pairs": 1, "num_points": 2, "num_denoised": 1}
_RANGES |= {"num_conditioned": 1, "samples_per_image": 1, "likelihood_iterations": 0, "zeta": 0}
_RANGES |= {"resampling_steps": 0}


def check(experiment: Experiment) -> None:
    """Finds out whether the tasks of the config can run, before anything is compiled.

    Raises:
      ValueError: for an unknown task, a field out of range, or what a task needs and has not.
    """
    e = experiment.config.eval
    if e.split not in ("test", "train"):
        raise ValueError(f"unknown eval.split {e.split!r}; choose from: test, train")
    for field, low in _RANGES.items():
        if e[field] < low:
            raise ValueError(f"eval.{field}={e[field]} must be at least {low}")
    for task in in_order(e.tasks):
        if experiment.network not in EVALUATORS[task].networks:
            raise ValueError(
                f"the task {task!r} (eval.tasks) needs {' or '.join(EVALUATORS[task].networks)}, "
                f"but training.objective={experiment.config.training.objective!r} trains "
                f"{experiment.network}; leave the task out"
            )
        EVALUATORS[task].check(experiment)
        if "eval.images" in EVALUATORS[task].depends_on:
            get_originals(experiment.config)
        elif "eval.split" in EVALUATORS[task].depends_on:
            get_source(experiment.config, e.split)


def in_order(tasks: Sequence[str]) -> list[str]:
    """The tasks, each once and behind those whose files it reads.

    Raises:
      ValueError: for an unknown task.
    """
    ordered: list[str] = []
    for task in tasks:
        ordered += [*lookup(EVALUATORS, task, "task (eval.tasks)").after, task]
    return list(dict.fromkeys(ordered))


def read_report(folder: str) -> Numbers:
    """The report of an earlier evaluation; without any, nothing.

    Raises:
      ValueError: if it is damaged.
    """
    path = os.path.join(folder, REPORT)
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise ValueError(f"{path} cannot be read ({e}); move it away") from e


_OF_SAMPLES = ("sampling.", "eval.batch_size", "eval.num_samples")
_OF_FEATURES = ("eval.features", "eval.inception_path", "eval.stats")
_OF_FLOW = ("sampling.ode_solver", "sampling.error_control")
_OF_CODEC = ("sampling.rtol", "sampling.atol", "sampling.eps", *_OF_FLOW)
_OF_SPLIT = ("eval.batch_size", "eval.split")
_OF_DENOISING = ("eval.images", "eval.noise_std", "eval.denoisers", "eval.num_denoised")
_OF_LIKELIHOOD = ("eval.likelihood_", "eval.gamma", "eval.zeta", "eval.data_variance")
_OF_KNOWN = ("eval.known_likelihood", "eval.resampling_", *_OF_LIKELIHOOD)
_OF_ORIGINALS = ("eval.images", "eval.num_conditioned", "eval.samples_per_image")


def _conditional(problem: type[Problem], *fields: str) -> Evaluator:
    """The row of a task that draws images given a measurement of others."""
    run, check = (functools.partial(f, problem) for f in (evaluate_conditional, check_conditional))
    return Evaluator(problem.name, run, ("sampling.", *_OF_ORIGINALS, *_OF_SPLIT, *fields), check)


_ROWS = (
    Evaluator(
        "samples",
        evaluate_samples,
        _OF_SAMPLES,
        made_with=read_settings,
        at_least="eval.num_samples",
    ),
    Evaluator(
        "loss",
        evaluate_loss,
        ("training.", "eval.num_examples", *_OF_SPLIT),
        networks=(SCORE, ONE_LEVEL, CLASSIFIER),
    ),
    Evaluator(
        "bpd", evaluate_bpd, ("eval.bpd_", "eval.num_examples", *_OF_FLOW, *_OF_SPLIT), check_bpd
    ),
    Evaluator("fd", evaluate_fd, _OF_SAMPLES + _OF_FEATURES, check_fd, after=("samples",)),
    Evaluator("encode", evaluate_encode, ("eval.num_encoded", *_OF_CODEC, *_OF_SPLIT), get_codec),
    Evaluator(
        "interpolate",
        evaluate_interpolate,
        ("eval.num_pairs", "eval.num_points", *_OF_CODEC, *_OF_SPLIT),
        get_codec,
    ),
    Evaluator(
        "denoise",
        evaluate_denoise,
        ("sampling.", "eval.langevin_", *_OF_DENOISING, *_OF_SPLIT),
        check_denoise,
        networks=(SCORE, ONE_LEVEL),
    ),
    Evaluator(
        "accuracy", evaluate_accuracy, ("eval.num_examples", *_OF_SPLIT), networks=(CLASSIFIER,)
    ),
    Evaluator(
        "class_conditional",
        evaluate_class_conditional,
        ("guidance.", "eval.features", *_OF_SAMPLES),
        check_class_conditional,
        get_inputs=get_guide_inputs,
    ),
    _conditional(Inpainting, "eval.mask", *_OF_KNOWN),
    _conditional(Colorization, "eval.color_basis", *_OF_KNOWN),
    _conditional(
        Restoration,
        *("eval.operator", "eval.measurement_std", "eval.mask", "eval.color_basis"),
        *("eval.likelihood", *_OF_LIKELIHOOD),
    ),
)
# task -> (experiment, state, folder) -> numbers for the report
EVALUATORS = {evaluator.name: evaluator for evaluator in _ROWS}
