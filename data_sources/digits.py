"""The handwritten digits of scikit-learn: 1,797 grey images of 8x8 pixels, 10 classes."""

import numpy as np

from scorax.data_sources.arrays import ArraySource
from scorax.data_sources.source import check_split

TRAIN_SIZE = 1500


def load(split: str) -> ArraySource:
    """Returns the first 1,500 digits as "train" or the other 297 as "test".

    The classes alternate in the file, so that both splits hold about equally many of each class.

    Raises:
      ValueError: for an unknown split.
    """
    check_split(split)
    from sklearn.datasets import load_digits  # takes a second to import, so only where it is used

    digits = load_digits()
    part = slice(TRAIN_SIZE) if split == "train" else slice(TRAIN_SIZE, None)
    images = np.round(digits.images[part] * (255 / 16)).astype(np.uint8)  # from 0 ... 16
    return ArraySource(images, digits.target[part])
