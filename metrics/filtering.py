"""Exact and Monte Carlo posteriors of chains, with which inferred trajectories are compared.

`kalman_smoother` is exact for linear chains. `particle_filter` converges to the posterior of any
chain with many particles. `weak_4d_var` finds a most probable trajectory. All of them take a path
(L, D) in the units of the chain; observations of some of its states come in the order of time.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from scorax.data_sources.dynamics import Chain

# States (N, D) and an observation -> log likelihood (N,), but for a constant
LogLikelihood = Callable[[jax.Array, jax.Array], jax.Array]


class LinearChain(NamedTuple):
    """x_1 ~ N(mean, covariance), x_{i+1} ~ N(matrix x_i + offset, noise), y_i ~ N(h x_i, r).

    Attributes:
      mean, covariance: (D,) and (D, D).
      matrix, offset, noise: (D, D), (D,) and (D, D).
      h, r: (M, D) and (M, M).
    """

    mean: np.ndarray
    covariance: np.ndarray
    matrix: np.ndarray
    offset: np.ndarray
    noise: np.ndarray
    h: np.ndarray
    r: np.ndarray


class Gaussians(NamedTuple):
    """Means (L, D) and covariances (L, D, D) of states, and the log evidence of y."""

    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float


def kalman_filter(chain: LinearChain, y: np.ndarray) -> Gaussians:
    """The distribution of each state given the observations up to it (Kalman 1960), in float64.

    Args:
      chain: the chain.
      y: (L, M); a row of NaN for a state that is not observed.
    """
    mean, cov = np.asarray(chain.mean, np.float64), np.asarray(chain.covariance, np.float64)
    means, covs, evidence = [], [], 0.0
    for i, seen in enumerate(np.asarray(y, np.float64)):
        if i:
            mean = chain.matrix @ mean + chain.offset
            cov = chain.matrix @ cov @ chain.matrix.T + chain.noise
        if not np.isnan(seen).any():
            residual = seen - chain.h @ mean
            spread = chain.h @ cov @ chain.h.T + chain.r
            gain = np.linalg.solve(spread, chain.h @ cov).T
            evidence -= residual @ np.linalg.solve(spread, residual) / 2
            evidence -= np.linalg.slogdet(2 * np.pi * spread)[1] / 2
            mean, cov = mean + gain @ residual, cov - gain @ chain.h @ cov
        means.append(mean)
        covs.append(cov)
    return Gaussians(np.stack(means), np.stack(covs), float(evidence))


def kalman_smoother(chain: LinearChain, y: np.ndarray) -> Gaussians:
    """The distribution of each state given all observations (Rauch, Tung & Striebel 1965).

    Args:
      chain: the chain.
      y: see `kalman_filter`.
    """
    filtered = kalman_filter(chain, y)
    means, covs = filtered.mean.copy(), filtered.covariance.copy()
    for i in reversed(range(len(means) - 1)):
        ahead = chain.matrix @ covs[i] @ chain.matrix.T + chain.noise
        gain = np.linalg.solve(ahead, chain.matrix @ covs[i]).T
        means[i] += gain @ (means[i + 1] - chain.matrix @ means[i] - chain.offset)
        covs[i] += gain @ (covs[i + 1] - ahead) @ gain.T
    return Gaussians(means, covs, filtered.log_evidence)


def particle_filter(
    rng: jax.Array,
    chain: Chain,
    log_likelihood: LogLikelihood,
    y: jax.Array,
    observed: np.ndarray,
    particles: int,
    first: jax.Array | None = None,
) -> jax.Array:
    """Draws trajectories given observations, by a bootstrap particle filter (Gordon et al. 1993).

    Trajectories are the ancestral lines of the particles that survive to the end, so states long
    before the end descend from few different ones. Resampling is systematic (Kitagawa 1996).

    Args:
      rng: key.
      chain: the chain.
      log_likelihood: of one observation.
      y: (K, *Y), observations of K states.
      observed: bool (L,), which of the states they are; K of them.
      particles: P, their number.
      first: particles (P, D) for the first state; None to draw them from the chain's distribution.

    Returns:
      (P, L, D), equally weighted.
    """
    first_rng, loop_rng = jax.random.split(rng)
    x = chain.first(first_rng, particles) if first is None else first
    index = jnp.asarray(np.maximum(np.cumsum(observed) - 1, 0))

    def advance(x: jax.Array, given: tuple) -> tuple[jax.Array, tuple]:
        key, i, k, seen = given
        step_rng, resample_rng = jax.random.split(key)
        x = jnp.where(i == 0, x, chain.step(step_rng, x))
        log_w = jnp.where(seen, log_likelihood(x, y[k]), 0.0)
        total = jnp.cumsum(jax.nn.softmax(log_w))
        marks = (jnp.arange(particles) + jax.random.uniform(resample_rng)) / particles
        chosen = jnp.clip(jnp.searchsorted(total, marks * total[-1]), 0, particles - 1)
        chosen = jnp.where(seen, chosen, jnp.arange(particles))
        return x[chosen], (x, chosen)

    length = len(observed)
    given = (jax.random.split(loop_rng, length), jnp.arange(length), index, jnp.asarray(observed))
    _, (states, ancestors) = lax.scan(advance, x, given)

    def trace(line: jax.Array, step: tuple) -> tuple[jax.Array, jax.Array]:
        x, chosen = step
        line = chosen[line]
        return line, x[line]

    _, path = lax.scan(trace, jnp.arange(particles), (states, ancestors), reverse=True)
    return jnp.moveaxis(path, 0, 1)


def weak_4d_var(
    chain: Chain,
    log_likelihood: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    iterations: int = 200,
) -> jax.Array:
    """A most probable trajectory: weak-constraint 4D-Var, whose model may be wrong by its noise.

    Minimises -log p(x_1) - sum log p(x_{i+1} | x_i) - log p(y | x) over the whole path by L-BFGS
    (Tremolet 2006; Rozet & Louppe 2023, section 4).

    Args:
      chain: the chain.
      log_likelihood: of a path (L, D).
      start: the path (L, D) from which to start.
      iterations: number of steps of L-BFGS.

    Returns:
      (L, D).
    """
    factor = np.linalg.inv(np.linalg.cholesky(chain.first_covariance))
    mean, whiten = (jnp.asarray(a, start.dtype) for a in (chain.first_mean, factor))

    def cost(path: jax.Array) -> jax.Array:
        prior = jnp.sum((whiten @ (path[0] - mean)) ** 2) / 2
        return prior - chain.log_prior(path) - log_likelihood(path)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(cost)

    def step(_: int, carry: tuple) -> tuple:
        path, state = carry
        value, grad = value_and_grad(path, state=state)
        updates, state = solver.update(grad, state, path, value=value, grad=grad, value_fn=cost)
        return optax.apply_updates(path, updates), state

    return lax.fori_loop(0, iterations, step, (start, solver.init(start)))[0]
