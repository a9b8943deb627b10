"""Bits per dimension by the instantaneous change of variables along the probability flow.

Song et al. 2021, section 4.3 and appendix D.2:

    log p_0(x) = log p_T(z) + integral of div(dx/dt) dt from eps to T

where z is the end of the flow (`solvers.probability_flow`) that starts at x. The divergence is the
trace of the drift's Jacobian J. It is computed exactly (one product with J for each dimension) or
estimated as the mean over probes e of e^T J e (Skilling-Hutchinson), where e has independent
entries of mean 0 and variance 1. All probes are integrated together with x and stay fixed during
the solve. Each probe therefore gives an unbiased estimate of the whole integral, and the spread of
the estimates gives a standard error.

Pixels have levels, 256 unless they have more than 8 bits. `dequantize` makes them continuous by
uniform noise, (k + u) / 256. The density of the result, in units of one level, bounds the
probability of the integers k from below. The `offset` converts to these units: it is 8 bits, or 7
for data scaled to [-1, 1]. Data that were continuous from the start only have a density, in nats
and in the units of the data (`get_configured_density_fn`).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax.sde_lib import SDE, ScoreFn
from scorax.solvers.probability_flow import Field, Integrator, get_drift
from scorax.utils.data_range import get_data_inverse_scaler, log_scale
from scorax.utils.embeddings import get_padding
from scorax.utils.options import Option, OptionsOf, configured
from scorax.utils.shapes import model_shape
from scorax.utils.tables import lookup

# The exact trace costs one product per dimension and step, and is refused for more dimensions.
EXACT_DIMENSIONS = 256
# Number of products with the Jacobian computed at a time: more would need more memory.
_PROBES_AT_ONCE = 8


class Likelihood(NamedTuple):
    """The likelihood of each example, and how it was computed.

    Attributes:
      bpd: (B,) bits per dimension.
      stderr: (B,) standard error of `bpd` due to the choice of probes: 0 for the exact trace, NaN
        for a single probe, from which it cannot be estimated.
      z: (B, *S) latents.
      nfe: evaluations of the score for each example, () int32; each includes a backward pass.
    """

    bpd: jax.Array
    stderr: jax.Array
    z: jax.Array
    nfe: jax.Array


class Density(NamedTuple):
    """The density of each example, and how it was computed.

    Attributes:
      nats_per_dim: (B,) negative logarithm of the density, divided by the number of dimensions.
      stderr: (B,) standard error of it due to the choice of probes, see `Likelihood`.
      nfe: evaluations of the score for each example, () int32.
    """

    nats_per_dim: jax.Array
    stderr: jax.Array
    nfe: jax.Array


class Mean(NamedTuple):
    """A mean over examples, its standard error (NaN for a single example), and their number."""

    mean: float
    stderr: float
    count: int


@dataclasses.dataclass(frozen=True)
class Estimator:
    """How the trace of the Jacobian is computed from the terms e^T J e of probes e.

    Attributes:
      draw: (rng, shape, n) -> probes (n, *shape).
      exact: True if the sum of the terms is the trace, False if their mean estimates the trace.
    """

    draw: Callable[[jax.Array, tuple[int, ...], int], jax.Array]
    exact: bool = False


def _rademacher(rng: jax.Array, shape: tuple[int, ...], n: int) -> jax.Array:
    return jax.random.rademacher(rng, (n, *shape), float)


def _gaussian(rng: jax.Array, shape: tuple[int, ...], n: int) -> jax.Array:
    return jax.random.normal(rng, (n, *shape))


def _unit_vectors(rng: jax.Array, shape: tuple[int, ...], n: int) -> jax.Array:
    d = math.prod(shape[1:])
    return jnp.broadcast_to(jnp.eye(d).reshape(d, 1, *shape[1:]), (d, *shape))


def divergence_terms(
    drift: Field, probes: jax.Array, t: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The drift at x, and e^T J e for each probe e, where J is the drift's Jacobian.

    Args:
      drift: (t, x) -> (B, *S).
      probes: (P, B, *S).
      t: (B,).
      x: (B, *S).

    Returns:
      The drift (B, *S) and the terms (B, P).
    """
    dx, vjp = jax.vjp(lambda x: drift(t, x), x)

    def term(e: jax.Array) -> jax.Array:
        return jnp.sum(e * vjp(e)[0], axis=tuple(range(1, e.ndim)))

    return dx, jax.lax.map(term, probes, batch_size=min(len(probes), _PROBES_AT_ONCE)).T


def get_likelihood_fn(
    sde: SDE,
    *,
    estimator: Annotated[str, Option("eval.bpd_estimator")] = "rademacher",
    n_probes: Annotated[int, Option("eval.bpd_probes")] = 1,
    eps: Annotated[float, Option("eval.bpd_eps")] = 1e-5,
    offset: float = 0.0,
    rtol: Annotated[float, Option("eval.bpd_rtol")] = 1e-5,
    atol: Annotated[float, Option("eval.bpd_atol")] = 1e-5,
    **integrator: Annotated[Any, OptionsOf(Integrator)],
) -> Callable[[jax.Array, ScoreFn, jax.Array], Likelihood]:
    """Bits per dimension of data under the probability flow (Song et al. 2021, appendix D.2).

    Args:
      sde: the SDE of the score.
      estimator: a row of `ESTIMATORS`.
      n_probes: number of probes for each example; "exact" always uses one per dimension.
      eps: time assigned to the data.
      offset: bits per dimension to add; see the module docstring and `data_offset`.
      rtol, atol: relative and absolute tolerance of a step.
      **integrator: the other fields of `solvers.probability_flow.Integrator`.

    Returns:
      `(rng, score_fn, data: (B, *S) in the model's range) -> Likelihood`.

    Raises:
      ValueError: for an unknown name or a parameter out of range. The returned function raises it
        for the exact trace in more than `EXACT_DIMENSIONS` dimensions.
    """
    trace = lookup(ESTIMATORS, estimator, "estimator (eval.bpd_estimator)")
    if n_probes < 1:
        raise ValueError(f"n_probes={n_probes} (eval.bpd_probes) must be at least 1")
    if not 0 < eps < sde.T:
        raise ValueError(f"eps={eps} (eval.bpd_eps) must lie between 0 and {sde.T}")
    integrate = Integrator(rtol=rtol, atol=atol, **integrator)

    def likelihood_fn(rng: jax.Array, score_fn: ScoreFn, data: jax.Array) -> Likelihood:
        d = math.prod(data.shape[1:])
        if trace.exact and d > EXACT_DIMENSIONS:
            raise ValueError(
                f"estimator 'exact' would take {d} products for each step, and works for at most "
                f"{EXACT_DIMENSIONS} dimensions; set eval.bpd_estimator='rademacher'"
            )
        drift = get_drift(sde, score_fn)
        probes = trace.draw(rng, data.shape, n_probes).astype(data.dtype)

        def field(t: jax.Array, y: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return divergence_terms(drift, probes, t, y[0])

        terms = jnp.zeros((len(data), len(probes)), data.dtype)
        (z, terms), nfe = integrate(field, (data, terms), eps, sde.T)
        if trace.exact:
            terms = jnp.sum(terms, axis=1, keepdims=True)
        to_bits = -1 / (d * math.log(2))
        bpd = to_bits * (sde.prior_logp(z) + jnp.mean(terms, axis=1)) + offset
        return Likelihood(bpd, -to_bits * _stderr(terms, trace.exact), z, nfe)

    return likelihood_fn


def _stderr(terms: jax.Array, exact: bool) -> jax.Array:
    """Standard error (B,) of the mean of the terms (B, P) over the probes."""
    n = terms.shape[1]
    if n == 1:
        return jnp.full(len(terms), 0.0 if exact else jnp.nan)
    return jnp.std(terms, axis=1, ddof=1) / math.sqrt(n)


def get_configured_likelihood_fn(
    config: ml_collections.ConfigDict, sde: SDE, levels: int = 256
) -> Callable[[jax.Array, ScoreFn, jax.Array], Likelihood]:
    """The likelihood that `config.eval.bpd_*` describes, for pixels with so many levels.

    Raises:
      ValueError: see `get_likelihood_fn`.
    """
    offset = data_offset(get_data_inverse_scaler(config), levels)
    return get_likelihood_fn(sde, offset=offset, **configured(get_likelihood_fn, config))


def get_configured_density_fn(
    config: ml_collections.ConfigDict, sde: SDE
) -> Callable[[jax.Array, ScoreFn, jax.Array], Density]:
    """The density of continuous data that `config.eval.bpd_*` describes, in units of the data.

    Padding is no dimension of the data. It is always 0, so at the time `eps` its density is
    N(0; 0, sigma(eps)^2), and this factor is removed.

    Returns:
      `(rng, score_fn, data: (B, *S) in the model's range) -> Density`.

    Raises:
      ValueError: see `get_likelihood_fn`.
    """
    likelihood_fn = get_likelihood_fn(sde, **configured(get_likelihood_fn, config))
    padding, shape, per_data = get_padding(config), model_shape(config), log_scale(config)
    empty = 0 if padding is None else int(np.broadcast_to(padding, shape).sum())
    dimensions = math.prod(shape) - empty

    def density_fn(rng: jax.Array, score_fn: ScoreFn, data: jax.Array) -> Density:
        found = likelihood_fn(rng, score_fn, data)
        to_nats = math.prod(shape) * math.log(2)
        _, sigma = sde.marginal_coeffs(jnp.asarray(config.eval.bpd_eps, data.dtype))
        of_padding = empty * jnp.log(math.sqrt(2 * math.pi) * sigma)
        nats = (to_nats * found.bpd - of_padding + per_data) / dimensions
        return Density(nats, found.stderr * to_nats / dimensions, found.nfe)

    return density_fn


def data_offset(inverse_scaler: Callable[[Any], Any], levels: int = 256) -> float:
    """Bits per dimension that convert a density in the model's range to one per level of a pixel.

    Args:
      inverse_scaler: the affine map from the model's range to [0, 1].
      levels: number of values that a pixel can have.
    """
    return math.log2(levels) + math.log2(inverse_scaler(1.0) - inverse_scaler(0.0))


def dequantize(rng: jax.Array, images: Any, levels: int = 256) -> jax.Array:
    """Spreads images evenly over the levels of their pixels: (k + u) / 256, u uniform in [0, 1).

    Args:
      rng: key of the noise.
      images: k as uint8, or k / 255 as floating-point numbers, of any shape. Floating-point numbers
        are checked, so they must not be traced.
      levels: number of levels, which takes the place of 256, and one less of 255.

    Returns:
      float32 in [0, 1).

    Raises:
      ValueError: for data without levels, for which bits per dimension are not defined.
    """
    if images.dtype != np.uint8:
        scaled = np.asarray(images, np.float64) * (levels - 1)
        images = np.round(scaled)
        near = levels * 4e-6  # 1e-3 of 8 bits
        if not (np.abs(scaled - images).max() < near and (images >= 0).all()
                and (images < levels).all()):  # fmt: skip
            raise ValueError(
                "bits per dimension are defined for images with levels, such as 8-bit images, but "
                f"the data are not multiples of 1/{levels - 1} in [0, 1]; set "
                "data.uniform_dequantization=False, or leave the task bpd out of eval.tasks for "
                "data that are not images"
            )
    u = jax.random.uniform(rng, images.shape)
    # The addition must not round up to the next level.
    level = jnp.asarray(images, jnp.float32)
    return jnp.minimum(level + u, jnp.nextafter(level + 1, level)) / levels


def pool(values: np.ndarray, mask: np.ndarray | None = None) -> Mean:
    """Averages one number per example over a data set.

    Args:
      values: (N,), or (R, N) for R repetitions with different noise. The repetitions of an example
        are averaged first, because they are not independent.
      mask: (N,), False for examples that only pad the last batch; None if all examples count.

    Returns:
      The mean, its standard error over the examples, and the number of examples.

    Raises:
      ValueError: if there are no examples.
    """
    values = np.asarray(values, np.float64)
    values = values.reshape(-1, values.shape[-1]).mean(0)
    values = values if mask is None else values[np.asarray(mask, bool)]
    n = len(values)
    if n == 0:
        raise ValueError("there is no example to average over; evaluate at least one")
    stderr = values.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return Mean(float(values.mean()), float(stderr), n)


ESTIMATORS = {
    "rademacher": Estimator(_rademacher),
    "gaussian": Estimator(_gaussian),
    "exact": Estimator(_unit_vectors, exact=True),
}
