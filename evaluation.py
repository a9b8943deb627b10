"""Metrics of samples: functions of arrays, nothing else.

A set of samples is represented by feature vectors, (N, D), of whatever network or transform the
caller chooses. Everything here is computed on the host in double precision.
"""

import numpy as np
from numpy.typing import ArrayLike


def feature_statistics(features: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a set of features.

    Args:
      features: (N, D).

    Returns:
      The mean (D,) and the covariance (D, D) with divisor N - 1, float64.

    Raises:
      ValueError: for another shape, fewer than two samples, or a value that is not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2:
        raise ValueError(f"features of shape {features.shape} must have two axes, (samples, D)")
    if len(features) < 2:
        raise ValueError(f"a covariance needs 2 samples or more, not {len(features)}")
    _check_finite(features=features)
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance(mu_a: ArrayLike, cov_a: ArrayLike, mu_b: ArrayLike, cov_b: ArrayLike) -> float:
    """The squared Fréchet distance of two Gaussians (Dowson & Landau 1982; FID, Heusel et al. 2017)

        |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    The trace of the root is that of (S_a^(1/2) S_b S_a^(1/2))^(1/2), the sum of the singular values
    of S_a^(1/2) S_b^(1/2). So only symmetric roots are taken, nothing complex appears and singular
    covariances (fewer samples than dimensions) need no offset on the diagonal.

    Args:
      mu_a, mu_b: (D,) means.
      cov_a, cov_b: (D, D) covariances.

    Returns:
      The distance, not negative.

    Raises:
      ValueError: for shapes that do not fit, a value that is not finite, or a matrix that is no
        covariance.
    """
    mu_a, cov_a = _check_gaussian(mu_a, cov_a, "a")
    mu_b, cov_b = _check_gaussian(mu_b, cov_b, "b")
    if mu_a.shape != mu_b.shape:
        raise ValueError(
            f"mu_a has {len(mu_a)} dimensions and mu_b has {len(mu_b)}; compare features of the "
            "same kind"
        )
    root_a, root_b = _symmetric_root(cov_a, "cov_a"), _symmetric_root(cov_b, "cov_b")
    trace_root = np.linalg.svd(root_a @ root_b, compute_uv=False).sum()
    distance = np.sum((mu_a - mu_b) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * trace_root
    return max(float(distance), 0.0)


def _check_gaussian(mu: ArrayLike, cov: ArrayLike, name: str) -> tuple[np.ndarray, np.ndarray]:
    mu, cov = np.asarray(mu, np.float64), np.asarray(cov, np.float64)
    if mu.ndim != 1 or cov.shape != (len(mu), len(mu)):
        raise ValueError(
            f"mu_{name} of shape {mu.shape} and cov_{name} of shape {cov.shape} must be (D,) and "
            "(D, D)"
        )
    _check_finite(**{f"mu_{name}": mu, f"cov_{name}": cov})
    return mu, cov


def _check_finite(**arrays: np.ndarray) -> None:
    for name, x in arrays.items():
        if not np.isfinite(x).all():
            raise ValueError(
                f"{np.sum(~np.isfinite(x))} of {x.size} values of {name} are not finite"
            )


def _symmetric_root(cov: np.ndarray, name: str) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    scale = np.abs(cov).max()
    if np.abs(cov - cov.T).max() > 1e-6 * scale:
        raise ValueError(f"{name} is not symmetric, so it is no covariance")
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    if values[0] < -1e-6 * max(values[-1], 0.0) or values[-1] < 0:
        raise ValueError(f"{name} has the eigenvalue {values[0]:.3g}, so it is no covariance")
    # An eigenvalue of 1e-16 is a rounded 0, but its root of 1e-8 would count.
    rounding = len(cov) * np.finfo(np.float64).eps * values[-1]
    roots = np.sqrt(np.where(values > rounding, values, 0.0))
    return (vectors * roots) @ vectors.T
