"""Removing noise of a known level from images: y = x_0 + sigma n, with n ~ N(0, I).

The noisy image is a state of the diffusion, up to a factor. At the time t with
sigma(t) / mu(t) = sigma,

    x_t = mu(t) y                                                                (1)

is distributed as p(x_t | x_0), so the score at time t is all that is needed:

    score of y     grad log p(y) = mu(t) score(mu(t) y, t)                       (2)
    Tweedie        E[x_0 | y] = y + sigma^2 grad log p(y)                        (3)
    posterior      x_0 ~ p(x_0 | y): the reverse SDE, started from (1) at time t
    Langevin       y <- clip(y + eta grad log p(y) + sigma sqrt(2 eta) z)        (4)

(3) has the smallest possible mean squared error, and takes one evaluation. A draw from the
posterior has twice this error, but looks like data. The flow ODE and its solvers can start from (1)
too, but their result is not a draw from the posterior. (4) was published in a course project on
score-based data assimilation, for a network that knows the score at a single noise level, with
eta = 1e-4 in 200 steps at sigma = 0.1. Langevin dynamics would add noise 1 / sigma times as large;
with so little noise, (4) climbs towards probable y and samples from no known distribution.

Images are (B, *S), and both images and sigma are in the model's range.
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
from scorax.utils.arrays import batch_mul
from scorax.utils.options import Option, configured
from scorax.utils.shapes import image_shape
from scorax.utils.tables import lookup

# (rng, score_fn, y: (B, *S)) -> clean images: (B, *S), score evaluations per image
Denoiser = Callable[[jax.Array, ScoreFn, jax.Array], tuple[jax.Array, int | jax.Array]]


def noise_time(sde: SDE, sigma: float) -> float:
    """The time t at which sigma(t) / mu(t) = sigma.

    Raises:
      ValueError: unless sigma is positive and lies between the SDE's levels at t_min and T.
    """
    if not sigma > 0:
        raise ValueError(f"sigma={sigma:g}: the noise to remove must be positive")
    with jax.ensure_compile_time_eval():  # concrete numbers, even while a caller is being traced
        mu, std = sde.marginal_coeffs(jnp.asarray([sde.t_min, sde.T]))
        low, high = (std / mu).tolist()
        t = float(sde.time_of_log_snr(jnp.asarray(-2 * math.log(sigma))))
    rounding = 1 + 1e-5
    if not low / rounding <= sigma <= high * rounding:
        raise ValueError(
            f"sigma={sigma:g}: {type(sde).__name__} knows noise between {low:.4g} and {high:.4g} "
            "in the model's range; choose noise in between, or a network trained on this noise"
        )
    return min(max(t, sde.t_min), sde.T)


def observed_score(sde: SDE, score_fn: ScoreFn, sigma: float) -> Callable[[jax.Array], jax.Array]:
    """The score of images with noise sigma, by (2): (B, *S) -> (B, *S).

    Raises:
      ValueError: see `noise_time`.
    """
    t = noise_time(sde, sigma)

    def score(y: jax.Array) -> jax.Array:
        times = jnp.full(y.shape[:1], t)
        mu, _ = sde.marginal_coeffs(times)
        return batch_mul(mu, score_fn(batch_mul(mu, y), times))

    return score


def tweedie(sde: SDE, score_fn: ScoreFn, y: jax.Array, sigma: float) -> jax.Array:
    """The posterior mean of x_0 given y: (B, *S), by (3), in one evaluation.

    Raises:
      ValueError: see `noise_time`.
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
    """Draws x_0 from the posterior given each y: (B, *S).

    The predictor-corrector sampler starts at the largest time of its grid that does not exceed t,
    and so underestimates the noise by less than one of its steps.

    Args:
      rng: key.
      sde, score_fn: the prior.
      y: noisy images.
      sigma: standard deviation of their noise.
      get_sampler: builds a stochastic sampler when called with `t_start`, such as
        `functools.partial(sampling.get_pc_sampler, sde, predictor, corrector)`.

    Returns:
      The draws, and the evaluations of the score for each.

    Raises:
      ValueError: see `noise_time`; also if `get_sampler` raises it.
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
    """The denoiser (4), started from y: (B, *S).

    Args:
      rng: key.
      sde, score_fn: the prior.
      y: noisy images.
      sigma: standard deviation of their noise.
      data_range: smallest and largest value of clean images, to which each step clips.
      eta: step size.
      steps: number of steps, each with one evaluation.

    Raises:
      ValueError: see `noise_time`; also unless eta and steps are positive.
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
    """The denoiser of the given name, with the settings of `config.sampling` and `config.eval`.

    Args:
      config: the whole config.
      name: a row of DENOISERS.
      sde: the SDE of training.
      sigma: standard deviation of the noise, in the model's range.
      data_range: smallest and largest value of clean images, in the model's range.

    Returns:
      `(rng, score_fn, y) -> (images, nfe)`.

    Raises:
      ValueError: for an unknown name or a parameter out of range; from the returned function, for
        images whose size differs from the config's.
    """
    row = lookup(DENOISERS, name, "denoiser (eval.denoisers)")
    size = image_shape(config)
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


# name -> builder (sde, sigma, data_range, get_sampler, further options) -> Denoiser
DENOISERS = {
    "tweedie": get_tweedie_denoiser,
    "posterior": get_posterior_denoiser,
    "langevin": get_langevin_denoiser,
}
