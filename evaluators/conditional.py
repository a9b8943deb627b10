"""The tasks "inpaint", "colorize" and "restore": draw images given measurements of others."""

import jax
import numpy as np

from scorax.evaluators.context import Numbers, TaskContext, mean_nfe
from scorax.evaluators.image_sampler import ImageSampler
from scorax.evaluators.originals import get_originals, likeness
from scorax.evaluators.problems import Problem
from scorax.experiment import Experiment
from scorax.metrics import image_pairs
from scorax.utils import images
from scorax.utils.rounds import Arrays

_ROWS, _COLUMNS = 16, 8  # largest numbers of images, and of samples of each, in the picture


def evaluate_conditional(problem_class: type[Problem], context: TaskContext) -> Numbers:
    """Draws `eval.samples_per_image` samples given a measurement of each image: `TASK.{npz,png}`.

    The archive holds "originals": uint8 (I, H, W, C), "measurements": float32 (I, *Y), "samples":
    uint8 (I, S, H, W, C), and for inpainting the "mask": (H, W, 1). The picture has a row for each
    image: measurement, samples, original. PSNR and SSIM compare each sample with its original, and
    are means over images and samples. The misfit between samples and measurements is computed
    before samples are clipped and rounded; the report has its largest value, or its mean for
    "residual".
    """
    problem, e = problem_class(context.experiment), context.config.eval
    source = get_originals(context.config)
    n, each = min(e.num_conditioned, len(source)), e.samples_per_image
    originals = context.read(source, np.arange(n))
    truth = originals.astype(np.float32) / 255
    measure = jax.jit(problem.measure)
    y = np.asarray(measure(jax.random.fold_in(context.rng(0), 0), truth))
    sampler = ImageSampler(context.experiment, problem.get_sampler)
    rounds = -(-n * each // context.batch_size)

    def draw(i: int) -> Arrays:
        k = context.positions(i, n * each) // each
        rng = jax.random.fold_in(context.rng(i), 1)
        x = sampler(rng, context.state, f"{problem.name} {i + 1}/{rounds}", (y[k],))
        arrays = {"samples": images.to_uint8(x), problem.misfit: problem.misfits(y[k], x)}
        return arrays | likeness(x, truth[k]) | sampler.costs

    drawn = context.run_rounds("samples", n * each, draw)
    samples = drawn["samples"].reshape(n, each, *problem.shape)
    arrays = {"originals": originals, "measurements": y, "samples": samples} | problem.arrays
    context.save_npz(f"{problem.name}.npz", **arrays)
    shown = problem.to_image(y)
    columns = [images.to_uint8(shown)[:, None], samples[:, :_COLUMNS], originals[:, None]]
    rows = np.concatenate(columns, axis=1)[:_ROWS]
    context.save_grid(
        f"{problem.name}.png", rows.reshape(-1, *problem.shape), columns=rows.shape[1]
    )
    return {
        "images": e.images or f"{context.config.data.dataset} {e.split}",
        "num_images": n,
        "samples_per_image": each,
        **problem.settings,
        "measurement": _means(likeness(shown, truth)),
        "samples": _means({name: drawn[name] for name in ("psnr", "ssim")}),
        problem.misfit: float(problem.summarize(drawn[problem.misfit])),
        "nfe": mean_nfe(drawn["nfe"]),
        **{name: round(float(drawn[name].sum()), 2) for name in ("compile_seconds", "seconds")},
        "sampling": context.config.sampling.to_dict(),
    }


def check_conditional(problem_class: type[Problem], experiment: Experiment) -> None:
    """Builds the problem, and traces its sampler with a trivial score."""
    problem = problem_class(experiment)
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
