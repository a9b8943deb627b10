"""Bits per dimension by the instantaneous change of variables along the probability flow.

Song et al. 2021, section 4.3 and appendix D.2:

    log p_0(x) = log p_T(z) + integral of div(dx/dt) dt from eps to T

with z the end of the flow (`solvers.probability_flow`) that starts at x. The divergence, the trace
of the drift's Jacobian J, is exact (one product with J for each dimension) or estimated as the mean
over probes e of e^T J e (Skilling-Hutchinson), where e has independent entries of mean 0 and
variance 1. All probes are integrated together with x and stay the same during the solve, so that
each gives an unbiased estimate of the whole integral and their spread a standard error.

Images are 8-bit. Made continuous by uniform noise, (k + u) / 256 (`dequantize`), their density
bounds the probability of the integers k from below, once it is referred to units of one grey level:
that is the `offset` of 8 bits, or 7 for data scaled to [-1, 1]. Data that are continuous of
themselves have a density only, and offset 0.
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
from scorax.utils.arrays import lookup
from scorax.utils.data_range import get_data_inverse_scaler
from scorax.utils.options import Option, OptionsOf, configured

# Above so many dimensions the exact trace is refused: it costs that many products for each step.
EXACT_DIMENSIONS = 256
# Products with the Jacobian made at the same time: more need more memory.
_PROBES_AT_ONCE = 8


class Likelihood(NamedTuple):
    """What is known of each example.

    Attributes:
      bpd: (B,) bits per dimension.
      stderr: (B,) standard error of `bpd` from the choice of probes: 0 for the exact trace, NaN for
        a single probe, which does not show it.
      z: (B, *S) latents.
      nfe: evaluations of the score for each example, () int32; each with a backward pass.
    """

    bpd: jax.Array
    stderr: jax.Array
    z: jax.Array
    nfe: jax.Array


class Mean(NamedTuple):
    """A mean over examples with its standard error, which is NaN for a single example."""

    mean: float
    stderr: float
    count: int


@dataclasses.dataclass(frozen=True)
class Estimator:
    """How the trace of the Jacobian is found.

    Attributes:
      draw: (rng, shape, n) -> probes (n, *shape).
      exact: whether the terms of all probes add up to the trace; their mean estimates it otherwise.
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
    """The drift at x, and e^T J e of its Jacobian J for each probe e.

    Args:
      drift: (t, x) -> (B, *S).
      probes: (P, B, *S).
      t: (B,).
      x: (B, *S).

    Returns:
      (B, *S), and (B, P).
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
      sde: the SDE that the score belongs to.
      estimator: a row of `ESTIMATORS`.
      n_probes: probes for each example; "exact" has as many as there are dimensions.
      eps: time at which the data are taken to be.
      offset: bits per dimension added: see the module, `data_offset`.
      rtol, atol: relative and absolute tolerance of a step.
      **integrator: the other fields of `solvers.probability_flow.Integrator`.

    Returns:
      `(rng, score_fn, data: (B, *S) in the model's range) -> Likelihood`.

    Raises:
      ValueError: for an unknown name or a parameter out of range; and from the returned function
        for the exact trace of more than `EXACT_DIMENSIONS` dimensions.
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
                f"estimator 'exact' takes {d} products for each step, and is for at most "
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
    """Standard error of the mean of (B, P) over P: (B,)."""
    n = terms.shape[1]
    if n == 1:
        return jnp.full(len(terms), 0.0 if exact else jnp.nan)
    return jnp.std(terms, axis=1, ddof=1) / math.sqrt(n)


def get_configured_likelihood_fn(
    config: ml_collections.ConfigDict, sde: SDE
) -> Callable[[jax.Array, ScoreFn, jax.Array], Likelihood]:
    """The likelihood that `config.eval.bpd_*` describes, of 8-bit images in the model's range.

    Raises:
      ValueError: as `get_likelihood_fn`.
    """
    offset = data_offset(get_data_inverse_scaler(config))
    return get_likelihood_fn(sde, offset=offset, **configured(get_likelihood_fn, config))


def data_offset(inverse_scaler: Callable[[Any], Any]) -> float:
    """Bits per dimension from a density in the model's range to one of 256 grey levels.

    Args:
      inverse_scaler: the map of the model's range into [0, 1], which is affine.
    """
    return 8 + math.log2(inverse_scaler(1.0) - inverse_scaler(0.0))


def dequantize(rng: jax.Array, images: Any) -> jax.Array:
    """Spreads 8-bit images evenly over their grey levels: (k + u) / 256, u uniform in [0, 1).

    Args:
      rng: key of the noise.
      images: k as uint8, or k / 255 as floating-point numbers (which are checked, so that they
        cannot be traced); any shape.

    Returns:
      float32 in [0, 1).

    Raises:
      ValueError: for data that are not 8-bit, which have no number of bits per dimension.
    """
    if images.dtype != np.uint8:
        levels = np.asarray(images, np.float64) * 255
        images = np.round(levels)
        if not (np.abs(levels - images).max() < 1e-3 and (images >= 0).all()
                and (images <= 255).all()):  # fmt: skip
            raise ValueError(
                "bits per dimension are defined for 8-bit images, but the data are not multiples "
                "of 1/255 in [0, 1]; set data.uniform_dequantization=False, or leave the task bpd "
                "out of eval.tasks for data that are not images"
            )
    u = jax.random.uniform(rng, images.shape)
    # 256 is a power of 2: only the addition rounds, and must not round up to the next level.
    level = jnp.asarray(images, jnp.float32)
    return jnp.minimum(level + u, jnp.nextafter(level + 1, level)) / 256


def pool(values: np.ndarray, mask: np.ndarray | None = None) -> Mean:
    """The mean over a data set of one number for each example.

    Args:
      values: (N,), or (R, N) for R repetitions with other noise; those of an example are averaged
        first, because they are not independent.
      mask: (N,), False for examples that only fill up a last batch; None: all count.

    Returns:
      The mean, its standard error over the examples, and how many there are.

    Raises:
      ValueError: if no example is left.
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
