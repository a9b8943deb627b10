"""Problems such as inpainting: what is known about images, and how to draw images that agree.

Measurements are made on images in [0, 1], so the noise is in units of the distance from black to
white, whatever the model's range is. A sampler sees nothing but the measurement. Series have a file
of their own, `series_problems`.

What is known exactly is imposed by a projection, which draws the known part of x_t from its
perturbation kernel, and a likelihood steers the unknown part (`eval.known_likelihood`). The two
parts are independent given y, so together they draw from p(x_t | y), as far as the likelihood is
right. With the projection alone, the score would see y only through the noise of x_t, and the
unknown part would often not fit (Chung et al. 2022, arXiv 2206.00941, add a gradient as well).
"""

import abc
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax import sampling
from scorax.conditioning import masks, operators
from scorax.conditioning.posterior import LIKELIHOODS
from scorax.controllable_generation import (
    colorization_projection,
    get_resampling_corrector,
    inpainting_projection,
)
from scorax.data_sources.pixels import MODES
from scorax.evaluators.context import Numbers, TaskContext
from scorax.evaluators.originals import file_stems, likeness, read_pictures
from scorax.experiment import Experiment
from scorax.sde_lib import Projection, Sampler, ScoreFn
from scorax.utils.data_range import get_data_inverse_scaler, get_data_scaler
from scorax.utils.images import to_float
from scorax.utils.options import check_parameters, configured
from scorax.utils.progress import Observer
from scorax.utils.rounds import Arrays
from scorax.utils.shapes import example_shape, image_shape
from scorax.utils.tables import lookup

HIDDEN = 0.5  # the gray of unknown pixels
EXACT = 0.01  # std of an exactly known measurement, for likelihoods, which need a positive one


class Problem(abc.ABC):
    """A kind of measurement of images x: (N, H, W, C), and how to draw images that agree with it.

    Attributes:
      name: name of the task.
      misfit: name of the result of `misfits` in the report.
      operator: A, for images in [0, 1].
      std: standard deviation that the likelihood assumes for the noise of y.
      likelihood: a row of `posterior.LIKELIHOODS`; "": the score does not depend on y.
      shape: (H, W, C).
      settings: settings for the report.
    """

    name: str
    misfit: str
    operator: operators.Operator
    std = EXACT

    def __init__(self, experiment: Experiment, likelihood: str) -> None:
        """Builds what the config describes; subclasses choose the likelihood.

        Raises:
          ValueError: for an invalid name or number in `config.eval`.
        """
        self.config, self.sde = experiment.config, experiment.sde
        self.likelihood = likelihood
        self.shape = example_shape(self.config)
        self.to_model = get_data_scaler(self.config)
        self.to_data = get_data_inverse_scaler(self.config)
        options = {}
        if likelihood:
            check_parameters(LIKELIHOODS[likelihood], ("sde", "operator", "y", "std"))
            options = configured(LIKELIHOODS[likelihood], self.config)
        self.settings: Numbers = {"likelihood": likelihood or "none", **options}

    @abc.abstractmethod
    def measure(self, rng: jax.Array, x: jax.Array) -> jax.Array:
        """Measures images x in [0, 1]: (N, H, W, C) -> y: (N, *Y)."""

    @abc.abstractmethod
    def read(self) -> tuple[np.ndarray, list[str]]:
        """Reads the measurements in `eval.measurements`: y: (N, *Y), and the names of their files.

        Raises:
          ValueError: naming a file that is no such measurement.
        """

    @abc.abstractmethod
    def misfits(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """How far images x in [0, 1] are from agreeing with y: (N,)."""

    def summarize(self, misfits: np.ndarray) -> float:
        """The number for the report: the largest misfit."""
        return misfits.max()

    @property
    def source_config(self) -> ml_collections.ConfigDict:
        """The config that describes the examples that are measured."""
        return self.config

    def projection(self, y: jax.Array) -> Projection | None:
        """A projection that imposes y: (B, *Y) between a sampler's steps; None if there is none."""
        return None

    def condition(self, y: jax.Array, score_fn: ScoreFn) -> ScoreFn:
        """The score given measurements y: (B, *Y)."""
        return self._condition(self.operator, y, score_fn)

    def _condition(self, operator: operators.Operator, y: jax.Array, score_fn: ScoreFn) -> ScoreFn:
        """The score given y: (B, *Y), measured with an operator on images in [0, 1]."""
        if not self.likelihood:
            return score_fn
        likelihood = LIKELIHOODS[self.likelihood]
        options = configured(likelihood, self.config, self.width)
        of_model_range = lambda x: operator(self.to_data(x))  # noqa: E731
        return likelihood(self.sde, of_model_range, y, self.std, **options)(score_fn)

    @property
    def width(self) -> float:
        """The width of the interval [0, 1] in the model's range, see `Option.power`."""
        return self.to_model(1.0) - self.to_model(0.0)

    def arrays(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays to save of measurements y: (N, *Y)."""
        return {"measurements": y}

    def to_image(self, y: np.ndarray) -> np.ndarray:
        """Shows the measurement as examples: (N, *Y) -> (N, H, W, C)."""
        return np.broadcast_to(y, (len(y), *self.shape))

    def likeness(self, x: np.ndarray, truth: np.ndarray, y: np.ndarray) -> Arrays:
        """How similar samples x are to the truth, given y: arrays (N,) for the report."""
        return likeness(x, truth)

    def describe(self, y: np.ndarray, truth: np.ndarray) -> Numbers:
        """How similar the measurements are to the truth, for the report."""
        found = likeness(self.to_image(y), truth)
        return {"measurement": {name: float(x.mean()) for name, x in found.items()}}

    def judge(self, samples: np.ndarray, truth: np.ndarray, y: np.ndarray) -> Numbers:
        """What all samples (I, S, *shape) of each measurement say together, for the report."""
        return {}

    def write(
        self, context: TaskContext, y: np.ndarray, samples: np.ndarray, names: list[str]
    ) -> None:
        """Writes files for samples (I, S, *shape) given the user's own measurements."""
        each = samples.shape[1]
        if named := [f"{stem}_{k}" for stem in file_stems(names) for k in range(each)]:
            context.save_each(self.name, samples.reshape(-1, *self.shape), named)

    def get_sampler(self, observer: Observer | None = None) -> Callable:
        """The configured sampler: `(rng, score_fn, shape, y: (B, *Y)) -> (samples, nfe)`."""

        def sampler(rng: jax.Array, score_fn: ScoreFn, shape: tuple[int, ...], y: jax.Array) -> Any:
            sample = self._sampler_with(self.projection(y), observer)
            return sample(rng, self.condition(y, score_fn), shape)

        return sampler

    def _sampler_with(self, projection: Projection | None, observer: Observer | None) -> Sampler:
        """The configured sampler, with RePaint's resampling as its corrector if configured.

        Raises:
          ValueError: for resampling with a sampler other than "pc".
        """
        e, method = self.config.eval, self.config.sampling.method.lower()
        resampling: dict[str, Any] = {}
        if projection is not None and e.resampling_steps:
            if method != "pc":
                raise ValueError(
                    f"eval.resampling_steps={e.resampling_steps} needs sampling.method='pc', not "
                    f"{method!r}; change one of them"
                )
            predictor = configured(sampling.get_pc_sampler, self.config)["predictor"]
            corrector = get_resampling_corrector(predictor, projection, e.resampling_jump)
            resampling = {"corrector": corrector, "n_steps": e.resampling_steps}
        return sampling.get_sampling_fn(self.config, self.sde, observer, projection, **resampling)


class Inpainting(Problem):
    """The pixels in a mask are known: `eval.mask`, or the mask of each measured picture.

    Measurements are images in which the unknown pixels are gray. If pictures have masks of their
    own, these are a further channel of y, 1 where a pixel is known.
    """

    name, misfit = "inpaint", "known_deviation"

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment, exact_likelihood(experiment.config))
        e = self.config.eval
        self.mask = None if _is_folder(e.mask) else self._get_mask(e.mask)
        if self.mask is None and not e.measurements:
            raise ValueError(
                f"eval.mask={e.mask!r} is a folder of masks, which belong to the pictures of "
                "eval.measurements; name these, or a single mask"
            )
        self.settings |= {"mask": e.mask}
        if not e.measurements:
            self.settings["hidden_fraction"] = float(1 - self.mask.mean())

    def measure(self, rng: jax.Array, x: jax.Array) -> jax.Array:
        return x if self.mask is None else jnp.where(self.mask[None] == 1, x, HIDDEN)

    def read(self) -> tuple[np.ndarray, list[str]]:
        channels = self.shape[-1] + (self.shape[-1] in (1, 3))
        source = read_pictures(self.config, "measurements", (*self.shape[:2], channels))
        x = to_float(np.stack([source[i]["image"] for i in range(len(source))]))
        names = source.names()
        own = [self._own_mask(image, name) for image, name in zip(x, names, strict=True)]
        pixels, mask = x[..., : self.shape[-1]], np.stack(own)
        self.settings["hidden_fraction"] = float(1 - mask.mean())
        return np.concatenate([np.where(mask == 1, pixels, HIDDEN), mask], -1), names

    def _own_mask(self, image: np.ndarray, name: str) -> np.ndarray:
        """The mask (H, W, 1) of a picture: its transparent part, or a file of the same name."""
        if image.shape[-1] > self.shape[-1] and image[..., -1].min() < 1:
            return masks.from_alpha(image[..., -1], f"eval.measurements: {name}")
        if self.mask is not None:
            return self.mask
        stem, folder = os.path.splitext(os.path.basename(name))[0], self.config.eval.mask
        found = [f for f in sorted(os.listdir(folder)) if os.path.splitext(f)[0] == stem]
        if not found:
            raise ValueError(
                f"eval.mask={folder!r} holds no mask for {name}; give it the name {stem}.png, or "
                "erase the hole in the picture"
            )
        return self._get_mask(os.path.join(folder, found[0]))

    def _get_mask(self, name: str) -> np.ndarray:
        return masks.get_mask(name, self.shape[:2], self.config.eval.mask_amount, self.config.seed)

    def _split(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The images (N, H, W, C) of measurements, and their masks, which broadcast."""
        if y.shape[-1] > self.shape[-1]:
            return y[..., :-1], y[..., -1:]
        known = np.ones((*self.shape[:2], 1), np.float32) if self.mask is None else self.mask
        return y, jnp.asarray(known)[None]

    def projection(self, y: jax.Array) -> Projection:
        pixels, mask = self._split(y)
        return inpainting_projection(self.sde, self.to_model(pixels), mask)

    def condition(self, y: jax.Array, score_fn: ScoreFn) -> ScoreFn:
        pixels, mask = self._split(y)
        return self._condition(lambda x: mask * x, mask * pixels, score_fn)

    def misfits(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The largest difference at a known pixel, with y mapped to the model's range and back."""
        pixels, mask = self._split(y)
        difference = np.asarray(mask) * (x - self.to_data(self.to_model(pixels)))
        return np.abs(difference).reshape(len(x), -1).max(1)

    def arrays(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """The images, and the mask (H, W, 1), or masks (N, H, W, 1) of the pictures."""
        pixels, mask = self._split(y)
        own = y.shape[-1] > self.shape[-1]
        return {"measurements": pixels, "masks" if own else "mask": mask if own else self.mask}

    def to_image(self, y: np.ndarray) -> np.ndarray:
        return self._split(y)[0]


class Colorization(Problem):
    """The luma of colour images is known, with the weights of `eval.color_basis`."""

    name, misfit = "colorize", "luma_deviation"

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment, exact_likelihood(experiment.config))
        if self.shape[-1] != 3:
            raise ValueError(
                f"the task colorize takes colour images, but data.num_channels={self.shape[-1]}"
            )
        self.basis = self.config.eval.color_basis
        self.operator = operators.get_grayscale(self.basis)
        self.settings |= {"color_basis": self.basis}

    def measure(self, rng: jax.Array, x: jax.Array) -> jax.Array:
        return self.operator(x)

    def read(self) -> tuple[np.ndarray, list[str]]:
        return _read_all(self.config, (*self.shape[:2], 1))

    def projection(self, y: jax.Array) -> Projection:
        return colorization_projection(self.sde, self.to_model(y), self.basis)

    def misfits(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The largest difference of luma at a pixel, before colours are clipped to [0, 1]."""
        return np.abs(np.asarray(self.operator(jnp.asarray(x))) - y).max((1, 2, 3))


class Restoration(Problem):
    """A measurement A(x) + noise is known: `eval.operator`, `eval.measurement_std`."""

    name, misfit = "restore", "residual"

    def __init__(self, experiment: Experiment) -> None:
        e = experiment.config.eval
        lookup(LIKELIHOODS, e.likelihood, "likelihood (eval.likelihood)")
        super().__init__(experiment, e.likelihood)
        self.operator = _get_operator(self.config)
        self.std = e.measurement_std
        if not self.std > 0:
            raise ValueError(
                f"eval.measurement_std={self.std} must be positive; for a measurement without "
                "noise set it to a small number, such as 0.01"
            )
        self.settings |= {"operator": e.operator, "measurement_std": self.std}

    def measure(self, rng: jax.Array, x: jax.Array) -> jax.Array:
        return operators.measure(rng, self.operator, x, self.std)

    def read(self) -> tuple[np.ndarray, list[str]]:
        x = jax.ShapeDtypeStruct((1, *self.shape), np.float32)
        shape = jax.eval_shape(self.operator, x).shape[1:]
        if len(shape) != 3 or shape[2] not in MODES:
            raise ValueError(
                f"eval.measurements: the operator {self.config.eval.operator!r} measures arrays of "
                f"shape {shape}, which are no pictures; choose another eval.operator"
            )
        return _read_all(self.config, shape)

    def misfits(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Root mean square of A(x) - y; for the true image it is about `std`."""
        residual = np.asarray(self.operator(jnp.asarray(x))) - y
        return np.sqrt((residual**2).reshape(len(y), -1).mean(1))

    def summarize(self, misfits: np.ndarray) -> float:
        """The mean misfit, because misfits include the noise of the measurement."""
        return misfits.mean()

    def to_image(self, y: np.ndarray) -> np.ndarray:
        """Repeats the pixels of y if this gives the size of the images, and shows A^T y otherwise.

        A nonlinear operator is linearised at gray. Values of y at which it has no derivative there,
        such as the modulus of a Fourier coefficient that is 0, are not shown.
        """
        whole = y.ndim == 4 and not any(n % m for n, m in zip(self.shape, y.shape[1:], strict=True))
        if whole:
            for axis, n in enumerate(self.shape, 1):
                y = y.repeat(n // y.shape[axis], axis)
            return y
        _, pull = jax.vjp(self.operator, jnp.full((len(y), *self.shape), HIDDEN))
        return np.nan_to_num(pull(jnp.asarray(y))[0], posinf=0.0, neginf=0.0)


def _read_all(
    config: ml_collections.ConfigDict, shape: tuple[int, int, int]
) -> tuple[np.ndarray, list[str]]:
    """The pictures in `eval.measurements` in [0, 1], (N, *shape), and the names of their files."""
    source = read_pictures(config, "measurements", shape)
    x = np.stack([source[i]["image"] for i in range(len(source))])
    return to_float(x), source.names()


def _is_folder(mask: str) -> bool:
    return mask not in masks.MASKS and os.path.isdir(mask)


def exact_likelihood(config: ml_collections.ConfigDict) -> str:
    """The name of the likelihood for exactly known measurements; "" for none."""
    name = config.eval.known_likelihood
    if name:  # check it
        lookup(LIKELIHOODS, name, "likelihood (eval.known_likelihood)")
    return name


def _get_operator(config: ml_collections.ConfigDict) -> operators.Operator:
    """Builds `eval.operator` with its parameters, and checks that it can take the images."""
    e = config.eval
    row = lookup(operators.OPERATORS, e.operator, "operator (eval.operator)")
    shape = (1, *image_shape(config))
    try:
        check_parameters(row)
        operator = row(**configured(row, config))
        jax.eval_shape(operator, jax.ShapeDtypeStruct(shape, np.float32))
    except (TypeError, ValueError) as error:
        raise ValueError(f"eval.operator={e.operator!r}: {error}") from error
    return operator
