"""Toy fields: velocities of a few plane waves that travel over a torus.

The stream function is a sum of four waves with random directions, phases and speeds, so that the
velocities (u, v) along the axes H and W have no divergence. They serve to try things out without
data of one's own.
"""

import numpy as np

from scorax.data_sources.source import Arrays, check_split

SIZES = {"train": 500, "test": 100}
WAVES = 4


def load(split: str, length: int, height: int, width: int) -> Arrays:
    """Returns the fields of a split, each (length, height, width, 2), with values of about 1.

    Raises:
      ValueError: for an unknown split, or a length that is not positive.
    """
    check_split(split)
    if length < 1:
        raise ValueError(f"data.length={length} must be positive")
    rng = np.random.default_rng([128, split == "test"])
    n = SIZES[split]
    k = rng.integers(1, 3, (n, WAVES, 2)) * rng.choice([-1, 1], (n, WAVES, 2))
    phase, speed = rng.uniform(0, 2 * np.pi, (n, WAVES)), rng.uniform(-0.5, 0.5, (n, WAVES))
    x, y = (2 * np.pi * np.arange(size) / size for size in (height, width))
    fields = np.zeros((n, length, height, width, 2), np.float32)
    for w in range(WAVES):
        a = k[:, w, 0, None, None, None] * x[:, None] + k[:, w, 1, None, None, None] * y
        time = phase[:, w, None] + speed[:, w, None] * np.arange(length)
        slope = (
            np.cos(a + time[:, :, None, None])
            / np.linalg.norm(k[:, w], axis=-1)[:, None, None, None]
        )
        # u = d psi / d y, v = - d psi / d x, with psi = sin(a + time) / |k|
        fields[..., 0] += k[:, w, 1, None, None, None] * slope
        fields[..., 1] -= k[:, w, 0, None, None, None] * slope
    return Arrays("fields", fields)
