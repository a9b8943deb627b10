"""Metrics of time series, (N, L, C): Ornstein-Uhlenbeck fits, autocorrelation, forecasts.

All are functions of arrays, computed on the host in double precision.
"""

import numpy as np
from numpy.typing import ArrayLike

SMALLEST = 1e-5  # smallest theta and sigma of a fit


def fit_ou(x: ArrayLike, dt: float) -> np.ndarray:
    """Maximum-likelihood parameters of Ornstein-Uhlenbeck processes: theta, mu, sigma, (N, 3).

    Given X_i, X_{i+1} is normal with mean a X_i + mu (1 - a) and variance s^2, where a = exp(-theta
    dt) and s^2 = sigma^2 (1 - a^2) / (2 theta). So a and mu (1 - a) are a regression of X_{i+1} on
    X_i. Where its slope does not lie in (0, 1), the likelihood grows up to the end of the range of
    theta, and a stays there: theta is at least 1e-5, and at most -log(1e-5) / dt.

    Args:
      x: series (N, L), each with its own parameters.
      dt: time from one point to the next.

    Raises:
      ValueError: for another shape, or less than three points.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or x.shape[1] < 3:
        raise ValueError(f"x of shape {x.shape} must be (N, L) with at least 3 points")
    before, after = x[:, :-1], x[:, 1:]
    centred = before - before.mean(1, keepdims=True)
    spread = (centred**2).sum(1)
    slope = (centred * after).sum(1) / np.where(spread > 0, spread, 1)
    a = np.clip(slope, SMALLEST, np.exp(-SMALLEST * dt))
    mu = (after.mean(1) - a * before.mean(1)) / (1 - a)
    error = after - a[:, None] * before - (mu * (1 - a))[:, None]
    theta = -np.log(a) / dt
    sigma = np.sqrt((error**2).mean(1) * 2 * theta / -np.expm1(-2 * theta * dt))
    return np.stack([theta, mu, np.maximum(sigma, SMALLEST)], 1)


def autocorrelation(x: ArrayLike, lags: int) -> np.ndarray:
    """Autocorrelation of series (N, L, C) at lags 0 ... lags: (lags + 1, C).

    Means and variances are of each channel over all series and times, so that differences between
    series count as correlation.

    Raises:
      ValueError: unless lags < L.
    """
    x = np.asarray(x, np.float64)
    length = x.shape[1]
    if not 0 <= lags < length:
        raise ValueError(f"lags={lags} must lie between 0 and {length - 1}")
    x = x - x.mean((0, 1))
    variance = (x**2).mean((0, 1))
    return np.stack(
        [(x[:, : length - k] * x[:, k:]).mean((0, 1)) / variance for k in range(lags + 1)]
    )


def crps(samples: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Continuous ranked probability score of an ensemble (S, *shape) at the truth: shape.

    E|X - y| - E|X - X'| / 2 with the unbiased estimate of the second mean over pairs (Gneiting &
    Raftery 2007, eq. 21; Zamo & Naveau 2018, eq. 8), so that ensembles of any size can be compared.

    Raises:
      ValueError: for fewer than two samples.
    """
    samples, truth = np.sort(np.asarray(samples, np.float64), axis=0), np.asarray(truth)
    n = len(samples)
    if n < 2:
        raise ValueError("the CRPS needs at least 2 samples; draw more (eval.samples_per_image)")
    # The sum over pairs of sorted numbers is linear in them.
    weights = (2 * np.arange(n) - n + 1).reshape(n, *(1,) * truth.ndim)
    pairs = (weights * samples).sum(0) / (n * (n - 1))
    return np.abs(samples - truth).mean(0) - pairs
