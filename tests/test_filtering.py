"""Posteriors of chains: the exact ones of linear chains, and those that converge to them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import cases, load
from scorax.data_sources.dynamics import DampedSpring, Lorenz63
from scorax.metrics.filtering import (
    LinearChain,
    kalman_filter,
    kalman_smoother,
    particle_filter,
    weak_4d_var,
)
from scorax.metrics.points import wasserstein

CASES = pytest.mark.parametrize(
    "case",
    [c for c in cases("likelihood_exact") if c["kind"] == "state_space"],
    ids=lambda c: c["key"],
)


@CASES
def test_golden_kalman_filter_and_smoother(case):
    z, key = load("likelihood_exact"), case["key"]
    one = np.eye(1)
    chain = LinearChain(
        np.array([case["m0"]]),
        case["v0"] * one,
        case["a"] * one,
        np.array([case["b"]]),
        case["Q"] * one,
        case["H"] * one,
        case["obs_std"] ** 2 * one,
    )
    y = np.full((case["L"], 1), np.nan)
    y[case["obs_index"], 0] = z[f"{key}/y_f64"]
    found = {"filter": kalman_filter(chain, y), "posterior": kalman_smoother(chain, y)}
    for name, gaussians in found.items():
        np.testing.assert_allclose(gaussians.mean[:, 0], z[f"{key}/{name}_mean_f64"], atol=1e-10)
    np.testing.assert_allclose(
        found["filter"].covariance[:, 0, 0], z[f"{key}/filter_var_f64"], atol=1e-10
    )
    np.testing.assert_allclose(
        found["posterior"].covariance[:, 0, 0],
        np.diag(z[f"{key}/posterior_cov_f64"]),
        atol=1e-10,
    )
    assert found["posterior"].log_evidence == pytest.approx(float(z[f"{key}/log_evidence_f64"]))


def spring(std):
    """A damped spring whose position and wind are observed, as a `LinearChain`."""
    spring = DampedSpring(dt=0.1)
    h = np.eye(4)[[0, 3]]
    return spring, LinearChain(
        spring.first_mean,
        spring.first_covariance,
        spring.matrix,
        np.zeros(4),
        np.diag(spring.std**2),
        h,
        std**2 * np.eye(2),
    )


def test_particles_converge_to_the_smoother():
    chain, linear = spring(0.5)
    length, particles = 12, 40_000
    rng = np.random.default_rng(1)
    path = chain.simulate(jax.random.key(0), chain.first(jax.random.key(1), 1), length)[0]
    observed = np.arange(length) % 3 == 2
    y = np.full((length, 2), np.nan)
    y[observed] = np.asarray(path)[observed] @ linear.h.T + 0.5 * rng.standard_normal((4, 2))
    exact = kalman_smoother(linear, y)

    def log_likelihood(x, y):
        return -((jnp.matmul(x, jnp.asarray(linear.h.T, jnp.float32)) - y[None]) ** 2).sum(-1) / 0.5

    run = functools.partial(particle_filter, chain=chain, log_likelihood=log_likelihood)
    x = run(
        jax.random.key(2), y=jnp.asarray(y[observed], jnp.float32), observed=observed,
        particles=particles,
    )  # fmt: skip
    assert x.shape == (particles, length, 4)
    std = np.sqrt(np.diagonal(exact.covariance, axis1=1, axis2=2))
    # The lines of the first states descend from few particles: measured, 0.03 and 4 %.
    assert (np.abs(np.mean(x, 0) - exact.mean) < 0.08 * std).all()
    np.testing.assert_allclose(np.std(x, 0), std, rtol=0.1)


def test_4d_var_finds_the_mean_of_a_linear_chain():
    """The mode of a Gaussian is its mean."""
    chain, linear = spring(0.2)
    length = 8
    path = np.asarray(chain.simulate(jax.random.key(0), chain.first(jax.random.key(1), 1), length))
    y = path[0] @ linear.h.T
    exact = kalman_smoother(linear, y)

    def log_likelihood(path):
        h = jnp.asarray(linear.h.T, jnp.float32)
        return -((jnp.matmul(path, h) - jnp.asarray(y, jnp.float32)) ** 2).sum() / (2 * 0.2**2)

    found = weak_4d_var(chain, log_likelihood, jnp.zeros((length, 4)), 300)
    std = np.sqrt(np.diagonal(exact.covariance, axis1=1, axis2=2))
    np.testing.assert_allclose(found, exact.mean, atol=0.02 * std.max())


def test_observations_of_a_chaotic_system_narrow_the_filter():
    chain = Lorenz63()
    first = chain.first(jax.random.key(0), 4000)
    path = chain.simulate(jax.random.key(1), first[:1], 20)[0]
    y = path[::4, :1]

    def log_likelihood(x, y):
        return -((x[..., :1] - y[None]) ** 2).sum(-1) / (2 * 0.4**2)

    x = particle_filter(jax.random.key(2), chain, log_likelihood, y, np.arange(20) % 4 == 0, 4000)
    x, path = np.asarray(x), np.asarray(path)
    assert np.abs(x[:, ::4, 0] - path[::4, 0]).mean() < 1.0
    assert x[:, 16:].std(0).max() < 0.5 * np.std(first, 0).min()


def test_our_distance_is_that_of_pot():
    ot = pytest.importorskip("ot", reason="POT is not installed")
    a, b = np.random.default_rng(0).standard_normal((2, 64, 5))
    assert wasserstein(a, b, 1) == pytest.approx(ot.emd2([], [], ot.dist(a, b, "euclidean")))
