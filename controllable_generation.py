"""Inpainting, colorization and conditional sampling under score_sde's names.

This module adds no sampler of its own. Inpainting is a projection, which any sampler applies
between its steps (Song et al. 2021, section 5 and appendix I). Colorization is inpainting in an
orthonormal color basis. A condition is a `ScoreFn -> ScoreFn` (`conditioning.posterior`,
`conditioning.guidance`). The few-step solvers take the same projections and conditions as the
predictor-corrector sampler: `sampling.get_sampling_fn(config, sde, projection=...)`.

After each step the projection replaces the known part by a noisy draw at the noise level reached.
With the plain score the samples only approximate p(x | known): the unknown part is steered by a
noisy copy of the known part, and earlier steps are never revised. `get_resampling_corrector`
revises them. With a score that is itself conditioned on the known part, by a likelihood of
`conditioning.posterior` and the mask as its operator, the projection is as exact as the likelihood,
because the noisy known part is independent of the rest given the data (Chung et al. 2022, arXiv
2206.00941, combine the two as well).

Images are (B, H, W, C) in the model's range, unless a function says that it takes any shape.
`published=True` reproduces score_sde, which differs in three ways: x_mean keeps the noise of the
unknown part, the known part starts without noise, and the known part ends as mu(eps) times the
data.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from scorax.conditioning.masks import check_mask
from scorax.conditioning.operators import check_color_basis, color_basis, luma_weights
from scorax.sampling import Corrector, Predictor, get_pc_sampler
from scorax.sde_lib import SDE, Pair, Projection, Sampler, ScoreFn
from scorax.utils.arrays import batch_mul

# The score of x_t -> the score of x_t given something else, such as a class or a measurement.
Condition = Callable[[ScoreFn], ScoreFn]


def inpainting_projection(
    sde: SDE, data: jax.Array, mask: jax.Array, published: bool = False
) -> Projection:
    """Sets the pixels where the mask is 1 to the data, noised to the time of each step.

    In x_mean, from which a sampler takes its result, the known pixels are set to the data without
    noise. The other pixels of the data are never read.

    Args:
      sde: the SDE of the sampler.
      data: (B, *S), or (1, *S) to fill one image in many ways.
      mask: mask of one example or of the batch, broadcastable against the data; 1 = known.
      published: make x_mean as in score_sde, from the noisy x and mu(t) times the data.

    Raises:
      ValueError: for a mask of the wrong size, or with values other than 0 and 1.
    """
    known = check_mask(mask, data.shape) == 1

    def projection(rng: jax.Array, x: jax.Array, x_mean: jax.Array, t: jax.Array) -> Pair:
        mean, std = sde.marginal_prob(data, t)
        z = jax.random.normal(rng, x.shape, x.dtype)
        x = jnp.where(known, mean + batch_mul(std, z), x)
        if published:
            return x, jnp.where(known, mean, x)
        return x, jnp.where(known, data, x_mean)

    return projection


def decouple(x: jax.Array, basis: str = "rgb_mean") -> jax.Array:
    """Turns RGB (..., 3) into a multiple of the luma and two color channels, orthonormally."""
    return jnp.matmul(x, jnp.asarray(color_basis(basis), x.dtype), precision="highest")


def couple(x: jax.Array, basis: str = "rgb_mean") -> jax.Array:
    """Inverse of `decouple`."""
    return jnp.matmul(x, jnp.asarray(color_basis(basis).T, x.dtype), precision="highest")


def colorization_projection(
    sde: SDE, gray: jax.Array, basis: str = "rgb_mean", published: bool = False
) -> Projection:
    """Sets the luma of RGB images to the gray images, by inpainting in a color basis.

    Args:
      sde: the SDE of the sampler.
      gray: the luma (B, H, W, 1) with the weights of the basis (`operators.luma`), or (1, H, W, 1).
      basis: a row of `conditioning.COLOR_BASES`.
      published: see `inpainting_projection`.

    Raises:
      ValueError: for an unknown basis or a gray image of the wrong shape.
    """
    known = _decoupled_gray(gray, basis)
    inpaint = inpainting_projection(sde, known, jnp.asarray([[[1, 0, 0]]]), published)

    def projection(rng: jax.Array, x: jax.Array, x_mean: jax.Array, t: jax.Array) -> Pair:
        x, x_mean = inpaint(rng, decouple(x, basis), decouple(x_mean, basis), t)
        return couple(x, basis), couple(x_mean, basis)

    return projection


def _decoupled_gray(gray: jax.Array, basis: str) -> jax.Array:
    """The gray image (B, H, W, 1) as channel 0 of the basis, with zeros as the other channels."""
    weights = luma_weights(basis)
    if gray.ndim != 4 or gray.shape[-1] != 1:
        raise ValueError(
            f"a gray image of shape {gray.shape} must be a batch (B, H, W, 1) with one channel; "
            "operators.luma makes it from colors"
        )
    channel = gray / (weights @ weights) ** 0.5
    return jnp.pad(channel, ((0, 0), (0, 0), (0, 0), (0, 2)))


def get_pc_inpainter(
    sde: SDE,
    predictor: type[Predictor],
    corrector: type[Corrector],
    *,
    published: bool = False,
    **pc_options: Any,
) -> Callable[..., tuple[jax.Array, int]]:
    """Inpainting with the predictor-corrector sampler.

    Args:
      sde, predictor, corrector: see `sampling.get_pc_sampler`.
      published: reproduce score_sde (whose eps is 1e-5 for every SDE).
      pc_options: the other arguments of `sampling.get_pc_sampler`.

    Returns:
      `(rng, score_fn, data: (B, *S), mask) -> (samples, nfe)`. If `denoise` is left on, the known
      pixels of the samples equal the data bit for bit.

    Raises:
      ValueError: from the returned function, for a mask that does not fit the data.
    """

    def inpainter(
        rng: jax.Array, score_fn: ScoreFn, data: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, int]:
        projection = inpainting_projection(sde, data, mask, published)
        if not published:
            sampler = get_pc_sampler(sde, predictor, corrector, projection=projection, **pc_options)
            return sampler(rng, score_fn, data.shape)
        rng, prior_rng = jax.random.split(rng)
        prior = sde.prior_sampling(prior_rng, data.shape)
        start = jnp.where(check_mask(mask, data.shape) == 1, data, prior)
        sampler = _get_published_sampler(sde, predictor, corrector, projection, pc_options)
        return sampler(rng, score_fn, data.shape, start)

    return inpainter


def get_pc_colorizer(
    sde: SDE,
    predictor: type[Predictor],
    corrector: type[Corrector],
    *,
    basis: str = "rgb_mean",
    published: bool = False,
    **pc_options: Any,
) -> Callable[..., tuple[jax.Array, int]]:
    """Colorization with the predictor-corrector sampler.

    Args:
      sde, predictor, corrector: see `sampling.get_pc_sampler`.
      basis: a row of `conditioning.COLOR_BASES`, which determines how the gray image weights R, G
        and B.
      published: reproduce score_sde (whose eps is 1e-5 for every SDE).
      pc_options: the other arguments of `sampling.get_pc_sampler`.

    Returns:
      `(rng, score_fn, gray: (B, H, W, 1)) -> (samples: (B, H, W, 3), nfe)`. If `denoise` is left
      on, the luma of the samples equals the gray image.

    Raises:
      ValueError: for an unknown basis; from the returned function, for a gray image of the wrong
        shape.
    """
    check_color_basis(basis)

    def colorizer(rng: jax.Array, score_fn: ScoreFn, gray: jax.Array) -> tuple[jax.Array, int]:
        projection = colorization_projection(sde, gray, basis, published)
        shape = (*gray.shape[:3], 3)
        if not published:
            sampler = get_pc_sampler(sde, predictor, corrector, projection=projection, **pc_options)
            return sampler(rng, score_fn, shape)
        rng, prior_rng = jax.random.split(rng)
        # As published: the mask for the rotated channels is applied to R before the rotation.
        prior = sde.prior_sampling(prior_rng, shape).at[..., 0].set(0.0)
        start = couple(_decoupled_gray(gray, basis) + decouple(prior, basis), basis)
        sampler = _get_published_sampler(sde, predictor, corrector, projection, pc_options)
        return sampler(rng, score_fn, shape, start)

    return colorizer


def _get_published_sampler(
    sde: SDE,
    predictor: type[Predictor],
    corrector: type[Corrector],
    projection: Projection,
    pc_options: dict[str, Any],
) -> Sampler:
    """Projects inside the updates, so that the initial state is not projected."""
    return get_pc_sampler(
        sde, _projected(predictor, projection), _projected(corrector, projection), **pc_options
    )


def _projected(update: type, projection: Projection) -> type:
    """The predictor or corrector with each update followed by the projection."""

    class Projected(update):
        def update_fn(self, rng: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
            rng, projection_rng = jax.random.split(rng)
            return projection(projection_rng, *super().update_fn(rng, x, t), t)

    return Projected


def get_pc_conditional_sampler(
    sde: SDE,
    condition: Condition,
    predictor: type[Predictor],
    corrector: type[Corrector],
    **pc_options: Any,
) -> Sampler:
    """The predictor-corrector sampler for a score changed by a condition.

    Args:
      sde, predictor, corrector: see `sampling.get_pc_sampler`.
      condition: the score of x_t -> the score of x_t given a class or a measurement.
      pc_options: the other arguments of `sampling.get_pc_sampler`.

    Returns:
      `(rng, score_fn, shape, x_init=None) -> (samples, nfe)`, called with the unconditional score.
    """
    sampler = get_pc_sampler(sde, predictor, corrector, **pc_options)

    def conditional_sampler(
        rng: jax.Array,
        score_fn: ScoreFn,
        shape: tuple[int, ...],
        x_init: jax.Array | None = None,
    ) -> tuple[jax.Array, int]:
        return sampler(rng, condition(score_fn), shape, x_init)

    return conditional_sampler


def get_resampling_corrector(
    predictor: type[Predictor], projection: Projection, jump: int = 1
) -> type[Corrector]:
    """Resampling of RePaint, for inpainting and colorization (Lugmayr et al. 2022, algorithm 1;
    arXiv 2201.09865).

    At a time t the corrector takes `jump` steps of the predictor, each followed by the projection,
    and goes back to t along the forward process. It does so `n_steps` times (an argument of the
    sampler; RePaint's U is n_steps + 1), and the unknown part thereby adapts to the known part. As
    in RePaint, resampling starts only at every `jump`-th time, and no longer once fewer than `jump`
    steps remain. The sampler's nfe nevertheless counts resampling at every time.

    Args:
      predictor: takes the steps.
      projection: imposes the known part.
      jump: number of steps forward and back.

    Returns:
      A corrector class for `sampling.get_pc_sampler`, which must be given the same projection.

    Raises:
      ValueError: if jump is not at least 1.
    """
    if jump < 1:
        raise ValueError(f"jump={jump} of the resampling must be at least 1 step")

    class ResamplingCorrector(Corrector):
        @property
        def evaluations(self) -> int:
            return self.n_steps * predictor.evaluations

        def update_fn(self, rng: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
            predict = predictor(self.sde, self.score_fn)
            dt = self.sde.T / (self.sde.N - 1)

            def step(j: int, carry: tuple) -> tuple:
                x, rng = carry
                rng, predict_rng, project_rng = jax.random.split(rng, 3)
                x, x_mean = predict.update_fn(predict_rng, x, t - j * dt)
                return projection(project_rng, x, x_mean, jnp.maximum(t - (j + 1) * dt, 0))[0], rng

            def resample(k: int, x: jax.Array) -> jax.Array:
                x, back_rng = lax.fori_loop(0, jump, step, (x, jax.random.fold_in(rng, k)))
                return _noised(self.sde, back_rng, x, jnp.maximum(t - jump * dt, 0), t)

            level = self.sde.level_index(t[0])
            n = jnp.where((level % jump == 0) & (level > 0), self.n_steps, 0)
            x = lax.fori_loop(0, n, resample, x)
            return x, x

    return ResamplingCorrector


def _noised(sde: SDE, rng: jax.Array, x: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
    """A draw of x_t given x_s = x: (B, *S), from time s: (B,) up to t: (B,)."""
    mu_s, sigma_s = sde.marginal_coeffs(s)
    mu_t, sigma_t = sde.marginal_coeffs(t)
    std = jnp.sqrt(jnp.maximum(sigma_t**2 - (mu_t / mu_s * sigma_s) ** 2, 0))
    return batch_mul(mu_t / mu_s, x) + batch_mul(std, jax.random.normal(rng, x.shape, x.dtype))
