"""Conversion between data as they are and the model's range: the only one there is.

Images are in [0, 1], and the model's range is the same or, with `config.data.centered`, [-1, 1].
Other data are in units of their own. They are standardised, (x - mean) / scale, with statistics of
the training data that are kept in the config of a run (`data.mean`, `data.scale`), and series may
be embedded as images (utils/embeddings.py). The model's range then has the standard deviation
`model.sigma_data`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax.utils.arrays import align
from scorax.utils.embeddings import get_embedding, get_padding, min_max
from scorax.utils.shapes import example_shape, model_shape

Converter = Callable[[Any], Any]


def get_data_scaler(config: ml_collections.ConfigDict) -> Converter:
    """Returns the function that maps data to the model's range.

    Images are mapped from [0, 1], in arrays of any shape; other data are arrays (..., *S) with the
    shape S of an example, and become arrays of the shape that the network sees.
    """
    if config.data.kind == "images":
        if config.data.centered:
            return lambda x: x * 2.0 - 1.0
        return lambda x: x
    embedding, padding = get_embedding(config), get_padding(config)
    mean, scale = _get_statistics(config)

    def to_model(x: Any) -> Any:
        x = (x if embedding is None else embedding.to_image(x)).astype(np.float32)
        x = (x - align(mean, x)) / align(scale, x)
        if padding is None:
            return x
        empty = align(padding, x)
        return (jnp if isinstance(x, jax.Array) else np).where(empty, np.float32(0), x)

    return to_model


def get_data_inverse_scaler(config: ml_collections.ConfigDict) -> Converter:
    """Returns the inverse of `get_data_scaler`; points that an image holds twice are averaged."""
    if config.data.kind == "images":
        if config.data.centered:
            return lambda x: (x + 1.0) / 2.0
        return lambda x: x
    embedding = get_embedding(config)
    mean, scale = _get_statistics(config)

    def to_data(x: Any) -> Any:
        x = x * align(scale, x) + align(mean, x)
        return x if embedding is None else embedding.from_image(x)

    return to_data


def compute_statistics(
    config: ml_collections.ConfigDict, examples: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The values of `data.mean` and `data.scale` for training data that are not images.

    There is one number for each channel. For the Fourier transform, there is one for each entry of
    an image, and the range of an entry becomes [-1, 1].

    Args:
      config: the config.
      examples: (N, *S).

    Raises:
      ValueError: for a channel that is constant.
    """
    embedding = get_embedding(config)
    x = examples.astype(np.float64)
    axes = tuple(range(x.ndim - 1))
    mean, spread = x.mean(axes), x.std(axes)
    # Rounding leaves a constant channel a tiny spread.
    for k in np.flatnonzero(~(spread > 1e-6 * np.abs(x).max(axes))):
        names = config.data.columns
        name = names[k] if k < len(names) else k
        raise ValueError(
            f"channel {name} of data.dataset={config.data.dataset!r} is constant, "
            f"{x[..., k].flat[0]:g}, and there is nothing to learn about it; leave it out "
            "(data.columns)"
        )
    scale = spread / config.model.sigma_data
    if embedding is not None and embedding.of_each:
        mean, scale = min_max(embedding.to_image(examples))
        rows, columns = embedding.of_each
        mean, scale = mean[:rows, :columns], scale[:rows, :columns]
    return tuple(map(tuple_of_floats, (mean, scale)))


def tuple_of_floats(x: np.ndarray) -> tuple[float, ...]:
    """The numbers of an array in float32 precision, as a config holds them."""
    return tuple(np.asarray(x, np.float32).reshape(-1).tolist())


def _get_statistics(config: ml_collections.ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale, which broadcast against what the network sees; 0 and 1 if they are not set.

    Raises:
      ValueError: for the wrong number of statistics, or a scale that is not positive.
    """
    embedding, channels = get_embedding(config), example_shape(config)[-1]
    shape, filling = (channels,), []
    if embedding is not None and embedding.of_each:
        shape = (*embedding.of_each, model_shape(config)[-1])
        filling = [(0, a - b) for a, b in zip(embedding.shape, embedding.of_each, strict=True)]
        filling.append((0, 0))
    found = []
    for key, default in (("mean", 0), ("scale", 1)):
        x = np.array(config.data[key] or np.full(shape, default), np.float32).reshape(-1)
        if x.size != np.prod(shape):
            raise ValueError(
                f"data.{key} has {x.size} numbers, but {np.prod(shape)} are needed, one for each "
                f"{'entry of an image' if filling else 'channel'}; leave it empty to compute them"
            )
        found.append(np.pad(x.reshape(shape), filling, constant_values=default) if filling else
                     x.reshape(shape))  # fmt: skip
    if not (found[1] > 0).all():
        raise ValueError("data.scale must be positive; leave it empty to compute it")
    return found[0], found[1]


def log_scale(config: ml_collections.ConfigDict) -> float:
    """The sum over an example, without padding, of log(d data / d model's range), in nats.

    A density in the model's range, divided by its exponential, is one in the units of the data.
    """
    shape, padding = model_shape(config), get_padding(config)
    if config.data.kind == "images":
        return float(np.prod(shape) * np.log(0.5 if config.data.centered else 1.0))
    each = np.broadcast_to(np.log(_get_statistics(config)[1].astype(np.float64)), shape)
    return float(each.sum() if padding is None else (each * ~padding).sum())
