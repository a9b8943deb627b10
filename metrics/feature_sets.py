"""Metrics of sets of feature vectors, (N, D), as pure functions of arrays.

The caller chooses the network or transform that makes the features (`metrics.features` has some).
`METRICS` lists the metrics that can be reported for a set of samples. Everything is computed on the
host in double precision.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from scorax.metrics.neighbours import memorization, precision_recall_density_coverage
from scorax.metrics.points import check_finite, check_points, squared_mmd


class Features(NamedTuple):
    """Output of a network for N images: features (N, D) and, if it classifies, logits (N, K)."""

    features: np.ndarray
    logits: np.ndarray | None = None


class Statistics(NamedTuple):
    """Statistics of a reference set of `num` images; 0 if their number is unknown.

    `mean` (D,) and `cov` (D, D) cover all images. `features` (n, D) and `logits` (n, K) cover n of
    the images, or are None. `provenance` records the data and the network.
    """

    mean: np.ndarray
    cov: np.ndarray
    num: int
    features: np.ndarray | None = None
    logits: np.ndarray | None = None
    provenance: dict | None = None


class Moments:
    """Mean and covariance of features that arrive in parts.

    Parts are merged by the method of Chan, Golub & LeVeque 1979 ("Updating formulae and a pairwise
    algorithm for computing sample variances"), which stays accurate when the spread is small
    compared to the mean.

    Attributes:
      num: number of samples so far.
    """

    def __init__(self) -> None:
        self.num, self._mean, self._scatter = 0, 0.0, 0.0

    def add(self, features: ArrayLike) -> "Moments":
        """Adds a part: (n, D), n at least 1.

        Raises:
          ValueError: for another shape, or a value that is not finite.
        """
        features = check_points(features=features)[0]
        mean = features.mean(0)
        centred = features - mean
        difference, total = mean - self._mean, self.num + len(features)
        between = np.outer(difference, difference) * (self.num * len(features) / total)
        self._scatter = self._scatter + centred.T @ centred + between
        self._mean = self._mean + difference * (len(features) / total)
        self.num = total
        return self

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean (D,) and the covariance (D, D) with divisor N - 1, float64.

        Raises:
          ValueError: for fewer than two samples.
        """
        if self.num < 2:
            raise ValueError(f"a covariance needs 2 samples or more, not {self.num}")
        return self._mean, self._scatter / (self.num - 1)


def feature_statistics(features: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and covariance of a set of features.

    Args:
      features: (N, D).

    Returns:
      The mean (D,) and the covariance (D, D) with divisor N - 1, float64.

    Raises:
      ValueError: for another shape, fewer than two samples, or a value that is not finite.
    """
    return Moments().add(features).statistics()


def frechet_distance(mu_a: ArrayLike, cov_a: ArrayLike, mu_b: ArrayLike, cov_b: ArrayLike) -> float:
    """The squared Fréchet distance of two Gaussians (Dowson & Landau 1982; FID, Heusel et al. 2017)

        |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    The trace of the root equals tr (S_a^(1/2) S_b S_a^(1/2))^(1/2), which is the sum of the
    singular values of S_a^(1/2) S_b^(1/2). All roots taken are therefore of symmetric matrices, no
    complex numbers appear, and singular covariances (fewer samples than dimensions) need no offset
    on the diagonal.

    Args:
      mu_a, mu_b: (D,) means.
      cov_a, cov_b: (D, D) covariances.

    Returns:
      The squared distance, at least 0.

    Raises:
      ValueError: for shapes that do not match, a value that is not finite, or a matrix that is not
        a covariance.
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


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x . y / D + 1)^3, the kernel of KID: (N, D), (M, D) -> (N, M)."""
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # base**3 takes ten times as long


def kernel_distance(
    a: ArrayLike,
    b: ArrayLike,
    subsets: tuple[ArrayLike, ArrayLike] | None = None,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Unbiased squared MMDs of subsets with `polynomial_kernel` (KID, Binkowski et al. 2018).

    KID is the mean over the subsets, reported together with the standard deviation. For the squared
    MMD of the whole sets use `squared_mmd(a, b, polynomial_kernel)`.

    Args:
      a, b: (N, D) and (M, D).
      subsets: row numbers in a and in b, (S, n) and (S, m); None to draw them, without replacement
        within a subset.
      num_subsets, subset_size: number and size of the subsets to draw.
      seed: seed of the draw.

    Returns:
      The squared MMDs (S,), which may be negative.

    Raises:
      ValueError: for sets that cannot be compared, subsets larger than a set, or row numbers out of
        range.
    """
    a, b = check_points(a=a, b=b)
    if subsets is None:
        if num_subsets < 1 or not 2 <= subset_size <= min(len(a), len(b)):
            raise ValueError(
                f"KID with {num_subsets} subsets of {subset_size} of {len(a)} and {len(b)} samples "
                "cannot be computed; take at least 1 subset, of 2 samples up to the size of the "
                "smaller set"
            )
        rng = np.random.default_rng(seed)
        draws = [
            [rng.choice(len(x), subset_size, replace=False) for x in (a, b)]
            for _ in range(num_subsets)
        ]
        subsets = tuple(zip(*draws, strict=True))
    rows = [np.asarray(s) for s in subsets]
    for name, x, r in zip("ab", (a, b), rows, strict=True):
        if r.ndim != 2 or r.shape[0] != len(rows[0]) or r.min() < 0 or r.max() >= len(x):
            raise ValueError(
                f"subsets of shape {r.shape} are no rows of the {len(x)} samples of {name}; give "
                "(S, n) row numbers from 0, with the same S for both sets"
            )
    pairs = zip(*rows, strict=True)
    return np.array([squared_mmd(a[i], b[j], polynomial_kernel) for i, j in pairs])


def inception_score(logits: ArrayLike, splits: int = 10) -> tuple[float, float]:
    """exp(E_x KL(p(y|x) || p(y))) of consecutive parts (Salimans et al. 2016, section 4).

    Args:
      logits: (N, K); the order is kept.
      splits: number of parts; part i starts at row floor(i N / splits) and has its own p(y).

    Returns:
      Mean and standard deviation (divisor `splits`) over the parts.

    Raises:
      ValueError: for more splits than samples, or logits of another shape or not finite.
    """
    logits = check_points(logits=logits)[0]
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{len(logits)} samples cannot be split into {splits} parts")
    log_p = scipy.special.log_softmax(logits, axis=1)
    edges = np.arange(splits + 1) * len(logits) // splits
    scores = []
    for part in np.split(log_p, edges[1:-1]):
        log_marginal = scipy.special.logsumexp(part, axis=0) - np.log(len(part))
        scores.append(np.exp(np.mean(np.sum(np.exp(part) * (part - log_marginal), axis=1))))
    return float(np.mean(scores)), float(np.std(scores))


def _check_gaussian(mu: ArrayLike, cov: ArrayLike, name: str) -> tuple[np.ndarray, np.ndarray]:
    mu, cov = np.asarray(mu, np.float64), np.asarray(cov, np.float64)
    if mu.ndim != 1 or cov.shape != (len(mu), len(mu)):
        raise ValueError(
            f"mu_{name} of shape {mu.shape} and cov_{name} of shape {cov.shape} must be (D,) and "
            "(D, D)"
        )
    check_finite(**{f"mu_{name}": mu, f"cov_{name}": cov})
    return mu, cov


def _symmetric_root(cov: np.ndarray, name: str) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    scale = np.abs(cov).max()
    if np.abs(cov - cov.T).max() > 1e-6 * scale:
        raise ValueError(f"{name} is not symmetric, so it is not a covariance")
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    if values[0] < -1e-6 * max(values[-1], 0.0) or values[-1] < 0:
        raise ValueError(f"{name} has the eigenvalue {values[0]:.3g}, so it is not a covariance")
    # An eigenvalue of 1e-16 is a rounding error of 0, but its root 1e-8 would change the result.
    rounding = len(cov) * np.finfo(np.float64).eps * values[-1]
    roots = np.sqrt(np.where(values > rounding, values, 0.0))
    return (vectors * roots) @ vectors.T


def _fd(samples: Features, reference: Statistics) -> dict[str, float]:
    moments = feature_statistics(samples.features)
    return {"fd": frechet_distance(*moments, reference.mean, reference.cov)}


def _kid(samples: Features, reference: Statistics) -> dict[str, float]:
    real = _needed(reference.features, "kid", "features of the reference")
    size = min(1000, len(samples.features), len(real))
    values = kernel_distance(samples.features, real, subset_size=size)
    return {"kid": float(values.mean()), "kid_std": float(values.std()), "kid_subset_size": size}


def _inception_score(samples: Features, reference: Statistics) -> dict[str, float]:
    logits = _needed(samples.logits, "inception_score", "logits of a classifier")
    mean, std = inception_score(logits, splits=min(10, len(logits)))
    return {"inception_score": mean, "inception_score_std": std}


def _precision_recall(samples: Features, reference: Statistics) -> dict[str, float]:
    real = _needed(reference.features, "precision_recall", "features of the reference")
    found = precision_recall_density_coverage(samples.features, real, k=3)
    return {"precision": found.precision, "recall": found.recall}


def _density_coverage(samples: Features, reference: Statistics) -> dict[str, float]:
    real = _needed(reference.features, "density_coverage", "features of the reference")
    found = precision_recall_density_coverage(samples.features, real, k=5)
    return {"density": found.density, "coverage": found.coverage}


def _memorization(samples: Features, reference: Statistics) -> dict[str, float]:
    real = _needed(reference.features, "memorization", "features of the reference")
    if len(real) < reference.num:
        raise ValueError(
            f"memorization needs the features of all {reference.num} reference images, not of "
            f"{len(real)}; make the statistics with --keep {reference.num}"
        )
    return memorization(samples.features, real)


def _needed(array: np.ndarray | None, metric: str, what: str) -> np.ndarray:
    if array is None:
        raise ValueError(
            f"{metric} needs the {what}, which are not there; leave {metric} out, or make the "
            "statistics with --keep"
        )
    return array


# name -> (features of the samples, statistics of the reference, options) -> numbers for the report.
# The numbers of neighbours k are taken from the papers. The "inception_score" works with the logits
# of any classifier.
METRICS: dict[str, Callable[..., dict[str, float]]] = {
    "fd": _fd,
    "kid": _kid,
    "inception_score": _inception_score,
    "precision_recall": _precision_recall,
    "density_coverage": _density_coverage,
    "memorization": _memorization,
}
