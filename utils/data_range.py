"""Conversion between data in [0, 1] and the model's range, according to `config.data.centered`."""

from collections.abc import Callable
from typing import Any

import ml_collections


def get_data_scaler(config: ml_collections.ConfigDict) -> Callable[[Any], Any]:
    """Returns the function that maps arrays from [0, 1] to the model's range."""
    if config.data.centered:
        return lambda x: x * 2.0 - 1.0
    return lambda x: x


def get_data_inverse_scaler(config: ml_collections.ConfigDict) -> Callable[[Any], Any]:
    """Returns the function that maps arrays from the model's range to [0, 1]."""
    if config.data.centered:
        return lambda x: (x + 1.0) / 2.0
    return lambda x: x
