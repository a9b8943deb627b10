"""The task "samples": draws examples, saves them and shows them in pictures."""

import json
import os
from collections.abc import Sequence

import numpy as np

from scorax.evaluators.batch_sampler import BatchSampler
from scorax.evaluators.context import (
    Numbers,
    TaskContext,
    mean_nfe,
    name_classes,
    name_samples,
    without_counts,
)
from scorax.evaluators.task import differences
from scorax.utils import parallel
from scorax.utils.images import load_npz
from scorax.utils.rounds import Arrays

ARCHIVE = "samples.npz"


def evaluate_samples(context: TaskContext) -> Numbers:
    """Draws `eval.num_samples` examples: `samples.{npz,png}`, and `process.gif` of the first batch.

    The archive holds "samples": uint8 (N, H, W, C), or float32 (N, *S) if they are no images,
    "nfe": (rounds,), and "settings": the settings of the samples, as JSON; of a class-conditional
    network also "labels": int32 (N,), which were drawn at random, and the names of all "classes".
    With `eval.save_images`, each image is also written to samples/NUMBER.png, or
    samples/NUMBER_CLASS.png. Samples that an earlier evaluation has drawn with the same settings
    are not drawn again, and do not count in the seconds of the report.
    """
    config, sampler = context.config, BatchSampler(context.experiment)
    n, size = config.eval.num_samples, context.batch_size
    same = not differences(read_settings(context.folder), without_counts(context.settings))
    kept = read_archive(context.folder) if same else {}

    def draw(i: int) -> Arrays:
        rows = slice(i * size, (i + 1) * size)
        if kept and len(kept["samples"]) >= rows.stop:
            x, nfe = kept["samples"][rows], kept["nfe"][i : i + 1]
            return {"samples": x, "nfe": nfe} | _seconds(0, 0)
        x = sampler(context.rng(i), context.state, f"sampling {i + 1}/{-(-n // size)}")
        if i == 0:
            _save_animation(context, sampler.frames)
        return {"samples": context.pictures.keep(x)} | sampler.costs

    drawn = context.run_rounds("samples", n, draw)
    arrays = {name: drawn[name] for name in ("samples", "nfe")}
    labels = np.concatenate([sampler.draw_labels(context.rng(i)) for i in range(-(-n // size))])[:n]
    classes = name_classes(config.data.classes, config.model.num_classes)
    if len(labels):
        arrays |= {"labels": labels, "classes": np.array(classes)}
    context.save_npz(ARCHIVE, **arrays, settings=np.array(json.dumps(context.settings)))
    context.save_picture("samples.png", drawn["samples"][:64])
    if config.eval.save_images:
        context.save_each("samples", drawn["samples"], name_samples(n, labels, classes))
    seconds = {name: round(float(drawn[name].sum()), 2) for name in _seconds(0, 0)}
    nfe = mean_nfe(drawn["nfe"])
    return {"num_samples": n, "nfe": nfe} | seconds | {"sampling": config.sampling.to_dict()}


def _seconds(compiling: float, drawing: float) -> Arrays:
    """The times of one round."""
    return {"compile_seconds": np.array([compiling]), "seconds": np.array([drawing])}


def read_archive(folder: str) -> Arrays:
    """The arrays of the archive in the folder; empty if there is no archive."""
    path = os.path.join(folder, ARCHIVE)
    if not os.path.exists(path):
        return {}
    return load_npz(path)


def read_settings(folder: str) -> Numbers:
    """The settings in the archive in the folder; empty if there is no archive."""
    path = os.path.join(folder, ARCHIVE)
    if not os.path.exists(path):
        return {}
    return json.loads(str(load_npz(path, "settings")["settings"]))


def _save_animation(context: TaskContext, frames: Sequence[np.ndarray]) -> None:
    """Writes an animation of at most `eval.frames` frames (N, *S), if there are any."""
    most = context.config.eval.frames
    if parallel.is_primary() and frames and most:
        keep = np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int)
        context.pictures.animate(context.path("process.gif"), [frames[i] for i in keep])
