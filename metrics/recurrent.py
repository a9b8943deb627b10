"""Two scores of generated series by small recurrent networks, which are trained here.

    discriminative   |accuracy - 1/2| of a network that is to tell generated from real series:
                     0 if it cannot, 1/2 if it always can
    predictive       mean absolute error of a network that has learnt from generated series to
                     predict the next value of real ones ("train on synthetic, test on real")

Both are defined by TimeGAN (Yoon et al. 2019, section 5), and depend on many choices. These are
TimeGAN's: series scaled to [0, 1] by the range of the real ones, one layer of gated recurrent
units, Adam with step 1e-3, batches of 128 series, a fifth of the series held out; for several
channels, the last one is predicted one step ahead from the others. With one channel, where TimeGAN
predicts nothing, its next value is predicted from its past. There are at least 8 units, where
TimeGAN has half as many as channels. Scores from other programs can be compared only with care.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

NAME = "gru-timegan"
FEWEST = 10  # smallest number of series
_BATCH, _LEAST = 128, 8  # series in a batch; smallest number of units
Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Recurrent(nn.Module):
    """Gated recurrent units, read out by a dense layer: (B, L, C) -> (B, L)."""

    units: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.RNN(nn.GRUCell(self.units), name="units")(x)
        return nn.Dense(1, name="out")(h)[..., 0]


def discriminative_score(
    real: np.ndarray, generated: np.ndarray, steps: int = 2000, seed: int = 0
) -> float:
    """How well a trained network tells generated from real series, in [0, 1/2].

    Args:
      real, generated: (N, L, C), (M, L, C); as many are used of each as of the smaller set.
      steps: training steps.
      seed: seed of the split, the initialisation and the batches.

    Raises:
      ValueError: for sets that do not fit, or fewer than 10 series.
    """
    real, generated = _scaled(real, generated)
    n = min(len(real), len(generated))
    rng = np.random.default_rng(seed)
    real, generated = (x[rng.permutation(len(x))[:n]] for x in (real, generated))
    cut = n - n // 5
    x = np.concatenate([real[:cut], generated[:cut]])
    labels = np.repeat([1.0, 0.0], cut)
    model = _model(real.shape[-1])

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = model.apply({"params": params}, x)[:, -1]
        return optax.sigmoid_binary_cross_entropy(logits, y).mean()

    params = _train(model, loss, x, labels, steps, seed)
    logit = jax.jit(lambda x: model.apply({"params": params}, x)[:, -1])
    right = [np.asarray(logit(x[cut:])) > 0 for x in (real, generated)]
    accuracy = (right[0].mean() + 1 - right[1].mean()) / 2
    return float(abs(accuracy - 0.5))


def predictive_score(
    real: np.ndarray, generated: np.ndarray, steps: int = 2000, seed: int = 0
) -> float:
    """Mean absolute error of predicting the next value of real series, in units of their range.

    Args:
      real, generated: (N, L, C), (M, L, C); the network is trained on the second.
      steps: training steps.
      seed: seed of the initialisation and the batches.

    Raises:
      ValueError: for sets that do not fit, or fewer than 10 series.
    """
    real, generated = _scaled(real, generated)
    inputs = lambda x: x[:, :-1, : max(1, x.shape[-1] - 1)]  # noqa: E731
    targets = lambda x: x[:, 1:, -1]  # noqa: E731
    model = _model(real.shape[-1])

    def predict(params: Any, x: jax.Array) -> jax.Array:
        return nn.sigmoid(model.apply({"params": params}, x))

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.abs(predict(params, x) - y).mean()

    params = _train(model, loss, inputs(generated), targets(generated), steps, seed)
    return float(jnp.abs(jax.jit(predict)(params, inputs(real)) - targets(real)).mean())


def _model(channels: int) -> Recurrent:
    return Recurrent(max(_LEAST, channels // 2))


def _scaled(real: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in float32, scaled by the range of each channel of the real series."""
    fewest = min(len(real), len(generated))
    if real.ndim != 3 or real.shape[1:] != generated.shape[1:] or fewest < FEWEST:
        raise ValueError(
            f"series of shape {real.shape} and {generated.shape} cannot be compared; give at least "
            f"{FEWEST} of each, (N, L, C), of the same length and channels"
        )
    low, high = real.min((0, 1)), real.max((0, 1))
    width = np.maximum(high - low, 1e-12)
    return tuple(((x - low) / width).astype(np.float32) for x in (real, generated))


def _train(
    model: Recurrent, loss: Loss, x: np.ndarray, y: np.ndarray, steps: int, seed: int
) -> Any:
    """The parameters after `steps` steps of Adam on random batches of x and y."""
    optimizer = optax.adam(1e-3)
    rng = jax.random.key(seed)
    params = model.init(rng, jnp.asarray(x[:1]))["params"]

    @functools.partial(jax.jit, static_argnums=3)
    def run(params: Any, x: jax.Array, y: jax.Array, steps: int) -> Any:
        def step(carry: tuple, key: jax.Array) -> tuple:
            params, state = carry
            rows = jax.random.randint(key, (min(_BATCH, len(x)),), 0, len(x))
            grads = jax.grad(loss)(params, x[rows], y[rows])
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.fold_in(rng, 1), steps)
        return lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return run(params, jnp.asarray(x), jnp.asarray(y), steps)
