"""The few-step samplers: one loop over the evaluations of a tableau.

Time runs from t_start (noise) down to eps. With `denoise` the last of the steps is the jump from
eps to x_0 = D, the limit of every method for sigma_s -> 0, which costs one evaluation.
"""

import jax
import jax.numpy as jnp
from jax import lax

from scorax.sde_lib import SDE, Pair, Projection, Sampler, ScoreFn
from scorax.solvers.tableaus import Churn, D, Tableau, adams_tableau, edm_tableau
from scorax.solvers.time_grids import solver_times
from scorax.utils.arrays import batch_mul
from scorax.utils.progress import Observer, observe


def get_multistep_sampler(
    sde: SDE,
    steps: int = 20,
    grid: str = "log_snr",
    rho: float = 7.0,
    *,
    order: int,
    midpoint: bool = False,
    eta: float = 0.0,
    correct: bool = False,
    denoise: bool = True,
    eps: float | None = None,
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


def get_heun_sampler(
    sde: SDE,
    steps: int = 18,
    grid: str = "edm",
    rho: float = 7.0,
    *,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = float("inf"),
    s_noise: float = 1.0,
    order: int = 2,
    alpha: float = 1.0,
    schedule: str = "linear",
    scaling: str = "none",
    denoise: bool = True,
    eps: float | None = None,
    t_start: float | None = None,
    projection: Projection | None = None,
    observer: Observer | None = None,
) -> Sampler:
    """The samplers of EDM (Karras et al. 2022), algorithms 1 to 3, on the levels sigma / mu.

    Two evaluations for each step, and one for the jump to x_0 that ends them: 2 steps - 1 in all.

    Args:
      sde, steps, grid, rho, denoise, eps, t_start, projection, observer: as of
        `get_multistep_sampler`.
      s_churn: noise added before each step, at most raising the level by s_churn / steps of itself
        and never by more than sqrt(2) - 1. Unless s_max forbids it, the first may lead past T.
      s_min, s_max: levels sigma / mu between which noise is added.
      s_noise: factor of that noise.
      order: 2 for Heun's rule; 1 for Euler's, with one evaluation for each step.
      alpha: where in a step its second evaluation lies; 1 for the end.
      schedule: a row of `SCHEDULES`, the variable that steps are linear in. "linear" is EDM's
        choice, "sqrt" the published VE, "sde" the SDE's own time.
      scaling: a row of `SCALINGS`, "none" or "vp".

    Returns:
      `(rng, score_fn, shape, x_init=None) -> (samples, nfe)`.

    Raises:
      ValueError: for a parameter out of range.
    """
    if s_churn < 0 or s_noise < 0 or not 0 <= s_min <= s_max:
        raise ValueError(
            f"sampling.s_churn={s_churn} and s_noise={s_noise} must not be negative, and s_min="
            f"{s_min} and s_max={s_max} must satisfy 0 <= s_min <= s_max"
        )
    if order not in (1, 2):
        raise ValueError(f"order={order} must be 1 for Euler's rule or 2 for Heun's")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha={alpha} must lie above 0 and not above 1")
    times = solver_times(sde, steps, grid, rho, denoise, eps, t_start)
    churn = Churn(s_churn, s_min, s_max, s_noise)
    tableau = edm_tableau(sde, times, order, alpha, schedule, scaling, churn)
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

        def arrive(i: jax.Array | int, x_mean: jax.Array) -> Pair:
            noise_rng, projection_rng = jax.random.split(jax.random.fold_in(loop_rng, i))
            x = x_mean
            if noisy:
                x = x_mean + noise[i] * jax.random.normal(noise_rng, shape, x.dtype)
            if projection is None:
                return x, x_mean
            return projection(projection_rng, x, x_mean, jnp.full(shape[:1], reached[i]))

        def step(i: jax.Array, carry: tuple) -> tuple:
            x, _, base, history = carry
            newest = _denoised(sde, score_fn, x, jnp.full(shape[:1], times[i]))
            history = (newest, *history[:-1])
            x, base = (
                sum(w * a for w, a in zip(row, (x, base, *history), strict=True))
                for row in weights[i]
            )
            x, x_mean = arrive(i + 1, x)
            observe(observer, i, m, x_mean)
            return x, x_mean, base, history

        x, x_mean = arrive(0, tableau.start * x)
        history = (jnp.zeros_like(x),) * kept
        x, x_mean, *_ = lax.fori_loop(0, m, step, (x, x_mean, jnp.zeros_like(x), history))
        return x_mean if to_data else x, m

    return sampler


def _denoised(sde: SDE, score_fn: ScoreFn, x: jax.Array, t: jax.Array) -> jax.Array:
    """E[x_0 | x_t = x] of x: (B, *S) at t: (B,), by Tweedie's formula."""
    mu, sigma = sde.marginal_coeffs(t)
    return batch_mul(1 / mu, x + batch_mul(sigma**2, score_fn(x, t)))
