"""The samplers of EDM for every SDE: Heun's or Euler's rule, with churn.

Source: Karras et al. 2022 (arXiv 2206.00364), algorithms 1 to 3. Their sigma is the level
sigma / mu here, and their x is x / mu. A step is linear in u, a function of the level with u = 0 at
the data, and moves X = s x / mu:

    dX/du = p X - q D,   p = s^2 r,   q = s r,   r = d log(level) / du     (algorithm 1, line 4)

where D is the denoised x, u comes from a row of `SCHEDULES` and s from a row of `SCALINGS`. For
EDM's choice, u = level and s = 1, the slope is (X - D) / level.
"""

import functools
import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scorax.sde_lib import SDE, Projection, Sampler, ScoreFn
from scorax.solvers.few_step import arrive, denoised
from scorax.solvers.time_grids import as_seen, in_double, levels_of, solver_times, times_of
from scorax.utils.options import Option
from scorax.utils.progress import Observer, observe
from scorax.utils.tables import lookup


class Churn(NamedTuple):
    """The noise added before each step (algorithm 2).

    Attributes:
      amount: S_churn; every step first raises the level by a fraction of at most amount / steps.
      lowest, highest: S_min and S_max, the levels between which noise is added.
      noise: S_noise, a factor of the added noise.
    """

    amount: float
    lowest: float
    highest: float
    noise: float

    def gamma(self, level: np.ndarray, steps: int) -> np.ndarray:
        """The fraction by which each of the levels (n,) is raised, at most sqrt(2) - 1."""
        within = (self.lowest <= level) & (level <= self.highest)
        return np.where(within, min(self.amount / steps, np.sqrt(2) - 1), 0.0)


class Schedule(NamedTuple):
    """The variable u in which steps are linear, with u = 0 at the data.

    Attributes:
      variable: u as a function of the level, like all of these on (n,) arrays.
      level: the level as a function of u.
      rate: d log(level) / du as a function of u.
    """

    variable: Callable[[np.ndarray], np.ndarray]
    level: Callable[[np.ndarray], np.ndarray]
    rate: Callable[[np.ndarray], np.ndarray]


def _linear_schedule(sde: SDE) -> Schedule:
    return Schedule(lambda level: level, lambda u: u, lambda u: 1 / u)


def _sqrt_schedule(sde: SDE) -> Schedule:
    return Schedule(np.square, np.sqrt, lambda u: 1 / (2 * u))


def _own_schedule(sde: SDE) -> Schedule:
    def rate(t: np.ndarray) -> np.ndarray:
        # (sigma^2 / mu^2)' = g^2 / mu^2
        _, sigma = in_double(sde.marginal_coeffs, t)
        g = in_double(lambda t: sde.sde(t[:, None], t)[1], t)
        return (g / sigma) ** 2 / 2

    return Schedule(functools.partial(times_of, sde), functools.partial(levels_of, sde), rate)


class Points(NamedTuple):
    """Points on the path, all fields (n,): dX/du = p X - q D with X = c x."""

    t: np.ndarray
    mu: np.ndarray
    level: np.ndarray
    u: np.ndarray
    p: np.ndarray
    q: np.ndarray
    c: np.ndarray


def _points(sde: SDE, t: np.ndarray, schedule: Schedule, scaling: str) -> Points:
    """The points at times t: (n,), rounded as the score will see them."""
    t = as_seen(t)
    mu, sigma = in_double(sde.marginal_coeffs, t)
    level = sigma / mu
    s = lookup(SCALINGS, scaling, "scaling")(level)
    u = schedule.variable(level)
    rate = schedule.rate(u)
    return Points(t, mu, level, u, rate * s**2, rate * s, s / mu)


class Evaluations(NamedTuple):
    """The evaluations of the score in order, each field (m,) and in double precision.

    Attributes:
      t, p, q, c: fields of `Points` at the evaluation.
      h: length of the step to which the evaluation belongs, in u.
      begins, ends: whether the evaluation is the first, or the last, of its step.
      to_x: factor from X to x for the state to which the evaluation leads.
      reached: time of the state to which the evaluation leads.
      noise: standard deviation of the noise added to this state.
    """

    t: np.ndarray
    p: np.ndarray
    q: np.ndarray
    c: np.ndarray
    h: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    to_x: np.ndarray
    reached: np.ndarray
    noise: np.ndarray


def plan(
    sde: SDE,
    times: np.ndarray,
    order: int,
    alpha: float,
    schedule: str,
    scaling: str,
    churn: Churn,
) -> tuple[Evaluations, float, float]:
    """Plans the evaluations on a grid of times, and the churn before the first of them.

    Args:
      sde: the SDE.
      times: (n + 1,), from `solver_times`.
      order, alpha, schedule, scaling: see `get_heun_sampler`.
      churn: the noise added before each step.

    Returns:
      The evaluations; the factor by which the initial x is multiplied; and the standard deviation
      of the noise then added to it.
    """
    n, to_data = len(times) - 1, times[-1] == 0
    path = lookup(SCHEDULES, schedule, "schedule")(sde)
    points = functools.partial(_points, sde, schedule=path, scaling=scaling)
    cur = points(times[:n] if to_data else times)
    gamma = churn.gamma(cur.level[:n], n)
    hat = points(np.where(gamma > 0, times_of(sde, cur.level[:n] * (1 + gamma)), times[:n]))
    raised = hat.mu / cur.mu[:n]  # keeps x / mu while the time is raised to t_hat
    noise = churn.noise * hat.mu * np.sqrt(np.maximum(hat.level**2 - cur.level[:n] ** 2, 0))
    u_next, c_next = cur.u[1:], cur.c[1:]
    if to_data:
        u_next, c_next = np.append(u_next, 0.0), np.append(c_next, 1.0)
    h = u_next - hat.u
    # x_0 is projected as if it were reached at the last positive time.
    ends = (
        np.append(raised[1:], 1.0) / c_next,
        np.append(hat.t[1:], cur.t[-1]),
        np.append(noise[1:], 0),
    )
    corrected = n - to_data if order == 2 else 0  # the jump to the data is an Euler step
    prime = points(times_of(sde, path.level((hat.u + alpha * h)[:corrected])))
    rows = []
    for i, end in enumerate(zip(*ends, strict=True)):
        at_hat = hat.t[i], hat.p[i], hat.q[i], hat.c[i], h[i], True
        if i >= corrected:
            rows.append((*at_hat, True, *end))
            continue
        rows.append((*at_hat, False, 1 / prime.c[i], prime.t[i], 0.0))
        rows.append((prime.t[i], prime.p[i], prime.q[i], prime.c[i], h[i], False, True, *end))
    return Evaluations(*map(np.array, zip(*rows, strict=True))), float(raised[0]), float(noise[0])


def get_heun_sampler(
    sde: SDE,
    steps: Annotated[int, Option("sampling.steps", unset=0)] = 18,
    grid: Annotated[str, Option("sampling.grid", unset="")] = "edm",
    rho: Annotated[float, Option("sampling.rho")] = 7.0,
    *,
    s_churn: Annotated[float, Option("sampling.s_churn")] = 0.0,
    s_min: Annotated[float, Option("sampling.s_min")] = 0.0,
    s_max: Annotated[float, Option("sampling.s_max")] = math.inf,
    s_noise: Annotated[float, Option("sampling.s_noise")] = 1.0,
    order: int = 2,
    alpha: float = 1.0,
    schedule: str = "linear",
    scaling: str = "none",
    denoise: Annotated[bool, Option("sampling.noise_removal")] = True,
    eps: Annotated[float | None, Option("sampling.eps", unset=0.0)] = None,
    t_start: float | None = None,
    projection: Projection | None = None,
    observer: Observer | None = None,
) -> Sampler:
    """The samplers of EDM (Karras et al. 2022, algorithms 1 to 3) on the levels sigma / mu.

    Heun's rule takes two evaluations for each step, but the last step, the jump to x_0, takes only
    one: 2 steps - 1 in all.

    Args:
      sde, steps, grid, rho, denoise, eps, t_start, projection, observer: see
        `few_step.get_multistep_sampler`.
      s_churn: amount of noise added before each step. It raises the level by a fraction of at most
        s_churn / steps, and never more than sqrt(2) - 1. Unless s_max prevents it, the noise added
        before the first step may lead to a time beyond T.
      s_min, s_max: levels sigma / mu between which noise is added.
      s_noise: factor of the added noise.
      order: 2 for Heun's rule; 1 for Euler's, with one evaluation for each step.
      alpha: position of the second evaluation within its step; 1 for the end.
      schedule: a row of `SCHEDULES`, the variable in which steps are linear: "linear" is EDM's
        choice, "sqrt" is the published choice for VE, "sde" is the SDE's own time.
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
    evaluations, raised, first_noise = plan(sde, times, order, alpha, schedule, scaling, churn)
    m, w = len(evaluations.t), 1 / (2 * alpha)

    def sampler(
        rng: jax.Array, score_fn: ScoreFn, shape: tuple[int, ...], x_init: jax.Array | None = None
    ) -> tuple[jax.Array, int]:
        prior_rng, loop_rng = jax.random.split(rng)
        x = sde.initial_state(prior_rng, shape, x_init, t_start)
        at = Evaluations(
            *(jnp.asarray(a, a.dtype if a.dtype == bool else x.dtype) for a in evaluations)
        )
        move_on = functools.partial(arrive, loop_rng, projection, s_churn > 0)

        def evaluate(k: jax.Array, carry: tuple) -> tuple:
            """Moves to t_prime along d_cur, or to the end of the step along d_cur and d_prime."""
            x, _, x_hat, d_cur = carry
            d = at.p[k] * (at.c[k] * x) - at.q[k] * denoised(sde, score_fn, x, at.t[k])
            x_hat, d_cur = jax.tree.map(
                functools.partial(jnp.where, at.begins[k]), (at.c[k] * x, d), (x_hat, d_cur)
            )
            d_prime = d
            x_prime = x_hat + alpha * at.h[k] * d_cur
            x_next = x_hat + at.h[k] * ((1 - w) * d_cur + w * d_prime)
            x = at.to_x[k] * jnp.where(at.ends[k], x_next, x_prime)
            x, x_mean = move_on(k + 1, x, at.noise[k], at.reached[k])
            observe(observer, k, m, x_mean)
            return x, x_mean, x_hat, d_cur

        x, x_mean = move_on(0, raised * x, first_noise, at.t[0])
        zeros = jnp.zeros_like(x)
        x, x_mean, *_ = lax.fori_loop(0, m, evaluate, (x, x_mean, zeros, zeros))
        return x_mean if denoise else x, m

    return sampler


SCHEDULES = {"linear": _linear_schedule, "sqrt": _sqrt_schedule, "sde": _own_schedule}
SCALINGS = {"none": np.ones_like, "vp": lambda level: 1 / np.sqrt(1 + level**2)}
