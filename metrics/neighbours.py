"""Metrics based on nearest neighbours: precision, recall, density, coverage, memorization.

A set of samples is (N, D), or (N, *S) where samples may have any shape. Distances are Euclidean and
are computed on the host in double precision, block by block, so that the distances between 50,000
and 50,000 samples never have to fit into memory at once.

scikit-learn and scipy.stats are loaded by the functions that use them, because loading them takes
a quarter of the time in which a run starts.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from scorax.metrics.points import blocks, check_points


class Coverage(NamedTuple):
    """What `precision_recall_density_coverage` returns."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall_density_coverage(generated: ArrayLike, real: ArrayLike, k: int) -> Coverage:
    """Measures how well the regions covered by samples and by real images overlap.

    Each point has a ball whose radius is the distance to its k-th nearest neighbour in the same
    set, not counting itself. Points on the edge of a ball are outside.

    Precision is the share of samples that lie in the ball of some real image; recall is the share
    of real images that lie in the ball of some sample (Kynkäänniemi et al. 2019, arXiv 1904.06991).
    Density is the mean number of real images' balls that a sample lies in, divided by k; it may
    exceed 1. Coverage is the share of real images whose ball holds a sample (Naeem et al. 2020,
    arXiv 2002.09797).

    Args:
      generated, real: (N, D) and (M, D).
      k: which nearest neighbour gives the radius.

    Raises:
      ValueError: for sets that cannot be compared, or that have no k-th neighbour.
    """
    from sklearn.metrics.pairwise import euclidean_distances

    generated, real = check_points(generated=generated, real=real)
    if not 1 <= k < min(len(generated), len(real)):
        raise ValueError(
            f"k={k} of {len(generated)} generated and {len(real)} real samples: a k-th neighbour "
            "needs a k of at least 1, and more than k samples in each set"
        )
    radius_generated, radius_real = (_neighbour_distances(x, k) for x in (generated, real))
    recalled, nearest = np.zeros(len(real), bool), np.full(len(real), np.inf)
    precise = inside = 0
    for rows in blocks(len(generated), len(real)):
        distances = euclidean_distances(generated[rows], real)
        balls = distances < radius_real[None]
        precise += balls.any(1).sum()
        inside += balls.sum()
        recalled |= (distances < radius_generated[rows, None]).any(0)
        nearest = np.minimum(nearest, distances.min(0))
    return Coverage(
        precision=float(precise / len(generated)),
        recall=float(recalled.mean()),
        density=float(inside / (k * len(generated))),
        coverage=float(np.mean(nearest < radius_real)),
    )


def _neighbour_distances(x: np.ndarray, k: int) -> np.ndarray:
    """Returns the distance of each point of x: (N, D) to its k-th nearest other point: (N,)."""
    return _brute_force(x, k).kneighbors()[0][:, -1]


def _brute_force(x: np.ndarray, k: int) -> Any:
    """scikit-learn's `NearestNeighbors`, which compares all pairs: exact in many dimensions."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x)


def nearest_distances(x: ArrayLike, others: ArrayLike, k: int = 1) -> np.ndarray:
    """Returns Euclidean distances from each x to the k nearest of `others`, ascending: (N, k).

    Args:
      x, others: (N, *S) and (M, *S) of any type, M at least k; `others` is read in parts, so it may
        be large or mapped from a file.
      k: number of neighbours.

    Raises:
      ValueError: for sets that cannot be compared, or fewer than k others.
    """
    x, others = (np.asanyarray(a).reshape(len(a), -1) for a in (x, others))
    if not 1 <= k <= len(others):
        raise ValueError(f"there are no {k} nearest of {len(others)} samples; give 1 <= k <= M")
    x, found = x.astype(np.float64), np.full((len(x), k), np.inf)
    for rows in blocks(len(others), others.shape[1]):
        points, part = check_points(x=x, others=others[rows])
        neighbours = _brute_force(part, min(k, len(part)))
        found = np.sort(np.hstack([found, neighbours.kneighbors(points)[0]]))[:, :k]
    return found


def memorization(
    samples: ArrayLike,
    training: ArrayLike,
    held_out: ArrayLike | None = None,
    ratio: float = 1 / 3,
) -> dict[str, float]:
    """Measures whether samples are copies of training images.

    A sample is a near-copy if the distance to its nearest training image is at most `ratio` times
    the distance to the second nearest (Gu et al. 2023, arXiv 2310.02664, with pixels and 1/3). This
    test misses copies of training images that themselves have near-copies in the training set.

    Held-out images show what is normal: samples should be as far from the training images as they
    are. The test of Meehan et al. 2020 (arXiv 2004.05675) compares the distances of samples and of
    held-out images: it is the Mann-Whitney U statistic in standard deviations. It is near 0 if the
    distances are alike; below -3 the samples are closer to the training images, a sign of copying.

    Args:
      samples, training: (N, *S) and (M, *S): images, or features.
      held_out: (K, *S), images of the data set that were not trained on; None: no comparison.
      ratio: largest ratio of the nearest to the second nearest distance for a near-copy.

    Returns:
      "near_copies": share of the samples; "nearest_distance": median; with held-out images also
      "near_copies_held_out", "nearest_distance_held_out" and "copying_z".

    Raises:
      ValueError: for sets that cannot be compared, or fewer than 2 training images.
    """
    nearest = nearest_distances(samples, training, 2)
    report = {
        "near_copies": float(np.mean(nearest[:, 0] <= ratio * nearest[:, 1])),
        "nearest_distance": float(np.median(nearest[:, 0])),
    }
    if held_out is None:
        return report
    normal = nearest_distances(held_out, training, 2)
    n, m = len(nearest), len(normal)
    u = scipy.stats.mannwhitneyu(nearest[:, 0], normal[:, 0]).statistic
    return report | {
        "near_copies_held_out": float(np.mean(normal[:, 0] <= ratio * normal[:, 1])),
        "nearest_distance_held_out": float(np.median(normal[:, 0])),
        "copying_z": float((u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)),
    }
