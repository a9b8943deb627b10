"""Distances between two sets of points, (N, D): maximum mean discrepancy and Wasserstein distances.

All are functions of arrays, computed on the host in double precision. The maximum mean discrepancy
evaluates its kernel block by block and never holds all pairs in memory; the exact Wasserstein
distances do hold them.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (N, D), (M, D) -> (N, M)

BLOCK = 2**24  # pairs of points at a time: 128 MiB per array
WIDTHS = tuple(10.0**n for n in range(-3, 4))  # default widths of `multiscale_kernel`


def wasserstein(a: ArrayLike, b: ArrayLike, order: int) -> float:
    """Wasserstein distance (inf E |x - y|^order)^(1/order) of two sets of the same size.

    All points have equal weights, so the optimal coupling is an assignment. The Hungarian method
    finds it exactly, in seconds for 2,000 points and with memory for N^2 numbers.

    Args:
      a, b: (N, D).
      order: 1, or 2 for the root of the mean squared distance.

    Raises:
      ValueError: for sets that cannot be compared or differ in size, or another order.
    """
    a, b = check_points(a=a, b=b)
    if len(a) != len(b) or order not in (1, 2):
        raise ValueError(
            f"the Wasserstein-{order} distance of {len(a)} and {len(b)} points cannot be computed; "
            "give order 1 or 2 and as many points in both sets"
        )
    costs = cdist(a, b, "euclidean" if order == 1 else "sqeuclidean")
    return float(costs[scipy.optimize.linear_sum_assignment(costs)].mean() ** (1 / order))


def wasserstein_1d(a: ArrayLike, b: ArrayLike) -> float:
    """Wasserstein-1 distance of two sets of numbers, (N,) and (M,), which may differ in size.

    Raises:
      ValueError: for another shape, an empty set, or a number that is not finite.
    """
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"a of shape {a.shape} and b of shape {b.shape} must have one axis each")
    check_points(a=a[:, None], b=b[:, None])
    return float(scipy.stats.wasserstein_distance(a, b))


def squared_mmd(a: ArrayLike, b: ArrayLike, kernel: Kernel, unbiased: bool = True) -> float:
    """Squared maximum mean discrepancy of two sets (Gretton et al. 2012, equations 3 and 5).

    Args:
      a, b: (N, D) and (M, D).
      kernel: evaluated on blocks of rows; see `Kernel`.
      unbiased: leave out the pairs of a sample with itself; the result may then be negative.

    Raises:
      ValueError: for sets that cannot be compared, or, if `unbiased`, fewer than two samples in a
        set.
    """
    a, b = check_points(a=a, b=b)
    if unbiased and min(len(a), len(b)) < 2:
        raise ValueError(f"an unbiased MMD needs 2 samples or more, not {len(a)} and {len(b)}")

    def mean(x: np.ndarray, y: np.ndarray, own: bool) -> float:
        total = 0.0
        for rows in blocks(len(x), len(y)):
            values = kernel(x[rows], y)
            total += values.sum() - (np.trace(values, rows.start) if own else 0.0)
        return total / (len(x) * (len(y) - own))

    return float(mean(a, a, unbiased) + mean(b, b, unbiased) - 2 * mean(a, b, False))


def gaussian_kernel(width: float) -> Kernel:
    """The kernel exp(-|x - y|^2 / (2 width^2)).

    Raises:
      ValueError: for a width that is not positive.
    """
    if not width > 0:
        raise ValueError(f"the width {width} of a Gaussian kernel must be positive")
    return lambda x, y: np.exp(cdist(x, y, "sqeuclidean") / (-2 * width**2))


def multiscale_kernel(widths: Sequence[float] = WIDTHS) -> Kernel:
    """The kernel sum over s in `widths` of exp(-|x - y|^2 / s).

    Raises:
      ValueError: for no width, or a width that is not positive.
    """
    if not widths or not all(s > 0 for s in widths):
        raise ValueError(f"the widths {tuple(widths)} of a kernel must be positive, at least one")

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squares = cdist(x, y, "sqeuclidean")
        return sum(np.exp(-squares / s) for s in widths)

    return kernel


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Returns slices of `rows` rows of `width` numbers: `BLOCK` numbers or one row in each."""
    step = max(1, BLOCK // width)
    return (slice(i, min(i + step, rows)) for i in range(0, rows, step))


def check_points(**sets: ArrayLike) -> list[np.ndarray]:
    """Returns the sets as float64 arrays, each (N, D) with its own N.

    Raises:
      ValueError: for another shape, an empty set, different D, or a value that is not finite.
    """
    arrays = {name: np.asarray(x, np.float64) for name, x in sets.items()}
    for name, x in arrays.items():
        if x.ndim != 2 or 0 in x.shape:
            raise ValueError(f"{name} of shape {x.shape} must have two axes, (samples, D), none 0")
    check_finite(**arrays)
    dimensions = {name: x.shape[1] for name, x in arrays.items()}
    if len(set(dimensions.values())) > 1:
        sizes = " and ".join(f"{name} has {d}" for name, d in dimensions.items())
        raise ValueError(f"{sizes} dimensions; compare features of the same kind")
    return list(arrays.values())


def check_finite(**arrays: np.ndarray) -> None:
    """Raises ValueError if a value of an array is not finite."""
    for name, x in arrays.items():
        if not np.isfinite(x).all():
            raise ValueError(
                f"{np.sum(~np.isfinite(x))} of {x.size} values of {name} are not finite"
            )
