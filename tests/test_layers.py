"""The layers that no reference network tests by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorax.models.layers import Dropout


def drop(rate, shape, train=True, seed=0, dtype=jnp.float32):
    rngs = {"dropout": jax.random.key(seed)}
    return Dropout(rate).apply({}, jnp.ones(shape, dtype), train, rngs=rngs)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("channels", [8, 7])
def test_dropout_drops_the_rate_and_keeps_the_mean(rate, channels):
    y = np.asarray(drop(rate, (50, 40, 40, channels)))
    spread = (rate * (1 - rate) / y.size) ** 0.5  # of the share that is dropped
    assert abs((y == 0).mean() - rate) < 4 * spread
    assert abs(y.mean() - 1) < 4 * spread / (1 - rate)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-2)  # of 2^-16 at most


def test_dropout_of_neighbours_is_independent():
    """Two elements share one random word: neither half tells of the other."""
    x = np.asarray(drop(0.3, (200, 200, 2)) == 0, np.float64)
    other = np.asarray(drop(0.3, (200, 200, 2), seed=1) == 0, np.float64)
    pairs = [(x[..., 0], x[..., 1]), (x[:, 1:, 0], x[:, :-1, 1]), (x[..., 0], other[..., 0])]
    for a, b in pairs:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / a.size**0.5


def test_dropout_is_off_outside_training():
    assert np.all(drop(0.5, (4, 3), train=False) == 1)
    assert np.all(drop(0.0, (4, 3)) == 1)
    assert drop(0.5, (4, 3), dtype=jnp.bfloat16).dtype == jnp.bfloat16
