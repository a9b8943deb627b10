"""The task "denoise": removes noise of a known level, and compares with the original images."""

from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from scorax.conditioning.denoising import DENOISERS, Denoiser, get_denoiser
from scorax.evaluators.context import Numbers, TaskContext, mean_nfe
from scorax.evaluators.originals import (
    count_originals,
    file_stems,
    get_originals,
    likeness,
    read_pictures,
)
from scorax.experiment import Experiment
from scorax.metrics import image_pairs
from scorax.utils import images
from scorax.utils.data_range import get_data_scaler
from scorax.utils.rounds import Arrays
from scorax.utils.shapes import image_shape

_ROWS = 8  # images in the picture


def evaluate_denoise(context: TaskContext) -> Numbers:
    """Removes noise from images by each of `eval.denoisers`: `denoise.{npz,png}`.

    Noise is added to images, unless `eval.measurements` names noisy pictures. The archive holds
    "originals": (N, H, W, C), if there are any, "noisy": float32, not clipped to [0, 1], and the
    result of each denoiser under its name, uint8. The picture has a row for each image: original,
    noisy, denoised. PSNR and SSIM are means over the images. "clipped" in the report is the noisy
    image clipped to [0, 1], as the denoised images are. Results for the user's own noisy pictures
    are also written to files, denoise/NAME_DENOISER.png.
    """
    config, e = context.config, context.config.eval
    given = bool(e.measurements)
    if given:
        source = read_pictures(config, "measurements", image_shape(config))
        n = len(source)
    else:
        source = get_originals(config)
        n = count_originals(config, source, e.num_denoised)
    sigma, _ = _noise(config)
    denoisers = {
        name: context.compile(_with_key_last(denoiser))
        for name, denoiser in get_denoisers(context.experiment).items()
    }

    def one(i: int) -> Arrays:
        x = context.read(source, context.positions(i, len(source)))
        if given:
            y, truth = context.to_model(x), None
            arrays = {"noisy": context.to_data(y)}
        else:
            noise = np.asarray(jax.random.normal(jax.random.fold_in(context.rng(i), 0), x.shape))
            y = (context.to_model(x) + sigma * noise).astype(np.float32)
            noisy, truth = context.to_data(y), images.to_float(x)
            arrays = {"originals": x, "noisy": noisy} | _named("clipped", likeness(noisy, truth))
            raw = {f: getattr(image_pairs, f)(noisy, truth) for f in ("psnr", "ssim")}
            arrays |= _named("noisy", raw)
        for name, denoise in denoisers.items():
            # The random draws of a denoiser do not depend on which others are configured.
            rng = jax.random.fold_in(context.rng(i), 1 + list(DENOISERS).index(name))
            found, nfe = denoise(y, rng)
            _check_finite(context, name, found)
            found = context.to_data(found)
            arrays |= {name: images.to_uint8(found), f"{name}_nfe": np.array([nfe])}
            arrays |= {} if given else _named(name, likeness(found, truth))
        return arrays

    arrays = context.show_rounds("denoise", n, one)
    _save(context, arrays, list(denoisers), source.names() if given else [])
    likenesses = (
        {}
        if given
        else {
            name: {f: float(arrays[f"{name}_{f}"].mean()) for f in ("psnr", "ssim")}
            for name in ("noisy", "clipped", *denoisers)
        }
    )
    for name in denoisers:
        likenesses.setdefault(name, {})["nfe"] = mean_nfe(arrays[f"{name}_nfe"])
    shown = e.measurements or e.images or f"{config.data.dataset} {e.split}"
    return {"images": shown, "num_denoised": n, "noise_std": e.noise_std} | likenesses


def _save(context: TaskContext, arrays: Arrays, denoisers: list[str], names: list[str]) -> None:
    """Writes the arrays, the picture and, with names, a file for each result."""
    shown = [name for name in ("originals", "noisy", *denoisers) if name in arrays]
    columns = {name: arrays[name] for name in shown}
    context.save_npz("denoise.npz", **columns, **({"names": np.array(names)} if names else {}))
    pictures = [images.to_uint8(images.to_float(x[:_ROWS])) for x in columns.values()]
    rows = np.stack(pictures, axis=1)
    context.save_picture("denoise.png", rows.reshape(-1, *rows.shape[2:]), columns=len(columns))
    for name in denoisers if names else ():
        context.save_each("denoise", arrays[name], [f"{s}_{name}" for s in file_stems(names)])


def get_denoisers(experiment: Experiment) -> dict[str, Denoiser]:
    """The denoisers in `eval.denoisers`, by name.

    Raises:
      ValueError: for an unknown name, an empty list, or noise that the SDE does not cover.
    """
    config = experiment.config
    if not config.eval.denoisers:
        raise ValueError(f"eval.denoisers=() is empty; choose from: {', '.join(DENOISERS)}")
    noise = _noise(config)
    return {
        name: get_denoiser(config, name, experiment.sde, *noise) for name in config.eval.denoisers
    }


def check_denoise(experiment: Experiment) -> None:
    """Builds the denoisers, and traces them with a trivial score."""
    e = experiment.config.eval
    if not experiment.knows_all_levels:
        _check_last_level(experiment)
    if e.measurements:
        read_pictures(experiment.config, "measurements", image_shape(experiment.config))
    y = np.zeros((1, *image_shape(experiment.config)), np.float32)
    try:
        image_pairs.ssim(y, y)
        for denoise in get_denoisers(experiment).values():
            jax.eval_shape(lambda rng, d=denoise: d(rng, lambda x, t: x, y), jax.random.key(0))
    except ValueError as error:
        raise ValueError(f"the task denoise, eval.noise_std={e.noise_std:g}: {error}") from error


def _check_last_level(experiment: Experiment) -> None:
    """A network that knows one noise level can remove only this noise, and only in one step."""
    e, sde = experiment.config.eval, experiment.sde
    mu, sigma = sde.marginal_coeffs(np.float32(sde.T))
    noise, _ = _noise(experiment.config)
    if not np.isclose(noise, sigma / mu, rtol=1e-4):
        known = e.noise_std * float(sigma / mu) / noise
        raise ValueError(
            f"eval.noise_std={e.noise_std:g}, but training.objective='last_level' teaches the "
            f"network noise of {known:.4g} alone; set eval.noise_std to this value, or train with "
            "other noise"
        )
    if "posterior" in e.denoisers:
        raise ValueError(
            "eval.denoisers has 'posterior', which needs a score at all noise levels, but "
            "training.objective='last_level' trains it at one; choose from: tweedie, langevin"
        )


def _noise(config: ml_collections.ConfigDict) -> tuple[float, tuple[float, float]]:
    """Standard deviation of the noise, and the values of black and white, in the model's range."""
    low, high = get_data_scaler(config)(np.array([0.0, 1.0])).tolist()
    return config.eval.noise_std * (high - low), (low, high)


def _with_key_last(denoiser: Denoiser) -> Callable:
    return lambda score_fn, y, rng: denoiser(rng, score_fn, y)


def _named(name: str, arrays: Arrays) -> Arrays:
    return {f"{name}_{key}": value for key, value in arrays.items()}


def _check_finite(context: TaskContext, name: str, x: np.ndarray) -> None:
    if not np.isfinite(x).all():
        raise FloatingPointError(
            f"images denoised by {name!r} are not finite (checkpoint of step "
            f"{int(context.state.step)}); choose an earlier one with --config.eval.checkpoint"
        )
