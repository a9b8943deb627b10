"""Conditioned scores: published values, closed forms for Gaussian data, and samples."""

import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_golden, cases, load
from oracles import correlated_score, gaussian_score, linear_posterior
from scorax.conditioning.operators import get_block_mean, get_masking, get_random_projection
from scorax.conditioning.posterior import (
    DPS,
    LIKELIHOODS,
    MMPS,
    GaussianLikelihood,
    PiGDM,
    check_measurement,
    gaussian_data_covariance,
)
from scorax.controllable_generation import get_pc_conditional_sampler
from scorax.sampling import CORRECTORS, PREDICTORS
from scorax.sde_lib import SDES, VPSDE
from scorax.utils.arrays import batch_mul
from simulation import simulate
from slow import but_slow, crossed

# Reference values of score-based data assimilation: trajectories (B, L, C, H, W), any event shape


def schedule(case):
    """mu and sigma of a published schedule; all that a condition asks of an SDE."""
    eta = case["eta"]
    alpha = {
        "lin": lambda t: 1 - (1 - eta) * t,
        "cos": lambda t: jnp.cos(math.acos(math.sqrt(eta)) * t) ** 2,
        "exp": lambda t: jnp.exp(math.log(eta) * t**2),
    }[case["alpha"]]
    sigma = {
        "vp": lambda mu: jnp.sqrt(1 - mu**2 + eta**2),
        "subvp": lambda mu: 1 - mu**2 + eta,
    }[case["sde"]]
    return SimpleNamespace(marginal_coeffs=lambda t: (alpha(t), sigma(alpha(t))))


def cases_of(name, kind):
    return [case for case in cases(name) if case["kind"] == kind]


def assert_guided(case, condition_of):
    """eps = -sigma score, of the exact score of Gaussian data under the condition."""
    z, sde = load("sda"), schedule(case)
    mean, var = (z[f"in/toy_{k}"] for k in ("mean", "var"))
    score_fn = gaussian_score(sde, mean, var)
    operator = {
        "linear": lambda x: x[:, :: case["subsample"]],
        "nonlinear": lambda x: x / (1 + jnp.abs(x)),
    }[case["A"]]
    x = jnp.asarray(z[case["x"]])
    guided = condition_of(sde, operator, jnp.asarray(z[case["y"]]))(score_fn)
    eps = []
    for time in case["t"]:
        t = jnp.full(len(x), time)
        eps.append(-batch_mul(sde.marginal_coeffs(t)[1], guided(x, t)))
    # The first axis is time, not images: nothing to transpose.
    assert_golden(jnp.stack(eps), z, case["out"])


@pytest.mark.parametrize("case", cases_of("sda", "gaussian_score"), ids=lambda c: c["out"])
def test_golden_gaussian_likelihood(case):
    def condition(sde, operator, y):
        return GaussianLikelihood(
            sde, operator, y, case["std"], gamma=case["gamma"], detach=case["detach"]
        )

    assert_guided(case, condition)


@pytest.mark.parametrize("case", cases_of("sda", "dps_score"), ids=lambda c: c["out"])
def test_golden_dps(case):
    """Published with one norm over the batch."""
    assert_guided(
        case,
        lambda sde, operator, y: DPS(sde, operator, y, 1.0, zeta=case["zeta"], coupled=True),
    )


def exact_conditions(sde, matrix, data_covariance, y, std):
    """Every condition that is exact for Gaussian data and a linear operator."""
    operator = linear(matrix)
    covariance = gaussian_data_covariance(sde, data_covariance, matrix)
    return {
        "known covariance": GaussianLikelihood(sde, operator, y, std, covariance=covariance),
        "mmps": MMPS(sde, operator, y, std, iterations=len(matrix)),
    }


def linear(matrix):
    matrix = jnp.asarray(matrix.T, jnp.float32)
    return lambda x: jnp.matmul(x, matrix)


@pytest.mark.parametrize(
    "case", cases_of("likelihood_exact", "state_space"), ids=lambda c: c["key"]
)
@pytest.mark.parametrize("method", ["known covariance", "mmps"])
def test_golden_state_space(case, method):
    """Chains observed at some times: the score given the observations, from the Kalman smoother."""
    z, key = load("likelihood_exact"), case["key"]
    mean, covariance, matrix, y = (
        z[f"{key}/{name}_f64"] for name in ("prior_mean", "prior_cov", "H", "y")
    )
    for i, (mu, sigma) in enumerate(case["noised"]):
        coefficients = (jnp.full((1,), mu), jnp.full((1,), sigma))
        sde = SimpleNamespace(marginal_coeffs=lambda t, c=coefficients: c)
        y_batch = jnp.asarray(y[None], jnp.float32)
        condition = exact_conditions(sde, matrix, covariance, y_batch, case["obs_std"])[method]
        score_fn = correlated_score(sde, mean, covariance)
        x, t = jnp.asarray(z[f"{key}/noised{i}_x_f64"][None], jnp.float32), jnp.zeros(1)
        for fn, name in ((score_fn, "prior"), (condition(score_fn), "posterior")):
            assert_golden(fn(x, t)[0], z, f"{key}/noised{i}_{name}_score_f64")


# Closed forms

D, M = 5, 3


@functools.cache
def problem():
    """Gaussian data, a linear operator, one measurement, and the exact posterior."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(D, D))
    mean, covariance = rng.normal(size=D), a @ a.T / D + 0.1 * np.eye(D)
    matrix, std = rng.normal(size=(M, D)), 0.3
    y = matrix @ rng.multivariate_normal(mean, covariance) + std * rng.normal(size=M)
    return SimpleNamespace(mean=mean, covariance=covariance, matrix=matrix, std=std, y=y)


def assert_score_is_exact(sde, condition, score_fn, exact_fn, rtol=2e-4):
    """At times from T to t_min, at states that the posterior's x_t might take.

    x + sigma^2 score is mu x_hat, so that rounding costs sigma / mu of the digits of x_hat.
    """
    guided, rng = jax.jit(condition(score_fn)), np.random.default_rng(1)
    t = jnp.asarray(np.geomspace(sde.t_min, sde.T, 7), jnp.float32)
    mu, sigma = (np.asarray(c)[:, None] for c in sde.marginal_coeffs(t))
    x = mu * rng.normal(size=(7, D)) + np.hypot(mu, sigma) * rng.normal(size=(7, D))
    x = jnp.asarray(x, jnp.float32)
    exact, actual = np.asarray(exact_fn(x, t)), np.asarray(guided(x, t))
    error = np.abs(actual - exact).max(1) / np.abs(exact).max(1)
    rounding = 4 * np.finfo(np.float32).eps * (sigma / mu)[:, 0]
    assert (error < np.maximum(rtol, rounding)).all(), error


@pytest.mark.parametrize("name, method", crossed(SDES, ["known covariance", "mmps"]))
def test_guided_score_is_the_posterior_score(name, method):
    p, sde = problem(), SDES[name]()
    y = jnp.asarray(p.y[None], jnp.float32)
    condition = exact_conditions(sde, p.matrix, p.covariance, y, p.std)[method]
    posterior = linear_posterior(p.mean, p.covariance, p.matrix, p.y, p.std**2 * np.eye(M))
    prior, exact = (correlated_score(sde, *law) for law in ((p.mean, p.covariance), posterior))
    assert_score_is_exact(sde, condition, prior, exact)


@pytest.mark.parametrize("sigma", [0.5, 3.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_jacobian_that_is_not_symmetric_is_inverted(sigma, dtype):
    """Networks have such Jacobians. This one has an eigenvalue of 0 and a negative one.

    Rounding costs as many digits as the condition of the covariance has, up to 5 here.
    """
    m, noise = 4, 0.05
    jacobian = np.diag([-0.02, 0.0, 0.3, 0.6]) + 0.3 * np.triu(np.ones((m, m)), 1)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, m)), rng.normal(size=(1, m))
    matrix = (jacobian - np.eye(m)).T / sigma**2  # x_hat = jacobian x
    with jax.enable_x64(dtype == np.float64):
        coefficients = (jnp.ones(1, dtype), jnp.full((1,), sigma, dtype))
        sde = SimpleNamespace(marginal_coeffs=lambda t: coefficients)
        method = MMPS(sde, lambda x: x, jnp.asarray(y, dtype), noise, iterations=m)
        guided = method(lambda x, t: jnp.matmul(x, jnp.asarray(matrix, dtype)))
        found = np.asarray(guided(jnp.asarray(x, dtype), jnp.zeros(2, dtype)))
    assert found.dtype == dtype
    covariance = noise**2 * np.eye(m) + sigma**2 * jacobian.T
    weighed = np.linalg.solve(covariance, (y - x @ jacobian.T).T).T
    expected = x @ matrix + weighed @ jacobian
    rounding = np.finfo(dtype).eps * np.linalg.cond(covariance)
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding * np.abs(expected).max())


@pytest.mark.parametrize("name", list(SDES))
@pytest.mark.parametrize("std", [0.3, np.array([0.1, 0.5, 1.0])], ids=["number", "array"])
def test_pigdm_is_exact_for_white_data(name, std):
    p, sde, v = problem(), SDES[name](), 0.7
    y, white = jnp.asarray(p.y[None], jnp.float32), v * np.eye(D)
    noise = np.diag(np.broadcast_to(std, M) ** 2)
    posterior = linear_posterior(p.mean, white, p.matrix, p.y, noise)
    condition = PiGDM(sde, linear(p.matrix), y, std, data_variance=v)
    assert_score_is_exact(
        sde, condition, correlated_score(sde, p.mean, white), correlated_score(sde, *posterior)
    )


def test_array_of_noise_works_with_every_covariance():
    p, sde, std = problem(), VPSDE(), np.array([0.1, 0.5, 1.0])
    posterior = linear_posterior(p.mean, p.covariance, p.matrix, p.y, np.diag(std**2))
    y = jnp.asarray(p.y[None], jnp.float32)
    for condition in exact_conditions(sde, p.matrix, p.covariance, y, std).values():
        assert_score_is_exact(
            sde,
            condition,
            correlated_score(sde, p.mean, p.covariance),
            correlated_score(sde, *posterior),
        )


@pytest.mark.parametrize("gamma", [0.4, np.array([0.05, 0.4, 2.0])], ids=["number", "array"])
def test_gamma_is_the_covariance_in_units_of_the_noise(gamma):
    """The same as the whole covariance diag(gamma) (sigma / mu)^2."""
    p, sde = problem(), VPSDE()
    y = jnp.asarray(p.y[None], jnp.float32)
    score_fn = correlated_score(sde, p.mean, p.covariance)

    def covariance(t):
        mu, sigma = sde.marginal_coeffs(t)
        return batch_mul((sigma / mu) ** 2, jnp.diag(jnp.full(M, gamma))[None])

    build = functools.partial(GaussianLikelihood, sde, linear(p.matrix), y, p.std)
    assert_score_is_exact(sde, build(gamma=gamma), score_fn, build(covariance=covariance)(score_fn))


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_each_example_is_on_its_own(name):
    """A batch with a measurement each, or one for all, is what its examples are alone."""
    p, sde = problem(), VPSDE()
    score_fn = correlated_score(sde, p.mean, p.covariance)
    rng = np.random.default_rng(2)
    x, y = (jnp.asarray(rng.normal(size=(4, n)), jnp.float32) for n in (D, M))
    t = jnp.asarray([0.05, 0.3, 0.6, 0.9])

    def guided(x, t, y):
        # Measurements that are not linear, and two axes of them.
        operator = lambda x: jnp.tanh(linear(p.matrix)(x))[:, :, None]  # noqa: E731
        return LIKELIHOODS[name](sde, operator, y[:, :, None], p.std)(score_fn)(x, t)

    batch = guided(x, t, y)
    others = guided(*(a.at[1:].multiply(0.5) for a in (x, t, y)))
    np.testing.assert_array_equal(batch[0], others[0])
    assert (batch[1:] != others[1:]).all()
    shared = guided(x, t, y[:1])
    np.testing.assert_allclose(shared, guided(x, t, jnp.repeat(y[:1], 4, 0)), rtol=1e-5)
    assert not np.allclose(batch, score_fn(x, t), rtol=1e-2)


def test_dps_follows_the_norm_of_the_residual():
    """Half the published factor is the gradient of a norm: zeta |y - A(x_hat)|, twice."""
    p, sde = problem(), VPSDE()
    score_fn = correlated_score(sde, p.mean, p.covariance)
    x, y = jnp.linspace(-1, 1, D)[None], jnp.asarray(p.y[None], jnp.float32)
    t = jnp.asarray([0.4])

    def norm(x):
        mu, sigma = (c[:, None] for c in sde.marginal_coeffs(t))
        return jnp.linalg.norm(y - linear(p.matrix)((x + sigma**2 * score_fn(x, t)) / mu))

    guided = DPS(sde, linear(p.matrix), y, p.std, zeta=0.7)(score_fn)(x, t)
    np.testing.assert_allclose(
        guided - score_fn(x, t), -2 * 0.7 * jax.grad(norm)(x), rtol=1e-4, atol=1e-5
    )


# Samples


SAMPLES = 4000


def draw(sde, condition):
    """Samples of the conditioned score, of the problem's data."""
    p = problem()
    sampler = get_pc_conditional_sampler(
        sde, condition, PREDICTORS["euler_maruyama"], CORRECTORS["none"]
    )
    score_fn = correlated_score(sde, p.mean, p.covariance)
    x, _ = simulate(lambda rng: sampler(rng, score_fn, (SAMPLES, D)))
    return np.asarray(x, np.float64)


def deviations(x, matrix=None, y=None):
    """Largest errors of mean and covariance, in units of the posterior's spread."""
    p = problem()
    matrix, y = (p.matrix, p.y) if matrix is None else (matrix, y)
    mean, covariance = linear_posterior(p.mean, p.covariance, matrix, y, p.std**2 * np.eye(M))
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    z = (x - mean) @ whiten.T
    return np.abs(z.mean(0)).max(), np.abs(z.T @ z / len(z) - np.eye(D)).max()


@pytest.mark.parametrize(
    "name, method",
    [
        ("vesde", "known covariance"),
        pytest.param("vpsde", "known covariance", marks=pytest.mark.slow),
        pytest.param("subvpsde", "known covariance", marks=pytest.mark.slow),
        ("vpsde", "mmps"),
    ],
)
def test_samples_have_the_posterior_mean_and_covariance(name, method):
    """Within 4.5 standard errors, and the 12 / N that the predictor's steps leave."""
    p, sde = problem(), SDES[name](N=400)
    y = jnp.asarray(p.y[None], jnp.float32)
    condition = exact_conditions(sde, p.matrix, p.covariance, y, p.std)[method]
    mean, covariance = deviations(draw(sde, condition))
    assert mean < 4.5 / SAMPLES**0.5, mean
    assert covariance < 4.5 * (2 / SAMPLES) ** 0.5 + 12 / sde.N, covariance


@pytest.mark.parametrize("name", but_slow(["vesde", "vpsde", "subvpsde"], "vpsde".__eq__))
def test_samples_with_a_number_for_the_covariance(name):
    """The bound that `GaussianLikelihood` states, for rows of A that are orthonormal."""
    p, sde = problem(), SDES[name](N=400)
    rows = np.linalg.qr(p.matrix.T)[0].T
    y = rows @ np.linalg.pinv(p.matrix) @ p.y
    condition = GaussianLikelihood(
        sde, linear(rows), jnp.asarray(y[None], jnp.float32), p.std, gamma=0.5
    )
    mean, covariance = deviations(draw(sde, condition), rows, y)
    assert mean < 0.25 and covariance < 0.25, (mean, covariance)


# Bad input


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_measurements_that_cannot_be_are_refused(name):
    p, sde = problem(), VPSDE()
    build = functools.partial(LIKELIHOODS[name], sde, linear(p.matrix))
    for std in (0.0, -0.1, np.array([0.1, 0.0, 0.1]), math.nan):
        with pytest.raises(ValueError, match="std=.* of a measurement must be positive"):
            build(jnp.zeros((1, M)), std)
    guided = build(jnp.zeros((1, M + 1)), 0.1)(lambda x, t: -x)
    with pytest.raises(ValueError, match=r"y has shape \(1, 4\).*\(2, 5\) into \(2, 3\)"):
        jax.eval_shape(guided, jnp.zeros((2, D)), jnp.ones(2))


IMAGES = (2, 12, 16, 3)


@pytest.mark.parametrize("y", [(2, 3, 4, 3), (1, 3, 4, 3)])
def test_measurements_that_fit(y):
    check_measurement(get_block_mean(4), jnp.zeros(IMAGES), jnp.zeros(y))


@pytest.mark.parametrize(
    "operator, y, message",
    [
        (get_block_mean(4), (2, 3, 4, 1), r"y has shape \(2, 3, 4, 1\).* into \(2, 3, 4, 3\)"),
        (get_block_mean(4), (3, 3, 4, 3), r"y has shape \(3, 3, 4, 3\)"),
        (get_block_mean(4), (3, 4, 3), r"y has shape \(3, 4, 3\)"),
        (get_block_mean(5), (2, 2, 3, 3), r"cannot take x of shape.*blocks of 5 pixels.*12x16"),
        (get_masking(np.ones((8, 8, 1))), IMAGES, r"cannot take x of shape \(2, 12, 16, 3\)"),
        (get_random_projection((4, 4), 3), (2, 3), r"cannot take x of shape \(2, 12, 16, 3\)"),
    ],
)
def test_measurements_that_do_not_fit_are_refused(operator, y, message):
    with pytest.raises(ValueError, match=message):
        check_measurement(operator, jnp.zeros(IMAGES), jnp.zeros(y))


def test_settings_that_cannot_be_are_refused():
    given = (VPSDE(), lambda x: x, jnp.zeros((1, 2)), 0.1)
    with pytest.raises(ValueError, match="gamma=-1.0 of a measurement must be at least 0"):
        GaussianLikelihood(*given, gamma=-1.0)
    with pytest.raises(ValueError, match="data_variance=0.0 of a measurement must be positive"):
        PiGDM(*given, data_variance=0.0)
    for method in (PiGDM, MMPS):
        with pytest.raises(ValueError, match="iterations=0 of a measurement must be at least 1"):
            method(*given, iterations=0)
