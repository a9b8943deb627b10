"""The tasks "inpaint", "colorize" and "restore": draw images given measurements of others."""

import jax
import numpy as np

from scorax.evaluators.context import Numbers, TaskContext, mean_nfe
from scorax.evaluators.image_sampler import ImageSampler
from scorax.evaluators.originals import (
    count_originals,
    file_stems,
    get_originals,
    likeness,
)
from scorax.evaluators.problems import Problem
from scorax.experiment import Experiment
from scorax.metrics import image_pairs
from scorax.utils import images
from scorax.utils.rounds import Arrays

_ROWS, _COLUMNS = 16, 8  # largest numbers of images, and of samples of each, in the picture


def evaluate_conditional(problem_class: type[Problem], context: TaskContext) -> Numbers:
    """Draws `eval.samples_per_image` samples given each measurement: `TASK.{npz,png}`.

    Images are measured first, unless `eval.measurements` names measurements. The archive holds
    "originals": (I, H, W, C), if there are any, "measurements": float32 (I, *Y), "samples": uint8
    (I, S, H, W, C), and for inpainting the "mask": (H, W, 1) or the "masks": (I, H, W, 1). The
    picture has a row for each image: measurement, samples, original. PSNR and SSIM compare each
    sample with its original, and are means over images and samples. The misfit between samples and
    measurements is computed before samples are clipped and rounded; the report has its largest
    value, or its mean for "residual". Samples given the user's own measurements are also written to
    files, TASK/NAME_0.png and so on.
    """
    problem, e = problem_class(context.experiment), context.config.eval
    y, originals, names = _measure(problem, context)
    truth = None if originals is None else images.to_float(originals)
    n, each = len(y), e.samples_per_image
    sampler = ImageSampler(context.experiment, problem.get_sampler)
    rounds = -(-n * each // context.batch_size)

    def draw(i: int) -> Arrays:
        k = context.positions(i, n * each) // each
        rng = jax.random.fold_in(context.rng(i), 1)
        x = sampler(rng, context.state, f"{problem.name} {i + 1}/{rounds}", (y[k],))
        arrays = {"samples": images.to_uint8(x), problem.misfit: problem.misfits(y[k], x)}
        arrays |= {} if truth is None else likeness(x, truth[k])
        return arrays | sampler.costs

    drawn = context.run_rounds("samples", n * each, draw)
    samples = drawn["samples"].reshape(n, each, *problem.shape)
    _save(problem, context, y, samples, originals, names)
    report = {
        "images": e.measurements or e.images or f"{context.config.data.dataset} {e.split}",
        "num_images": n,
        "samples_per_image": each,
        **problem.settings,
    }
    if truth is not None:
        report["measurement"] = _means(likeness(problem.to_image(y), truth))
        report["samples"] = _means({name: drawn[name] for name in ("psnr", "ssim")})
    return report | {
        problem.misfit: float(problem.summarize(drawn[problem.misfit])),
        "nfe": mean_nfe(drawn["nfe"]),
        **{name: round(float(drawn[name].sum()), 2) for name in ("compile_seconds", "seconds")},
        "sampling": context.config.sampling.to_dict(),
    }


def _measure(
    problem: Problem, context: TaskContext
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """The measurements, the images that were measured (None if unknown), and names of pictures."""
    e = context.config.eval
    if e.measurements:
        y, names = problem.read()
        return y, None, names
    source = get_originals(context.config)
    n = count_originals(context.config, source, e.num_conditioned)
    originals = context.read(source, np.arange(n))
    measure = jax.jit(problem.measure)
    y = measure(jax.random.fold_in(context.rng(0), 0), images.to_float(originals))
    return np.asarray(y), originals, []


def _save(
    problem: Problem,
    context: TaskContext,
    y: np.ndarray,
    samples: np.ndarray,
    originals: np.ndarray | None,
    names: list[str],
) -> None:
    """Writes the arrays, the picture and, with names, a file for each sample."""
    arrays = problem.arrays(y) | {"samples": samples}
    arrays |= {"names": np.array(names)} if names else {"originals": originals}
    context.save_npz(f"{problem.name}.npz", **arrays)
    columns = [images.to_uint8(problem.to_image(y))[:, None], samples[:, :_COLUMNS]]
    if originals is not None:
        columns.append(images.to_uint8(images.to_float(originals))[:, None])
    rows = np.concatenate(columns, axis=1)[:_ROWS]
    context.save_grid(
        f"{problem.name}.png", rows.reshape(-1, *problem.shape), columns=rows.shape[1]
    )
    each = samples.shape[1]
    if named := [f"{stem}_{k}" for stem in file_stems(names) for k in range(each)]:
        context.save_each(problem.name, samples.reshape(-1, *problem.shape), named)


def check_conditional(problem_class: type[Problem], experiment: Experiment) -> None:
    """Builds the problem, and traces its sampler with a trivial score."""
    problem = problem_class(experiment)
    if experiment.config.eval.measurements:
        problem.read()
    shape = (1, *problem.shape)
    x = np.zeros(shape, np.float32)
    sampler = problem.get_sampler()

    def run(rng: jax.Array, x: jax.Array) -> jax.Array:
        return sampler(rng, lambda x, t: x, shape, problem.measure(rng, x))[0]

    try:
        image_pairs.ssim(x, x)
        jax.eval_shape(run, jax.random.key(0), x)
    except ValueError as error:
        raise ValueError(f"the task {problem.name}: {error}") from error


def _means(arrays: Arrays) -> Numbers:
    return {name: float(x.mean()) for name, x in arrays.items()}
