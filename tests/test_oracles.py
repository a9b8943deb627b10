"""The closed forms themselves, against densities, a matrix inverse and a numerical integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import multivariate_normal

from oracles import (
    coefficients,
    correlated_score,
    gaussian_flow,
    gaussian_score,
    linear_posterior,
    log_joint,
    mixture_score,
)
from scorax.sde_lib import SDES, VPSDE

pytestmark = pytest.mark.usefixtures("strict_dtypes")
MEAN = np.array([0.5, -0.3])
COVARIANCE = np.array([[0.4, 0.25], [0.25, 0.8]])
WEIGHTS = np.array([0.35, 0.65])
MEANS, VARIANCES = np.array([[-1.0, 0.4], [0.8, -0.5]]), np.array([[0.15, 0.3], [0.3, 0.1]])
X, TIME = np.array([0.2, -0.4]), 0.3


def density(parts, mu, sigma):
    """log p_t of a mixture, from parts (weight, mean, covariance)."""
    laws = [multivariate_normal(mu * m, mu**2 * c + sigma**2 * np.eye(2)) for _, m, c in parts]
    return lambda x: np.log(sum(p[0] * law.pdf(x) for p, law in zip(parts, laws, strict=True)))


def mixture_parts():
    return [(w, m, np.diag(v)) for w, m, v in zip(WEIGHTS, MEANS, VARIANCES, strict=True)]


ORACLES = {  # name -> its score as a function of the SDE, parts of its mixture
    "gaussian": (
        lambda sde: gaussian_score(sde, MEAN, np.diag(COVARIANCE)),
        [(1.0, MEAN, np.diag(np.diag(COVARIANCE)))],
    ),
    "correlated": (
        lambda sde: correlated_score(sde, MEAN, COVARIANCE),
        [(1.0, MEAN, COVARIANCE)],
    ),
    "mixture": (lambda sde: mixture_score(sde, WEIGHTS, MEANS, VARIANCES), mixture_parts()),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=list(SDES))
def test_score_is_the_gradient_of_the_log_density(sde, name):
    get_score, parts = ORACLES[name]
    log_p, h = density(parts, *coefficients(sde, TIME)), 1e-5
    numeric = [(log_p(X + h * e) - log_p(X - h * e)) / (2 * h) for e in np.eye(2)]
    with jax.enable_x64(True):
        score = jax.jit(get_score(sde))(jnp.asarray(X[None]), jnp.asarray([TIME]))
    np.testing.assert_allclose(score[0], numeric, rtol=1e-6)


def test_joint_density_differs_by_a_constant_from_the_whole_one():
    mu, sigma = 0.7, 0.4
    x = np.array([X, -X, [1.0, 2.0]])
    ones = np.ones(3, np.float32)
    parts = log_joint(
        jnp.asarray(x, jnp.float32), mu * ones, sigma * ones, WEIGHTS, MEANS, VARIANCES
    )
    whole = np.logaddexp(*np.asarray(parts, np.float64).T)
    log_p = np.array([density(mixture_parts(), mu, sigma)(row) for row in x])
    np.testing.assert_allclose(whole - log_p, np.log(2 * np.pi), rtol=1e-5)


def test_posterior_has_the_sum_of_the_precisions():
    matrix, noise = np.array([[1.0, -2.0]]), np.array([[0.3]])
    y = np.array([[0.7], [-1.0]])
    mean, covariance = linear_posterior(MEAN, COVARIANCE, matrix, y, noise)
    prior = np.linalg.inv(COVARIANCE)
    precision = prior + matrix.T @ np.linalg.inv(noise) @ matrix
    np.testing.assert_allclose(covariance, np.linalg.inv(precision))
    for row, found in zip(y, mean, strict=True):
        expected = np.linalg.solve(precision, prior @ MEAN + matrix.T @ (row / noise[0]))
        np.testing.assert_allclose(found, expected)


def test_flow_solves_its_differential_equation():
    """dx/dt = f(t) x - g(t)^2 score / 2 of a VP SDE, with f = -beta / 2 and g^2 = beta."""
    sde, mean, variance = VPSDE(beta_min=0.1, beta_max=4.0), 0.3, 0.2

    def right(t, x):
        beta = 0.1 + t * 3.9
        mu = np.exp(-(0.1 * t + 3.9 * t**2 / 2) / 2)
        score = -(x - mu * mean) / (mu**2 * variance + 1 - mu**2)
        return -beta / 2 * (x + score)

    end = solve_ivp(right, (0.9, 0.2), [1.5], rtol=1e-10, atol=1e-10).y[0, -1]
    found = gaussian_flow(sde, mean, variance, 1.5, 0.9, 0.2)
    assert found == pytest.approx(end, rel=1e-6)
