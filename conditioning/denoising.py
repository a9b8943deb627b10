"""Removing noise of a known level from images: y = x_0 + sigma n, with n ~ N(0, I).

What was observed is a state of the diffusion. At the time t with sigma(t) / mu(t) = sigma,

    x_t = mu(t) y                                                                (1)

has the law of p(x_t | x_0), so that the score at that time is what there is to know:

    score of y     grad log p(y) = mu(t) score(mu(t) y, t)                       (2)
    Tweedie        E[x_0 | y] = y + sigma^2 grad log p(y)                        (3)
    posterior      x_0 ~ p(x_0 | y): the reverse SDE, begun with (1) at t
    Langevin       y <- clip(y + eta grad log p(y) + sigma sqrt(2 eta) z)        (4)

(3) has the least mean squared error, in one evaluation; a draw from the posterior has twice that,
and looks like data. The flow ODE and its solvers can begin at (1) too, but what they find is no
draw. (4) is published in a course project on score-based data assimilation, for a network that
knows the score at one level, with eta = 1e-4 in 200 steps at sigma = 0.1. Its noise is sigma times
that of Langevin dynamics: it climbs to where y is probable and samples from nothing.

Images are (B, *S) in the model's range, as is sigma.
"""

import functools
import math
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import ml_collections
from jax import lax

from scorax.sampling import get_sampling_fn
from scorax.sde_lib import SDE, Sampler, ScoreFn
from scorax.utils.arrays import batch_mul, lookup
from scorax.utils.options import Option, configured

# (rng, score_fn, y: (B, *S)) -> clean images: (B, *S), evaluations of the score for each
Denoiser = Callable[[jax.Array, ScoreFn, jax.Array], tuple[jax.Array, int | jax.Array]]


def noise_time(sde: SDE, sigma: float) -> float:
    """The time t at which sigma(t) / mu(t) = sigma.

    Raises:
      ValueError: unless sigma is positive and one of the levels between the SDE's t_min and T.
    """
    if not sigma > 0:
        raise ValueError(f"sigma={sigma:g}: the noise to remove must be positive")
    with jax.ensure_compile_time_eval():  # numbers, also while a caller is being traced
        mu, std = sde.marginal_coeffs(jnp.asarray([sde.t_min, sde.T]))
        low, high = (std / mu).tolist()
        t = float(sde.time_of_log_snr(jnp.asarray(-2 * math.log(sigma))))
    rounding = 1 + 1e-5
    if not low / rounding <= sigma <= high * rounding:
        raise ValueError(
            f"sigma={sigma:g}: {type(sde).__name__} knows noise between {low:.4g} and {high:.4g} "
            "in the model's range; choose noise in between, or a network trained with more"
        )
    return min(max(t, sde.t_min), sde.T)


def observed_score(sde: SDE, score_fn: ScoreFn, sigma: float) -> Callable[[jax.Array], jax.Array]:
    """The score of images with that noise, by (2): (B, *S) -> (B, *S).

    Raises:
      ValueError: as `noise_time`.
    """
    t = noise_time(sde, sigma)

    def score(y: jax.Array) -> jax.Array:
        times = jnp.full(y.shape[:1], t)
        mu, _ = sde.marginal_coeffs(times)
        return batch_mul(mu, score_fn(batch_mul(mu, y), times))

    return score


def tweedie(sde: SDE, score_fn: ScoreFn, y: jax.Array, sigma: float) -> jax.Array:
    """The posterior mean of y: (B, *S), by (3), in one evaluation.

    Raises:
      ValueError: as `noise_time`.
    """
    return y + sigma**2 * observed_score(sde, score_fn, sigma)(y)


def sample_posterior(
    rng: jax.Array,
    sde: SDE,
    score_fn: ScoreFn,
    y: jax.Array,
    sigma: float,
    get_sampler: Callable[..., Sampler],
) -> tuple[jax.Array, int | jax.Array]:
    """A draw from the posterior of each y: (B, *S).

    The predictor-corrector sampler begins at the largest time of its grid up to t, and so takes the
    noise for smaller than it is, by less than one of its steps.

    Args:
      rng: key.
      sde, score_fn: the prior.
      y: images with noise.
      sigma: its standard deviation.
      get_sampler: called with `t_start`; of a stochastic sampler, as
        `functools.partial(sampling.get_pc_sampler, sde, predictor, corrector)`.

    Returns:
      The draws and the evaluations of the score for each.

    Raises:
      ValueError: as `noise_time`, and as the sampler.
    """
    t = noise_time(sde, sigma)
    mu, _ = sde.marginal_coeffs(jnp.full(y.shape[:1], t))
    return get_sampler(t_start=t)(rng, score_fn, y.shape, batch_mul(mu, y))


def langevin(
    rng: jax.Array,
    sde: SDE,
    score_fn: ScoreFn,
    y: jax.Array,
    sigma: float,
    data_range: tuple[float, float] = (0.0, 1.0),
    eta: float = 1e-4,
    steps: int = 200,
) -> jax.Array:
    """The denoiser (4), begun at y: (B, *S).

    Args:
      rng: key.
      sde, score_fn: the prior.
      y: images with noise.
      sigma: its standard deviation.
      data_range: smallest and largest value of clean images, to which each step clips.
      eta: size of the steps.
      steps: steps, and evaluations.

    Raises:
      ValueError: as `noise_time`, and unless eta and steps are positive.
    """
    if not (eta > 0 and steps > 0):
        raise ValueError(
            f"eta={eta} and steps={steps} of the Langevin denoiser (eval.langevin_*) must be "
            "positive"
        )
    score, noise = observed_score(sde, score_fn, sigma), sigma * math.sqrt(2 * eta)

    def step(k: int, y: jax.Array) -> jax.Array:
        z = jax.random.normal(jax.random.fold_in(rng, k), y.shape, y.dtype)
        return jnp.clip(y + eta * score(y) + noise * z, *data_range)

    return lax.fori_loop(0, steps, step, y)


def get_denoiser(
    config: ml_collections.ConfigDict,
    name: str,
    sde: SDE,
    sigma: float,
    data_range: tuple[float, float],
) -> Denoiser:
    """The denoiser of that name, with the settings of `config.sampling` and `config.eval`.

    Args:
      config: the whole config.
      name: a row of DENOISERS.
      sde: the SDE of training.
      sigma: standard deviation of the noise, in the model's range.
      data_range: smallest and largest value of clean images in that range.

    Returns:
      `(rng, score_fn, y) -> (images, nfe)`.

    Raises:
      ValueError: for an unknown name or a parameter out of range; on the call, for images of
        another size than the config's.
    """
    row = lookup(DENOISERS, name, "denoiser (eval.denoisers)")
    d = config.data
    size = (d.image_size, d.image_size, d.num_channels)
    get_sampler = functools.partial(get_sampling_fn, config, sde)
    remove_noise = row(sde, sigma, data_range, get_sampler, **configured(row, config))

    def denoiser(
        rng: jax.Array, score_fn: ScoreFn, y: jax.Array
    ) -> tuple[jax.Array, int | jax.Array]:
        if y.shape[1:] != size:
            raise ValueError(
                f"images of shape {y.shape} cannot be denoised by a network for {size}; scale "
                "or cut them first"
            )
        return remove_noise(rng, score_fn, y)

    return denoiser


def get_tweedie_denoiser(
    sde: SDE, sigma: float, data_range: tuple[float, float], get_sampler: Callable[..., Sampler]
) -> Denoiser:
    """`tweedie` as a row of DENOISERS."""
    return lambda rng, score_fn, y: (tweedie(sde, score_fn, y, sigma), 1)


def get_posterior_denoiser(
    sde: SDE, sigma: float, data_range: tuple[float, float], get_sampler: Callable[..., Sampler]
) -> Denoiser:
    """`sample_posterior` as a row of DENOISERS."""
    return lambda rng, score_fn, y: sample_posterior(rng, sde, score_fn, y, sigma, get_sampler)


def get_langevin_denoiser(
    sde: SDE,
    sigma: float,
    data_range: tuple[float, float],
    get_sampler: Callable[..., Sampler],
    eta: Annotated[float, Option("eval.langevin_eta")] = 1e-4,
    steps: Annotated[int, Option("eval.langevin_steps")] = 200,
) -> Denoiser:
    """`langevin` as a row of DENOISERS."""
    return lambda rng, score_fn, y: (
        langevin(rng, sde, score_fn, y, sigma, data_range, eta, steps),
        steps,
    )


# name -> (sde, sigma, data_range, get_sampler, further options) -> Denoiser
DENOISERS = {
    "tweedie": get_tweedie_denoiser,
    "posterior": get_posterior_denoiser,
    "langevin": get_langevin_denoiser,
}
