"""DDIM, DPM-Solver++ and UniPC: one loop over the evaluations of a tableau.

Time runs from t_start (noise) down to eps. With `denoise` the last step is the jump from eps to
x_0 = D, the limit of every method for sigma_s -> 0. The jump costs one evaluation.
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
      sde: the SDE of the score.
      steps: number of steps, each with one evaluation.
      grid, rho: a row of `TIME_GRIDS` and its parameter, if the grid has one.
      order: 1, 2 or 3, the number of evaluations from which a step extrapolates. A correction adds
        one to the order of convergence.
      midpoint: hold D at its extrapolation to the middle of a step, as the second-order methods of
        DPM-Solver++ do (Lu et al. 2022, algorithm 2), instead of integrating the polynomial.
      eta: 0 for the probability-flow ODE, 1 for the reverse SDE; other values >= 0 are valid too.
      correct: repeat each step once D at its end is known (UniC of Zhao et al. 2023).
      denoise: end with x_0, not with the state at eps.
      eps: last time; None for the SDE's t_min.
      t_start: start at this time, from the `x_init` with which the sampler is then called; None to
        start from the noise at T.
      projection: imposes what is known on the initial state and after each evaluation, at the time
        that has been reached (eps for x_0). The second state that a correction keeps beside x is
        not projected.
      observer: sees the samples about 50 times while the sampler runs.

    Returns:
      `(rng, score_fn, shape, x_init=None) -> (samples, nfe)`.

    Raises:
      ValueError: for a parameter out of range.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order={order} (sampling.order) must be 1, 2 or 3")
    if eta < 0 or (correct and eta > 0):
        raise ValueError(f"eta={eta} must be at least 0, and must be 0 if steps are corrected")
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
        reached = times.at[-1].set(times[-2]) if to_data else times  # x_0 is projected as if at eps
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
    """Completes the state after i evaluations: adds noise, then imposes what is known.

    Args:
      rng: key of the whole loop.
      projection: imposes what is known; None if nothing is known.
      noisy: whether the method adds noise at all.
      i: number of evaluations so far.
      x_mean: (B, *S), the state without noise.
      std: standard deviation of the noise.
      t: (), the time reached.

    Returns:
      x with the added noise, and x without it.
    """
    noise_rng, projection_rng = jax.random.split(jax.random.fold_in(rng, i))
    x = x_mean
    if noisy:
        x = x_mean + std * jax.random.normal(noise_rng, x.shape, x.dtype)
    if projection is None:
        return x, x_mean
    return projection(projection_rng, x, x_mean, jnp.full(len(x), t))


def denoised(sde: SDE, score_fn: ScoreFn, x: jax.Array, t: jax.Array) -> jax.Array:
    """E[x_0 | x_t = x] by Tweedie's formula, for states x: (B, *S) at a common time t: ()."""
    times = jnp.full(len(x), t)
    mu, sigma = sde.marginal_coeffs(times)
    return batch_mul(1 / mu, x + batch_mul(sigma**2, score_fn(x, times)))
