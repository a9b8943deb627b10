"""Few-step methods as tables of numbers, computed on the host in double precision.

With lambda = log(mu / sigma), half the log-SNR, D = E[x_0 | x_t] = (x + sigma^2 score) / mu, and
eta = 0 for the probability-flow ODE, eta = 1 for the reverse SDE, the step from t down to s by
h = lambda_s - lambda_t is exactly

    x_s = e^(-eta h) sigma_s / sigma_t x_t
          + mu_s int_0^h (1 + eta) e^(-(1 + eta)(h - r)) D(lambda_t + r) dr
          + sigma_s sqrt(1 - e^(-2 eta h)) z

(Lu et al. 2022, arXiv 2211.01095, for eta = 0 and 1; any other is a reverse process of the same
marginals too). Methods differ in how they see D between its evaluations: as a polynomial in lambda
through the last few of them (exponential Adams-Bashforth: through one it is DDIM), the one at the
end of the step included once it is known (Adams-Moulton: UniPC), or by Heun's rule in another
variable (EDM). All are linear in what has been evaluated, with coefficients that depend on the
times alone.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scorax.sde_lib import SDE
from scorax.solvers.time_grids import as_seen, in_double, levels_of, times_of
from scorax.utils.arrays import lookup


class Tableau(NamedTuple):
    """A solver of m evaluations, as numbers.

    Attributes:
      times: (m + 1,) of the evaluations, and where the last of them leads (0: the data).
      start: factor of the state at t_start that leads to the first evaluation.
      noise: (m + 1,) standard deviation of the noise added on arrival at each time.
      weights: (m, 2, 2 + k). Evaluation i turns (x, base, D_0, ..., D_{k-1}), D_0 being its own
        result and D_j that of j evaluations ago, into the next x and base by two sums. x is where
        the score is evaluated; base is what a method carries along beside it.
    """

    times: np.ndarray
    start: float
    noise: np.ndarray
    weights: np.ndarray


X, BASE, D = 0, 1, 2  # places in the weights


def adams_tableau(
    sde: SDE, times: np.ndarray, order: int, midpoint: bool, eta: float, correct: bool
) -> Tableau:
    """Exponential Adams methods in lambda, of lower order while there is no history.

    Args:
      sde: the SDE.
      times: (m + 1,) as of `solver_times`.
      order: evaluations that the polynomial of a step goes through.
      midpoint: hold D at the polynomial's value in the middle of a step, instead of integrating.
      eta: 0 for the ODE, 1 for the reverse SDE.
      correct: repeat each step with the evaluation at its end, once that has been made.
    """
    m, to_data = len(times) - 1, times[-1] == 0
    mu, sigma = in_double(sde.marginal_coeffs, times[:m] if to_data else times)
    lam = np.log(mu / sigma)
    noise, weights = np.zeros(m + 1), np.zeros((m, 2, 2 + order + correct))

    def step(i: int, nodes: np.ndarray) -> tuple[float, np.ndarray]:
        """From times i to i + 1: the factors of x and of D at the given lambdas."""
        h = lam[i + 1] - lam[i]
        move = np.exp(-eta * h) * sigma[i + 1] / sigma[i]
        return move, mu[i + 1] * _integrals((1 + eta) * h, (nodes - lam[i]) / h, midpoint)

    for i in range(m):
        newest_first = lam[i::-1]
        if correct and i > 0:
            nodes = newest_first[: min(order, i) + 1]
            weights[i, BASE, BASE], weights[i, BASE, D : D + len(nodes)] = step(i - 1, nodes)
        else:
            weights[i, BASE, X] = 1.0
        if to_data and i == m - 1:
            weights[i, X, D] = 1.0
            break
        nodes = newest_first[:order]
        move, weights[i, X, D : D + len(nodes)] = step(i, nodes)
        weights[i, X] += move * weights[i, BASE]
        noise[i + 1] = sigma[i + 1] * np.sqrt(-np.expm1(-2 * eta * (lam[i + 1] - lam[i])))
    return Tableau(times, 1.0, noise, weights)


def _integrals(h: float, nodes: np.ndarray, midpoint: bool) -> np.ndarray:
    """int_0^1 h e^(-h (1 - r)) L_j(r) dr of the Lagrange polynomials L_j of the nodes.

    These are combinations of phi functions, which cancel at small h; Gauss-Legendre quadrature
    with this many points is exact in double precision for any h of a noise schedule.
    """
    if midpoint:
        r, q = np.array([0.5]), np.array([-np.expm1(-h)])
    else:
        r, q = _gauss_legendre(64)
        q = q * h * np.exp(-h * (1 - r))
    weights = []
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        weights.append(q @ np.prod((r[:, None] - others[None]) / (node - others)[None], axis=1))
    return np.array(weights)


@functools.cache
def _gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of quadrature over [0, 1]."""
    r, q = np.polynomial.legendre.leggauss(n)
    return (1 + r) / 2, q / 2


class Churn(NamedTuple):
    """Noise that EDM's sampler adds before each step (Karras et al. 2022, algorithm 2).

    Attributes:
      amount: S_churn; every step raises its noise level by up to amount / steps of itself.
      lowest, highest: S_min and S_max, the levels sigma / mu between which it does.
      noise: S_noise, factor of the noise added.
    """

    amount: float
    lowest: float
    highest: float
    noise: float

    def gamma(self, level: np.ndarray, steps: int) -> np.ndarray:
        """By how much of itself each of the levels: (n,) is raised, at most to sqrt(2) of it."""
        within = (self.lowest <= level) & (level <= self.highest)
        return np.where(within, min(self.amount / steps, np.sqrt(2) - 1), 0.0)


class Schedule(NamedTuple):
    """The variable u in which Heun's rule steps, u = 0 at the data; all functions of (n,) arrays.

    Attributes:
      variable: u of the level sigma / mu.
      level: the level of u.
      rate: d log(level) / du.
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


class _Points(NamedTuple):
    """Points of the path of Heun's rule, all (n,): dX/du = p X - q D with X = c x."""

    t: np.ndarray
    mu: np.ndarray
    level: np.ndarray
    u: np.ndarray
    p: np.ndarray
    q: np.ndarray
    c: np.ndarray


def _points(sde: SDE, t: np.ndarray, schedule: Schedule, scaling: str) -> _Points:
    """The points at times t, with X = s x / mu (Karras et al. 2022, eq. 4), s from `SCALINGS`."""
    t = as_seen(t)
    mu, sigma = in_double(sde.marginal_coeffs, t)
    level = sigma / mu
    s = lookup(SCALINGS, scaling, "scaling")(level)
    u = schedule.variable(level)
    rate = schedule.rate(u)
    return _Points(t, mu, level, u, rate * s**2, rate * s, s / mu)


def edm_tableau(
    sde: SDE,
    times: np.ndarray,
    order: int,
    alpha: float,
    schedule: str,
    scaling: str,
    churn: Churn,
) -> Tableau:
    """Heun's rule, or Euler's, with churn (Karras et al. 2022, algorithms 1 and 3).

    Args:
      sde: the SDE.
      times: (n + 1,) as of `solver_times`.
      order: 2 for Heun's rule, 1 for Euler's.
      alpha: where in the step its second evaluation lies; 1 for the end.
      schedule, scaling: names of rows of `SCHEDULES` and `SCALINGS`.
      churn: the noise added before each step.
    """
    n, to_data = len(times) - 1, times[-1] == 0
    path = lookup(SCHEDULES, schedule, "schedule")(sde)
    points = functools.partial(_points, sde, schedule=path, scaling=scaling)
    grid = points(times[:n] if to_data else times)
    gamma = churn.gamma(grid.level[:n], n)
    hat = points(np.where(gamma > 0, times_of(sde, grid.level[:n] * (1 + gamma)), times[:n]))
    u_end, c_end = grid.u[1:], grid.c[1:]
    if to_data:
        u_end, c_end = np.append(u_end, 0.0), np.append(c_end, 1.0)
    lift = hat.mu / grid.mu[:n]  # keeps x / mu while the time is raised
    after = np.append(lift[1:], 1.0) / c_end
    h = u_end - hat.u

    weights = np.zeros((n, order, 2, 4))
    first = weights[:, 0]
    first[:, BASE, X] = 1.0
    first[:, X, X], first[:, X, D] = after * (1 + h * hat.p) * hat.c, -after * h * hat.q
    times_seen, noise = np.tile(hat.t[:, None], order), np.zeros((n, order))
    noise[:, 0] = churn.noise * hat.mu * np.sqrt(np.maximum(hat.level**2 - grid.level[:n] ** 2, 0))
    if order == 2:
        k = n - 1 if to_data else n  # the jump to the data is Euler's
        hat, h, after = _Points(*(a[:k] for a in hat)), h[:k], after[:k]
        trial = points(times_of(sde, path.level(hat.u + alpha * h)))
        step, w = trial.u - hat.u, 1 / (2 * alpha)
        first[:k, X, X] = (1 + step * hat.p) * hat.c / trial.c
        first[:k, X, D] = -step * hat.q / trial.c
        second = weights[:k, 1, X]
        second[:, BASE] = after * (1 + h * (1 - w) * hat.p) * hat.c
        second[:, D + 1] = -after * h * (1 - w) * hat.q
        second[:, X] = after * h * w * trial.p * trial.c
        second[:, D] = -after * h * w * trial.q
        times_seen[:k, 1] = trial.t
    m = n * order - (order == 2 and to_data)
    return Tableau(
        np.append(times_seen.ravel()[:m], times[-1]),
        float(lift[0]),
        np.append(noise.ravel()[:m], 0.0),
        weights.reshape(n * order, 2, 4)[:m],
    )


SCHEDULES = {"linear": _linear_schedule, "sqrt": _sqrt_schedule, "sde": _own_schedule}
SCALINGS = {"none": np.ones_like, "vp": lambda level: 1 / np.sqrt(1 + level**2)}
