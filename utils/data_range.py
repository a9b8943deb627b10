"""The one conversion between data in [0, 1] and the model's range, which `config.data` decides."""

from collections.abc import Callable
from typing import Any

import ml_collections


def get_data_scaler(config: ml_collections.ConfigDict) -> Callable[[Any], Any]:
    """Returns the map of arrays in [0, 1] into the model's range."""
    if config.data.centered:
        return lambda x: x * 2.0 - 1.0
    return lambda x: x


def get_data_inverse_scaler(config: ml_collections.ConfigDict) -> Callable[[Any], Any]:
    """Returns the map of arrays in the model's range into [0, 1]."""
    if config.data.centered:
        return lambda x: (x + 1.0) / 2.0
    return lambda x: x
