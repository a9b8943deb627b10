"""Few-step methods as tables of numbers, computed on the host in double precision.

Let lambda = log(mu / sigma), half the log-SNR, D = E[x_0 | x_t] = (x + sigma^2 score) / mu, and
eta = 0 for the probability-flow ODE or eta = 1 for the reverse SDE. The step from t down to s, with
h = lambda_s - lambda_t, is exactly

    x_s = e^(-eta h) sigma_s / sigma_t x_t
          + mu_s int_0^h (1 + eta) e^(-(1 + eta)(h - r)) D(lambda_t + r) dr
          + sigma_s sqrt(1 - e^(-2 eta h)) z

(Lu et al. 2022, arXiv 2211.01095, for eta = 0 and 1; every other eta > 0 gives a reverse process
with the same marginals too). Methods differ in how they model D between its evaluations. The
predictors use a polynomial in lambda through the last few evaluations (exponential
Adams-Bashforth; DDIM is the case of one evaluation). UniPC's corrector also includes the evaluation
at the end of the step, once it is known (Adams-Moulton). All methods are linear in the evaluated D,
with coefficients that depend on the times alone.
"""

import functools
from typing import NamedTuple

import numpy as np

from scorax.sde_lib import SDE
from scorax.solvers.time_grids import in_double


class Tableau(NamedTuple):
    """A solver with m evaluations, as numbers.

    Attributes:
      times: (m + 1,), the times of the evaluations, then the time to which the last one leads (0:
        the data).
      noise: (m + 1,), standard deviation of the noise added on arrival at each time.
      weights: (m, 2, 2 + k). Evaluation i turns (x, base, D_0, ..., D_{k-1}) into the next x and
        base by two weighted sums, where D_j is the result of the evaluation made j evaluations
        before. x is the state at which the score is evaluated; base is a second state that a method
        may carry along.
    """

    times: np.ndarray
    noise: np.ndarray
    weights: np.ndarray


X, BASE, D = 0, 1, 2  # indices into the weights


def adams_tableau(
    sde: SDE, times: np.ndarray, order: int, midpoint: bool, eta: float, correct: bool
) -> Tableau:
    """Exponential Adams methods in lambda; the order is lower while the history is too short.

    Args:
      sde: the SDE.
      times: (m + 1,), from `solver_times`.
      order: number of evaluations through which the polynomial of a step goes.
      midpoint: hold D at the polynomial's value in the middle of a step, instead of integrating.
      eta: 0 for the ODE, 1 for the reverse SDE.
      correct: repeat each step once the evaluation at its end has been made.
    """
    m, to_data = len(times) - 1, times[-1] == 0
    mu, sigma = in_double(sde.marginal_coeffs, times[:m] if to_data else times)
    lam = np.log(mu / sigma)
    noise, weights = np.zeros(m + 1), np.zeros((m, 2, 2 + order + correct))

    def step(i: int, nodes: np.ndarray) -> tuple[float, np.ndarray]:
        """Factors of x, and of D at the given lambdas, for the step from times[i] to the next."""
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
    return Tableau(times, noise, weights)


def _integrals(h: float, nodes: np.ndarray, midpoint: bool) -> np.ndarray:
    """int_0^1 h e^(-h (1 - r)) L_j(r) dr for the Lagrange polynomials L_j of the nodes.

    In closed form these are combinations of phi functions, which cancel at small h. Gauss-Legendre
    quadrature with 64 points is exact in double precision for any h of a noise schedule.
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
    """Points and weights of n-point Gauss-Legendre quadrature over [0, 1]."""
    r, q = np.polynomial.legendre.leggauss(n)
    return (1 + r) / 2, q / 2
