"""Guiding a score towards a class, with a classifier or with a class-conditional score network.

    s(x_t) + w grad log p(y | x_t)            classifier guidance: Song et al. 2021, eq. 14
                                              (w = 1), and Dhariwal & Nichol 2021
    s(x_t) + w (s(x_t | y) - s(x_t))          classifier-free guidance

With exact scores the two are the same by Bayes' rule: w = 0 gives the unconditional score, w = 1
the score given the class, and w > 1 emphasises the class more than the data do. Ho & Salimans 2022
(arXiv 2207.12598, eq. 6) count from the conditional score: their weight is w - 1.

A classifier here always classifies noisy images: it maps x_0 plus noise of standard deviation
sigma, x: (B, *S) and sigma: (B,), to logits (B, K). It is called with x_t / mu and sigma / mu, so
one classifier serves every SDE: x_t = mu x_0 + sigma z and x_0 + (sigma / mu) z carry the same
information about the class. For VE SDEs, where mu = 1, the arguments are x_t and the marginal
standard deviation, as in score_sde.

The weight w is a function of the noise-to-signal ratio sigma / mu, a row of `WEIGHTS`. Each sample
is treated on its own, so a batch may mix classes and times.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax.sde_lib import SDE, ScoreFn
from scorax.utils.arrays import batch_mul
from scorax.utils.options import Option, configured
from scorax.utils.tables import lookup

ClassifierFn = Callable[[jax.Array, jax.Array], jax.Array]
WeightFn = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same weight at every noise level: sigma (B,) -> (B,)."""

    weight: Annotated[float, Option("guidance.weight")] = 1.0

    def __call__(self, sigma: jax.Array) -> jax.Array:
        return jnp.full_like(sigma, self.weight)


@dataclasses.dataclass(frozen=True)
class Linear:
    """A weight that is linear in sigma between sigma_min and sigma_max.

    It is `weight` up to sigma_min, and `weight_beyond` from sigma_max on. Both published schedules
    for AFHQ are of this kind: from 500 at 0.01 to 400 at 374, and from 1 at 50 to 0.01 at 374.
    """

    weight: Annotated[float, Option("guidance.weight")] = 1.0
    weight_beyond: Annotated[float, Option("guidance.weight_beyond")] = 0.0
    sigma_min: Annotated[float, Option("guidance.sigma_min")] = 0.0
    sigma_max: Annotated[float, Option("guidance.sigma_max", unset=0.0)] = math.inf

    def __post_init__(self) -> None:
        _check_interval(self.sigma_min, self.sigma_max)
        if math.isinf(self.sigma_max):
            raise ValueError(
                "guidance.sigma_max=inf of a linear weight must be finite; set it to the noise "
                "level at which guidance.weight_beyond is reached, such as model.sigma_max"
            )

    def __call__(self, sigma: jax.Array) -> jax.Array:
        levels, weights = (self.sigma_min, self.sigma_max), (self.weight, self.weight_beyond)
        return jnp.interp(
            sigma, jnp.asarray(levels, sigma.dtype), jnp.asarray(weights, sigma.dtype)
        )


@dataclasses.dataclass(frozen=True)
class Interval:
    """`weight` for sigma_min <= sigma <= sigma_max, and `weight_beyond` elsewhere.

    With `weight_beyond` 0 there is no classifier guidance outside the interval. With 1 and
    classifier-free guidance this is the limited interval of Kynkäänniemi et al. 2024 (arXiv
    2404.07724).
    """

    weight: Annotated[float, Option("guidance.weight")] = 1.0
    weight_beyond: Annotated[float, Option("guidance.weight_beyond")] = 0.0
    sigma_min: Annotated[float, Option("guidance.sigma_min")] = 0.0
    sigma_max: Annotated[float, Option("guidance.sigma_max", unset=0.0)] = math.inf

    def __post_init__(self) -> None:
        _check_interval(self.sigma_min, self.sigma_max)

    def __call__(self, sigma: jax.Array) -> jax.Array:
        within = (sigma >= self.sigma_min) & (sigma <= self.sigma_max)
        return jnp.where(within, self.weight, self.weight_beyond)


def _check_interval(sigma_min: float, sigma_max: float) -> None:
    if not 0 <= sigma_min < sigma_max:
        raise ValueError(
            f"guidance.sigma_min={sigma_min} and guidance.sigma_max={sigma_max} must satisfy "
            "0 <= guidance.sigma_min < guidance.sigma_max"
        )


def get_weight_fn(config: ml_collections.ConfigDict) -> WeightFn:
    """The weight described by `config.guidance`, as a function of sigma / mu: (B,) -> (B,).

    Raises:
      ValueError: for an unknown schedule or an empty interval.
    """
    row = lookup(WEIGHTS, config.guidance.schedule, "weight (guidance.schedule)")
    return row(**configured(row, config))


def classifier_guidance(
    score_fn: ScoreFn,
    classifier_fn: ClassifierFn,
    sde: SDE,
    labels: jax.Array | np.ndarray,
    weight: WeightFn = Constant(),
    sigma_range: tuple[float, float] = (0.0, math.inf),
) -> ScoreFn:
    """The score given the classes of the samples, according to a classifier.

    Each evaluation costs one evaluation of the score, and a forward and a backward pass of the
    classifier.

    Args:
      score_fn: the score of x_t.
      classifier_fn: the classifier; see the module docstring.
      sde: the SDE of the score.
      labels: (B,) integers, the class of each sample.
      weight: factor of the classifier's gradient.
      sigma_range: range of noise levels known to the classifier. For levels outside this range the
        classifier is called with the nearest known level and with x unchanged.

    Returns:
      x: (B, *S), t: (B,) -> (B, *S).

    Raises:
      ValueError: for an empty range; when the guided score is traced, unless `labels` holds one of
        the classifier's classes for each sample.
    """
    _check_range(sigma_range)

    def guided(x: jax.Array, t: jax.Array) -> jax.Array:
        mu, sigma = sde.marginal_coeffs(t)

        def log_prob(x: jax.Array) -> jax.Array:
            logits = classifier_fn(batch_mul(1 / mu, x), jnp.clip(sigma / mu, *sigma_range))
            check_labels(labels, len(x), logits.shape[-1])
            chosen = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
            return jnp.sum(chosen * jax.nn.log_softmax(logits))  # examples do not interact

        return score_fn(x, t) + batch_mul(weight(sigma / mu), jax.grad(log_prob)(x))

    return guided


def _check_range(sigma_range: tuple[float, float]) -> None:
    low, high = sigma_range
    if not 0 <= low < high:
        raise ValueError(
            f"sigma_range={tuple(sigma_range)} of a classifier must be its smallest and its "
            "largest noise level, the first below the second"
        )


def change_range(classifier_fn: ClassifierFn, scale: float, offset: float) -> ClassifierFn:
    """Turns a classifier that was trained on the data `scale * u + offset` into one for data u."""
    return lambda x, sigma: classifier_fn(scale * x + offset, scale * sigma)


def classifier_free_guidance(
    score_of: Callable[[jax.Array], ScoreFn],
    sde: SDE,
    labels: jax.Array | np.ndarray,
    num_classes: int,
    weight: WeightFn = Constant(),
) -> ScoreFn:
    """The score given the classes of the samples, by a network trained with label dropout.

    Each evaluation is one evaluation of the network on a batch of twice the size.

    Args:
      score_of: labels (2 B,), where num_classes means no class -> the score given these labels;
        such as `Experiment.score_fn` with its parameters.
      sde: the SDE of the score.
      labels: (B,) integers, the class of each sample.
      num_classes: number of classes of the network.
      weight: factor of the difference between the conditional and the unconditional score.

    Returns:
      x: (B, *S), t: (B,) -> (B, *S).

    Raises:
      ValueError: when the guided score is traced, unless `labels` holds one of the classes for each
        sample.
    """

    def guided(x: jax.Array, t: jax.Array) -> jax.Array:
        check_labels(labels, len(x), num_classes)
        # Each sample is next to its copy, so that a batch split over devices does not move.
        pairs = jnp.stack([jnp.asarray(labels), jnp.full(len(x), num_classes)], 1)
        scores = score_of(pairs.ravel())(jnp.repeat(x, 2, 0), jnp.repeat(t, 2))
        conditional, unconditional = jnp.moveaxis(scores.reshape(len(x), 2, *x.shape[1:]), 1, 0)
        mu, sigma = sde.marginal_coeffs(t)
        return unconditional + batch_mul(weight(sigma / mu), conditional - unconditional)

    return guided


def check_labels(labels: jax.Array | np.ndarray, size: int, num_classes: int) -> None:
    """Raises ValueError unless labels holds a class in 0 ... num_classes - 1 for each sample.

    The values of traced labels, arguments of a compiled function, are unknown and not checked.
    """
    if labels.shape != (size,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels of shape {labels.shape} and type {labels.dtype} must be one integer for each "
            f"of {size} samples"
        )
    if isinstance(labels, jax.core.Tracer):
        return
    labels = np.asarray(labels)
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise ValueError(
            f"the label {wrong[0]} does not lie in 0 ... {num_classes - 1}: there are "
            f"{num_classes} classes"
        )


WEIGHTS = {"constant": Constant, "linear": Linear, "interval": Interval}
