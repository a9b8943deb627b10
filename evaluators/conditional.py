"""The tasks "inpaint", "colorize", "restore", "assimilate": draw examples, given measurements."""

from collections.abc import Callable

import jax
import numpy as np

from scorax.evaluators.batch_sampler import BatchSampler
from scorax.evaluators.context import Numbers, TaskContext, mean_nfe
from scorax.evaluators.originals import count_originals, get_originals
from scorax.evaluators.problems import Problem
from scorax.experiment import Experiment
from scorax.utils import images
from scorax.utils.rounds import Arrays
from scorax.utils.shapes import model_shape

_ROWS = 16  # largest number of examples in the picture
# Builds the problem of a task.
GetProblem = Callable[[Experiment], Problem]


def evaluate_conditional(get_problem: GetProblem, context: TaskContext) -> Numbers:
    """Draws `eval.samples_per_image` samples given each measurement: `TASK.{npz,png}`.

    Examples are measured first, unless `eval.measurements` names measurements. The archive holds
    "originals": (I, *S), if there are any, "measurements": float32 (I, *Y), "samples": uint8
    (I, S, H, W, C) or, if they are no images, float32 (I, S, *S), and for inpainting the "mask" or
    "masks". The picture has a row for each image, measurement, samples, original, or a plot for
    each series; fields come with a film, TASK.gif. PSNR and SSIM compare each sample with its
    original, and are means over images and samples; RMSE and CRPS of series are over hidden points,
    those of trajectories over all states. The misfit between samples and
    measurements is computed before samples are clipped and rounded; the report has its largest
    value, or its mean for "residual". Samples given the user's own measurements are also written to
    files, TASK/NAME_0.png and so on for images, TASK.csv for series.
    """
    problem, e = get_problem(context.experiment), context.config.eval
    y, originals, names = _measure(problem, context)
    truth = None if originals is None else images.to_float(originals)
    n, each = len(y), e.samples_per_image
    sampler = BatchSampler(context.experiment, problem.get_sampler)
    rounds = -(-n * each // context.batch_size)

    def draw(i: int) -> Arrays:
        k = context.positions(i, n * each) // each
        rng = jax.random.fold_in(context.rng(i), 1)
        x = sampler(rng, context.state, f"{problem.name} {i + 1}/{rounds}", (y[k],))
        arrays = {"samples": context.pictures.keep(x), problem.misfit: problem.misfits(y[k], x)}
        arrays |= {} if truth is None else problem.likeness(x, truth[k], y[k])
        return arrays | sampler.costs

    drawn = context.run_rounds("samples", n * each, draw)
    samples = drawn.pop("samples").reshape(n, each, *problem.shape)
    _save(problem, context, y, samples, originals, names)
    report = {
        "images": e.measurements or e.images or f"{context.config.data.dataset} {e.split}",
        "num_images": n,
        "samples_per_image": each,
        **problem.settings,
    }
    misfit, nfe = drawn.pop(problem.misfit), drawn.pop("nfe")
    seconds = {key: round(float(drawn.pop(key).sum()), 2) for key in ("compile_seconds", "seconds")}
    if truth is not None:
        means = {name: float(x.mean()) for name, x in drawn.items()}
        report |= problem.describe(y, truth)
        report["samples"] = means | problem.judge(samples, truth, y)
    return report | {
        problem.misfit: float(problem.summarize(misfit)),
        "nfe": mean_nfe(nfe),
        **seconds,
        "sampling": context.config.sampling.to_dict(),
    }


def _measure(
    problem: Problem, context: TaskContext
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """The measurements, the examples that were measured (None if unknown), and names of files."""
    e = context.config.eval
    if e.measurements:
        y, names = problem.read()
        return y, None, names
    source = get_originals(problem.source_config)
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
    """Writes the arrays, the picture and, with names, files of their own."""
    arrays = problem.arrays(y) | {"samples": samples}
    arrays |= {"names": np.array(names)} if names else {"originals": originals}
    context.save_npz(f"{problem.name}.npz", **arrays)
    shown = images.to_float(samples[:_ROWS])
    truth = None if originals is None else images.to_float(originals[:_ROWS])
    known = problem.to_image(y[:_ROWS])
    picture = context.pictures.compare(known, shown, truth)
    context.save_drawing(f"{problem.name}.png", picture)
    if context.pictures.film is not None:
        context.save_film(f"{problem.name}.gif", context.pictures.film(known, shown, truth))
    problem.write(context, y, samples, names)


def check_conditional(get_problem: GetProblem, experiment: Experiment) -> None:
    """Builds the problem, and traces its sampler with a trivial score."""
    problem = get_problem(experiment)
    if experiment.config.eval.measurements:
        problem.read()
    shape = (1, *model_shape(experiment.config))
    x = np.zeros((1, *problem.shape), np.float32)
    sampler = problem.get_sampler()

    def run(rng: jax.Array, x: jax.Array) -> jax.Array:
        return sampler(rng, lambda x, t: x, shape, problem.measure(rng, x))[0]

    try:
        if not experiment.config.eval.measurements:
            problem.likeness(x, x, np.asarray(problem.measure(jax.random.key(0), x)))
        jax.eval_shape(run, jax.random.key(0), x)
    except ValueError as error:
        raise ValueError(f"the task {problem.name}: {error}") from error
