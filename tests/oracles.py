"""Closed forms for Gaussian data and mixtures of Gaussians, each of them written once.

Every SDE has p(x_t | x_0) = N(mu x_0, sigma^2 I), so data N(m, C) is N(mu m, mu^2 C + sigma^2 I) at
time t. A score takes x: (B, *S) and t: (B,), returns (B, *S), and computes in the dtype of x.
"""

import jax
import jax.numpy as jnp
import numpy as np

from scorax.utils.arrays import batch_mul, expand_like


def of_event(value, x):
    """A number, or an array that broadcasts against x, with as many axes as x has."""
    value = jnp.asarray(value, x.dtype)
    return jnp.expand_dims(value, range(x.ndim - value.ndim)) if value.ndim else value


def gaussian_score(sde, mean=0.0, variance=1.0):
    """The score of data N(mean, diag variance); each a number or an array (*S) or (B, *S)."""

    def score_fn(x, t):
        mu, sigma = (expand_like(c, x) for c in sde.marginal_coeffs(t))
        return -(x - mu * of_event(mean, x)) / (mu**2 * of_event(variance, x) + sigma**2)

    return score_fn


def correlated_score(sde, mean, covariance):
    """The score of vectors N(mean, covariance): float64 (D,) and (D, D), by eigenvectors."""
    values, vectors = np.linalg.eigh(covariance)

    def score_fn(x, t):
        mu, sigma = (expand_like(c, x) for c in sde.marginal_coeffs(t))
        basis = jnp.asarray(vectors, x.dtype)
        centered = jnp.matmul(x - mu * of_event(mean, x), basis)
        return -jnp.matmul(centered / (mu**2 * of_event(values, x) + sigma**2), basis.T)

    return score_fn


def toy_score(sde):
    """-x / (1 + sigma^2), with which the published values of samplers were computed.

    It is exact for standard normal data under VE; other SDEs would have mu^2 in place of the 1.
    """
    return lambda x, t: batch_mul(-1 / (1 + sde.marginal_coeffs(t)[1] ** 2), x)


# Mixtures: weights (K,), means (K, D) and variances (K, D) of the parts; mu and sigma (B,)


def parts_of(x, mu, sigma, means, variances):
    """Offsets of x: (B, D) from the mean of each part, and the variances: both (B, K, D)."""
    mu, sigma = mu[:, None, None], sigma[:, None, None]
    x = x[:, None]
    return x - mu * of_event(means, x), mu**2 * of_event(variances, x) + sigma**2


def log_joint(x, mu, sigma, weights, means, variances):
    """log p(k) + log p_t(x | k) of each part but for one constant: (B, K)."""
    offsets, total = parts_of(x, mu, sigma, means, variances)
    log_density = -jnp.sum(offsets**2 / total + jnp.log(total), -1) / 2
    return jnp.log(of_event(weights, x)) + log_density


def part_scores(x, mu, sigma, means, variances):
    """The score of each part alone: (B, K, D)."""
    offsets, total = parts_of(x, mu, sigma, means, variances)
    return -offsets / total


def mixture_score(sde, weights, means, variances):
    """The scores of the parts of a mixture, weighted by the probability of each part given x."""

    def score_fn(x, t):
        mu, sigma = sde.marginal_coeffs(t)
        share = jax.nn.softmax(log_joint(x, mu, sigma, weights, means, variances))
        return jnp.sum(share[..., None] * part_scores(x, mu, sigma, means, variances), 1)

    return score_fn


# Posterior and flow, in double precision


def linear_posterior(mean, covariance, matrix, y, noise):
    """Mean and covariance of x ~ N(mean, covariance) given y = matrix x + N(0, noise).

    Args:
      mean: (D,).
      covariance: (D, D).
      matrix: (M, D).
      y: (..., M).
      noise: (M, M), the covariance of the noise.

    Returns:
      (..., D) and (D, D).
    """
    gain = covariance @ matrix.T @ np.linalg.inv(matrix @ covariance @ matrix.T + noise)
    return mean + (y - matrix @ mean) @ gain.T, covariance - gain @ matrix @ covariance


def coefficients(sde, t):
    """mu and sigma at a time, as float64 numbers."""
    with jax.enable_x64(True):
        return tuple(float(c) for c in sde.marginal_coeffs(jnp.asarray(t, jnp.float64)))


def gaussian_flow(sde, mean, variance, x, t, s):
    """Where the probability flow of N(mean, diag variance) data takes x at time t: x at time s.

    It keeps the distance from the mean in units of the standard deviation.
    """
    (mean_t, std_t), (mean_s, std_s) = (
        (mu * mean, np.sqrt(mu**2 * variance + sigma**2))
        for mu, sigma in (coefficients(sde, t), coefficients(sde, s))
    )
    return mean_s + std_s * (np.asarray(x, np.float64) - mean_t) / std_t


def replacing_network(get_score):
    """A method for `Experiment.score_fn` that returns `get_score(sde)`, whatever the parameters."""

    def score_fn(self, params, model_state, labels=None):
        return get_score(self.sde)

    return score_fn
