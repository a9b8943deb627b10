"""Sines with random frequencies and phases, the toy series of TimeGAN (Yoon et al. 2019).

Channel k of a series is (sin(f_k j + p_k) + 1) / 2 at the points j = 0, 1, ..., with frequency f_k
and phase p_k uniform in [0, 0.1]. TimeGAN's series have 24 points, less than half a period, and 5
channels.
"""

import numpy as np

from scorax.data_sources.source import Arrays, check_split

SIZES = {"train": 10_000, "test": 1_000}


def load(split: str, length: int, channels: int) -> Arrays:
    """Returns the series of a split, each (length, channels), in [0, 1].

    Raises:
      ValueError: for an unknown split, or a length that is not positive.
    """
    check_split(split)
    if length < 1:
        raise ValueError(
            f"data.length={length} must be positive; configs/edm/series.py has 24 points"
        )
    rng = np.random.default_rng([24, split == "test"])
    frequency, phase = rng.uniform(0, 0.1, (2, SIZES[split], 1, channels))
    points = np.arange(length)[:, None]
    return Arrays("series", (np.sin(frequency * points + phase) + 1) / 2)
