"""Paths of Ornstein-Uhlenbeck processes, each with parameters of its own, in one channel.

    dX = theta (mu - X) dt + sigma dW,   X_0 = 1,   dt = 1/252 (a day of trading, in years)

They are simulated by exact transitions, with theta, mu and sigma uniform in [0.5, 2.5], [0.5, 1.5]
and [0.1, 0.5]. Only paths that stay positive are kept, as in the DiffusionSDE project (Surat 2025),
whose ranges and numbers these are: 253 points, 10,000 paths for training and 1,000 for testing.
"""

import numpy as np

from scorax.data_sources.source import Arrays, check_split

DT = 1 / 252
RANGES = {"theta": (0.5, 2.5), "mu": (0.5, 1.5), "sigma": (0.1, 0.5)}
SIZES = {"train": 10_000, "test": 1_000}


def transition(
    theta: np.ndarray, sigma: np.ndarray, dt: float = DT
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the exact transition X' = a X + mu (1 - a) + s z: a and s."""
    a = np.exp(-theta * dt)
    return a, sigma * np.sqrt(-np.expm1(-2 * theta * dt) / (2 * theta))


def simulate(
    noise: np.ndarray,
    theta: np.ndarray,
    mu: np.ndarray,
    sigma: np.ndarray,
    dt: float = DT,
    start: float = 1.0,
) -> np.ndarray:
    """Paths (N, L) that start at `start`, from standard normal noise (N, L - 1).

    Args:
      noise: the noise of each step.
      theta, mu, sigma: parameters of each path (N,), or numbers.
      dt: time of a step.
      start: X_0.
    """
    a, s = transition(theta, sigma, dt)
    x = np.empty((len(noise), noise.shape[1] + 1))
    x[:, 0] = start
    for i, z in enumerate(noise.T):
        x[:, i + 1] = a * x[:, i] + mu * (1 - a) + s * z
    return x


def draw_parameters(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws theta, mu and sigma of n paths: (3, n)."""
    return np.stack([rng.uniform(low, high, n) for low, high in RANGES.values()])


def load(split: str, length: int) -> Arrays:
    """Returns the paths of a split, each (length, 1).

    Raises:
      ValueError: for an unknown split, or less than two points.
    """
    check_split(split)
    if length < 2:
        raise ValueError(
            f"data.length={length}: a path has at least 2 points; configs/edm/ou.py has 253"
        )
    size = SIZES[split]
    rng = np.random.default_rng([252, split == "test"])
    kept, found = [], 0
    while found < size:
        parameters = draw_parameters(rng, size)
        paths = simulate(rng.standard_normal((size, length - 1)), *parameters)
        kept.append(paths[(paths > 0).all(1)])
        found += len(kept[-1])
    return Arrays("series", np.concatenate(kept)[:size, :, None])
