"""The noise levels on which a network is trained: how they are drawn and weighted.

With x_t = mu x_0 + sigma z, z ~ N(0, I), an objective weights the error of the score at x_t by w:

    score_sde continuous  t ~ U(eps, T), w = 1; with likelihood weighting w = g^2 / sigma^2
                          (Song et al. 2021, eq. 7; weighting: arXiv 2101.09258)
    SMLD, DDPM            one of N discrete levels, w = 1 (Song et al. 2021, section 2)
    EDM                   log(sigma / mu) ~ N(p_mean, p_std^2), w = 1 + (sigma / mu / sigma_data)^2,
                          which is lambda(sigma) ||D - x_0||^2 (Karras et al. 2022, table 1)
    EDM's VP, VE, iDDPM   sigma / mu as in the other columns of the same table, w = 1
    last level            only t = T, w = (sigma / mu)^2, the denoiser's loss ||D - x_0||^2
    noise classifier      t ~ U(eps, T); its cross-entropy is not weighted

`losses` computes the error itself.
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from scorax.sde_lib import SDE, VESDE, VPSDE, iddpm_sigmas
from scorax.utils.options import Option, configured
from scorax.utils.tables import lookup

# random keys (B,) -> the noise levels of a batch
LevelFn = Callable[[jax.Array], "NoiseLevel"]

TRAIN_EPS = 1e-5  # smallest training time of continuous objectives


class NoiseLevel(NamedTuple):
    """Noise levels of a batch, all (B,): time, signal and noise coefficients, loss weight."""

    t: jax.Array
    mu: jax.Array
    sigma: jax.Array
    weight: jax.Array


def ratio_range(sde: SDE) -> tuple[float, float]:
    """The smallest and the largest sigma / mu on which the continuous objectives train."""
    mu, sigma = sde.marginal_coeffs(jnp.array([TRAIN_EPS, sde.T]))
    low, high = (sigma / mu).tolist()
    return low, high


def uniform_levels(
    sde: SDE, u: jax.Array, eps: float = TRAIN_EPS, likelihood_weighting: bool = False
) -> NoiseLevel:
    """Times eps + u (T - eps) for u: (B,) in [0, 1)."""
    t = eps + u * (sde.T - eps)
    mu, sigma = sde.marginal_coeffs(t)
    if not likelihood_weighting:
        return NoiseLevel(t, mu, sigma, jnp.ones_like(t))
    _, g = sde.sde(jnp.zeros_like(t), t)
    return NoiseLevel(t, mu, sigma, (g / sigma) ** 2)


def importance_levels(sde: SDE, u: jax.Array, eps: float = TRAIN_EPS) -> NoiseLevel:
    """Times in [eps, T] with density proportional to g^2 / sigma^2, for u: (B,) in [0, 1).

    The expected loss is the same as with `uniform_levels` and likelihood weighting, but all times
    have the same weight (Song et al. 2021, arXiv 2101.09258, variance reduction by importance
    sampling). For every SDE with linear drift, g^2 / sigma^2 is the derivative of
    log(sigma^2 / mu^2), so the log-SNR is uniformly distributed.
    """
    first, last = sde.log_snr(jnp.asarray([eps, sde.T]))
    t = jnp.clip(sde.time_of_log_snr(first + u * (last - first)), eps, sde.T)
    mu, sigma = sde.marginal_coeffs(t)
    return NoiseLevel(t, mu, sigma, jnp.full_like(t, (first - last) / (sde.T - eps)))


def discrete_levels(sde: SDE, k: jax.Array) -> NoiseLevel:
    """Levels k: (B,) of the discrete chain of SMLD or DDPM; level 0 is the cleanest.

    Raises:
      NotImplementedError: if the SDE has no discrete training.
    """
    mu, sigma = sde.discrete_coeffs(k)
    return NoiseLevel(k * (sde.T / (sde.N - 1)), mu, sigma, jnp.ones_like(sigma))


def ratio_levels(sde: SDE, ratio: jax.Array, sigma_data: float | None = None) -> NoiseLevel:
    """The levels at which sigma / mu has the given values (B,).

    A ratio outside the SDE's range gets the level at the nearer end of the range. The weight is 1
    without `sigma_data`, and EDM's weight with it.
    """
    t = jnp.clip(sde.time_of_log_snr(-2 * jnp.log(ratio)), TRAIN_EPS, sde.T)
    mu, sigma = sde.marginal_coeffs(t)
    excess = 0.0 if sigma_data is None else (sigma / mu / sigma_data) ** 2
    return NoiseLevel(t, mu, sigma, jnp.ones_like(t) + excess)


def edm_levels(
    sde: SDE,
    n: jax.Array,
    p_mean: Annotated[float, Option("training.p_mean")],
    p_std: Annotated[float, Option("training.p_std")],
    sigma_data: Annotated[float, Option("model.sigma_data")],
) -> NoiseLevel:
    """Ratios exp(p_mean + p_std n), n: (B,) standard normal (Karras et al. 2022, table 1)."""
    return ratio_levels(sde, jnp.exp(p_mean + p_std * n), sigma_data)


def edm_vp_levels(
    sde: SDE,
    u: jax.Array,
    beta_min: Annotated[float, Option("model.beta_min")],
    beta_max: Annotated[float, Option("model.beta_max")],
) -> NoiseLevel:
    """Ratios of the VP SDE at times 1 + u (TRAIN_EPS - 1), u: (B,) in [0, 1) (same table)."""
    mu, sigma = VPSDE(beta_min, beta_max).marginal_coeffs(1 + u * (TRAIN_EPS - 1))
    return ratio_levels(sde, sigma / mu)


def edm_ve_levels(
    sde: SDE,
    u: jax.Array,
    sigma_min: Annotated[float, Option("model.sigma_min")],
    sigma_max: Annotated[float, Option("model.sigma_max")],
) -> NoiseLevel:
    """Log-uniform ratios between sigma_min and sigma_max, u: (B,) in [0, 1) (same table)."""
    return ratio_levels(sde, VESDE(sigma_min, sigma_max).marginal_coeffs(u)[1])


def edm_iddpm_levels(sde: SDE, u: jax.Array) -> NoiseLevel:
    """Ratios drawn from iDDPM's levels, all equally likely, u: (B,) in [0, 1) (same table)."""
    sigmas = jnp.asarray(iddpm_sigmas()[:-1], jnp.float32)  # the last is 0
    return ratio_levels(sde, sigmas[(u * len(sigmas)).astype(jnp.int32)])


def last_level(sde: SDE, u: jax.Array) -> NoiseLevel:
    """The level at T for every element of u: (B,), with the weight of the denoiser's loss.

    The loss is ||D - x_0||^2 with D = (x_T + sigma^2 score) / mu. A network trained on it removes
    noise of standard deviation sigma / mu, and can handle no other level.
    """
    t = jnp.full_like(u, sde.T)
    mu, sigma = sde.marginal_coeffs(t)
    return NoiseLevel(t, mu, sigma, (sigma / mu) ** 2)


def get_level_fn(config: ml_collections.ConfigDict, sde: SDE) -> LevelFn:
    """Draws noise levels for the configured objective: keys (B,) -> NoiseLevel.

    Raises:
      ValueError: for an unknown objective, or switches that exclude one another.
    """
    t = config.training
    objectives = {"score": None} | OBJECTIVES
    row = lookup(objectives, t.objective, "training.objective")
    if t.likelihood_weighting and (row or not t.continuous):
        raise ValueError(
            "training.likelihood_weighting=True weights the continuous objective; set "
            "training.continuous=True and training.objective='score', or turn it off"
        )
    if t.importance_sampling and not t.likelihood_weighting:
        raise ValueError(
            "training.importance_sampling=True draws times for the likelihood weighting; set "
            "training.likelihood_weighting=True, or turn it off"
        )
    if row:
        if not t.continuous:
            raise ValueError(f"training.objective={t.objective!r} needs training.continuous=True")
        draw, levels = row
        options = configured(levels, config)
        return lambda keys: levels(sde, jax.vmap(draw)(keys), **options)
    uniform = jax.vmap(jax.random.uniform)
    if t.importance_sampling:
        return lambda keys: importance_levels(sde, uniform(keys))
    if t.continuous:
        weighting = t.likelihood_weighting
        return lambda keys: uniform_levels(sde, uniform(keys), likelihood_weighting=weighting)
    try:  # computes one level, to find out now whether the SDE has discrete training
        sde.discrete_coeffs(jnp.zeros((), jnp.int32))
    except NotImplementedError as e:
        raise ValueError(f"training.sde={t.sde!r}: {e}") from e
    randint = jax.vmap(lambda key: jax.random.randint(key, (), 0, sde.N))
    return lambda keys: discrete_levels(sde, randint(keys))


# objective -> (random draw for each example, noise levels as a function of the draws)
OBJECTIVES = {
    "edm": (jax.random.normal, edm_levels),
    "edm_vp": (jax.random.uniform, edm_vp_levels),
    "edm_ve": (jax.random.uniform, edm_ve_levels),
    "edm_iddpm": (jax.random.uniform, edm_iddpm_levels),
    "last_level": (jax.random.uniform, last_level),
    "classifier": (jax.random.uniform, uniform_levels),
}
