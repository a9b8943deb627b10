"""What `--mode eval` can find out about a checkpoint: the tasks, one row of EVALUATORS each."""

import json
import os
from collections.abc import Sequence

from datasets import get_source
from evaluators.held_out import check_bpd, evaluate_bpd, evaluate_loss
from evaluators.image_sampler import ImageSampler
from evaluators.latents import evaluate_encode, evaluate_interpolate, get_codec
from evaluators.quality import check_fd, evaluate_fd
from evaluators.samples import evaluate_samples, read_settings
from evaluators.work import Evaluator, Numbers, rounds_folder
from experiment import Experiment
from utils.arrays import lookup

__all__ = ["EVALUATORS", "REPORT", "Evaluator", "ImageSampler", "check", "in_order", "read_report"]
__all__ += ["rounds_folder"]

REPORT = "report.json"

# field -> smallest value
_RANGES = {"num_examples": 0, "num_encoded": 1, "num_pairs": 1, "num_points": 2}


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
        EVALUATORS[task].check(experiment)
        if "eval.split" in EVALUATORS[task].depends_on:
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
_ROWS = (
    Evaluator(
        "samples",
        evaluate_samples,
        _OF_SAMPLES,
        made_with=read_settings,
        at_least="eval.num_samples",
    ),
    Evaluator("loss", evaluate_loss, ("training.", "eval.num_examples", *_OF_SPLIT)),
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
)
# task -> (experiment, state, folder) -> numbers for the report
EVALUATORS = {evaluator.name: evaluator for evaluator in _ROWS}
