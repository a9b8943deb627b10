"""Points in the plane: the toy distributions with which score-based models are explained.

gaussians      eight Gaussians on a ring; the density is known
checkerboard   uniform on the black squares of a board of 4x4; the density is known
moons          two half circles that reach into each other (scikit-learn)
swiss_roll     a spiral (scikit-learn's in three dimensions, seen from above)
"""

from collections.abc import Callable

import numpy as np
import scipy.special

from scorax.data_sources.source import Arrays, check_split
from scorax.utils.tables import lookup

SIZES = {"train": 20_000, "test": 2_000}
COMPONENTS, SPREAD = 8, 0.1  # of the ring, whose radius is 1
DIRECTIONS = ("E", "NE", "N", "NW", "W", "SW", "S", "SE")  # of the components, from the middle
CENTRES = np.exp(2j * np.pi * np.arange(COMPONENTS) / COMPONENTS).view(float).reshape(-1, 2)


class Gaussians(Arrays):
    """A mixture of eight Gaussians with the standard deviation `SPREAD`, around `CENTRES`."""

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Returns the logarithm of the density at x: (N, 2) -> (N,)."""
        squares = ((np.asarray(x, np.float64)[:, None] - CENTRES) ** 2).sum(-1)
        exponents = -squares / (2 * SPREAD**2) - np.log(2 * np.pi * SPREAD**2 * COMPONENTS)
        return scipy.special.logsumexp(exponents, axis=1)


class Checkerboard(Arrays):
    """Uniform on 8 of the 16 unit squares of [-2, 2] x [-2, 2]."""

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Returns the logarithm of the density at x: (N, 2) -> (N,); -inf on white squares."""
        i, j = np.floor(np.asarray(x, np.float64)).T
        black = (np.abs(x) <= 2).all(1) & ((i + j) % 2 == 0)
        return np.where(black, -np.log(8.0), -np.inf)


def _gaussians(rng: np.random.Generator, n: int) -> Arrays:
    labels = rng.integers(COMPONENTS, size=n)
    x = CENTRES[labels] + SPREAD * rng.standard_normal((n, 2))
    return Gaussians("points", x, labels, DIRECTIONS)


def _checkerboard(rng: np.random.Generator, n: int) -> Arrays:
    row, half = rng.integers(4, size=n), rng.integers(2, size=n)
    corner = np.stack([2 * half + row % 2, row], 1) - 2
    return Checkerboard("points", corner + rng.uniform(0, 1, (n, 2)))


def _moons(rng: np.random.Generator, n: int) -> Arrays:
    from sklearn.datasets import make_moons  # takes a second to import, so only where it is used

    seed = np.random.RandomState(rng.integers(2**31))
    return Arrays("points", *make_moons(n, noise=0.05, random_state=seed), ["upper", "lower"])


def _swiss_roll(rng: np.random.Generator, n: int) -> Arrays:
    from sklearn.datasets import make_swiss_roll  # as above

    seed = np.random.RandomState(rng.integers(2**31))
    x, _ = make_swiss_roll(n, noise=0.5, random_state=seed)
    return Arrays("points", x[:, [0, 2]] / 10)


def load(name: str, split: str) -> Arrays:
    """Returns 20,000 points as "train" or 2,000 others as "test", each (2,).

    Raises:
      ValueError: for an unknown name or split.
    """
    check_split(split)
    draw = lookup(POINTS, name, "points")
    return draw(np.random.default_rng([2, split == "test"]), SIZES[split])


# name -> function of the random generator and the number of points
POINTS: dict[str, Callable[[np.random.Generator, int], Arrays]] = {
    "gaussians": _gaussians,
    "checkerboard": _checkerboard,
    "moons": _moons,
    "swiss_roll": _swiss_roll,
}
