"""DDIM, DPM-Solver++ and UniPC: one loop over the evaluations of a tableau.

Time runs from t_start (noise) down to eps. With `denoise` the last of the steps is the jump from
eps to x_0 = D, the limit of every method for sigma_s -> 0, which costs one evaluation.
"""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import lax

from scorax.sde_lib import SDE, Pair, Projection, Sampler, ScoreFn
from scorax.solvers.tableaus import D, Tableau, adams_tableau
from scorax.solvers.time_grids import solver_times
from scorax.utils.arrays import batch_mul
from scorax.utils.options import Option
from scorax.utils.progress import Observer, observe


def get_multistep_sampler(
    sde: SDE,
    steps: Annotated[int, Option("sampling.steps", unset=0)] = 20,
    grid: Annotated[str, Option("sampling.grid", unset="")] = "log_snr",
    rho: Annotated[float, Option("sampling.rho")] = 7.0,
    *,
    order: Annotated[int, Option("sampling.order")] = 2,
    midpoint: bool = False,
    eta: float = 0.0,
    correct: bool = False,
    denoise: Annotated[bool, Option("sampling.noise_removal")] = True,
    eps: Annotated[float | None, Option("sampling.eps", unset=0.0)] = None,
    t_start: float | None = None,
    projection: Projection | None = None,
    observer: Observer | None = None,
) -> Sampler:
    """DDIM, DPM-Solver++ and UniPC: one evaluation for each step.

    Args:
      sde: the SDE that the score belongs to.
      steps: steps, and evaluations, in all.
      grid, rho: a row of `TIME_GRIDS` and its parameter, if it has one.
      order: 1, 2 or 3, evaluations that a step extrapolates from. A correction adds one to the
        order of convergence.
      midpoint: hold D at its extrapolation to the middle of a step, as DPM-Solver++ does in its
        second-order methods (Lu et al. 2022, algorithm 2), instead of integrating the polynomial.
      eta: 0 for the probability-flow ODE, 1 for the reverse SDE, or between or above.
      correct: repeat each step once D at its end is known (UniC of Zhao et al. 2023).
      denoise: end with x_0, not with the state at eps.
      eps: last time; None for the SDE's own t_min.
      t_start: time of the `x_init` that the sampler is then called with; None for the noise at T.
      projection: imposes what is known, on the start and after each evaluation, at the time that
        has been reached (eps for x_0). What a correction keeps beside x is not projected.
      observer: sees the samples about 50 times while the sampler runs.

    Returns:
      `(rng, score_fn, shape, x_init=None) -> (samples, nfe)`.

    Raises:
      ValueError: for a parameter out of range.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order={order} (sampling.order) must be 1, 2 or 3")
    if eta < 0 or (correct and eta > 0):
        raise ValueError(f"eta={eta} must not be negative, and 0 for a method with corrections")
    times = solver_times(sde, steps, grid, rho, denoise, eps, t_start)
    tableau = adams_tableau(sde, times, order, midpoint, eta, correct)
    return _get_tableau_sampler(sde, tableau, t_start, projection, observer)


def _get_tableau_sampler(
    sde: SDE,
    tableau: Tableau,
    t_start: float | None,
    projection: Projection | None,
    observer: Observer | None,
) -> Sampler:
    """The loop over the evaluations of a tableau."""
    m, kept = len(tableau.weights), tableau.weights.shape[-1] - D
    to_data, noisy = tableau.times[-1] == 0, tableau.noise.any()

    def sampler(
        rng: jax.Array, score_fn: ScoreFn, shape: tuple[int, ...], x_init: jax.Array | None = None
    ) -> tuple[jax.Array, int]:
        prior_rng, loop_rng = jax.random.split(rng)
        x = sde.initial_state(prior_rng, shape, x_init, t_start)
        times, noise, weights = (
            jnp.asarray(a, x.dtype) for a in (tableau.times, tableau.noise, tableau.weights)
        )
        reached = times.at[-1].set(times[-2]) if to_data else times  # x_0 counts as at eps
        move_on = functools.partial(arrive, loop_rng, projection, noisy)

        def step(i: jax.Array, carry: tuple) -> tuple:
            x, _, base, history = carry
            history = (denoised(sde, score_fn, x, times[i]), *history[:-1])
            x, base = (
                sum(w * a for w, a in zip(row, (x, base, *history), strict=True))
                for row in weights[i]
            )
            x, x_mean = move_on(i + 1, x, noise[i + 1], reached[i + 1])
            observe(observer, i, m, x_mean)
            return x, x_mean, base, history

        x, x_mean = move_on(0, x, noise[0], reached[0])
        history = (jnp.zeros_like(x),) * kept
        x, x_mean, *_ = lax.fori_loop(0, m, step, (x, x_mean, jnp.zeros_like(x), history))
        return x_mean if to_data else x, m

    return sampler


def arrive(
    rng: jax.Array,
    projection: Projection | None,
    noisy: bool,
    i: jax.Array | int,
    x_mean: jax.Array,
    std: jax.Array | float,
    t: jax.Array,
) -> Pair:
    """The state after i evaluations: noise is added, then what is known is imposed.

    Args:
      rng: key of the whole loop.
      projection: imposes what is known, if anything is.
      noisy: whether the method adds noise at all.
      i: evaluations so far.
      x_mean: (B, *S), the state without noise.
      std: of the noise.
      t: (), the time reached.

    Returns:
      x, and the same without the noise just added.
    """
    noise_rng, projection_rng = jax.random.split(jax.random.fold_in(rng, i))
    x = x_mean
    if noisy:
        x = x_mean + std * jax.random.normal(noise_rng, x.shape, x.dtype)
    if projection is None:
        return x, x_mean
    return projection(projection_rng, x, x_mean, jnp.full(len(x), t))


def denoised(sde: SDE, score_fn: ScoreFn, x: jax.Array, t: jax.Array) -> jax.Array:
    """E[x_0 | x_t = x] of x: (B, *S) at the one time t: (), by Tweedie's formula."""
    times = jnp.full(len(x), t)
    mu, sigma = sde.marginal_coeffs(times)
    return batch_mul(1 / mu, x + batch_mul(sigma**2, score_fn(x, times)))
