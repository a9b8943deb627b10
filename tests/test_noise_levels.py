"""Noise levels: their distributions, their weights, and what a config may ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorax.configs import base
from scorax.losses import score_matching_error
from scorax.noise_levels import (
    TRAIN_EPS,
    discrete_levels,
    edm_levels,
    get_level_fn,
    importance_levels,
    uniform_levels,
)
from scorax.sde_lib import SDES, VESDE, VPSDE, get_sde, iddpm_sigmas, subVPSDE

ALL = pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=list(SDES))


@ALL
def test_uniform_levels_span_the_times(sde):
    levels = uniform_levels(sde, jnp.asarray([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(levels.t, [TRAIN_EPS, 0.5 + TRAIN_EPS / 2, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(levels.weight, 1)
    weighted = uniform_levels(sde, jnp.asarray([0.2, 0.5, 0.9]), likelihood_weighting=True)
    _, g = sde.sde(jnp.ones((3, 1)), weighted.t)
    # Together with sigma^2 in the error this is g^2 ||s - score||^2.
    np.testing.assert_allclose(weighted.weight * weighted.sigma**2, g**2, rtol=1e-5)


@ALL
def test_edm_levels_have_the_lognormal_ratio_and_stay_in_range(sde):
    n = jnp.asarray(np.linspace(-1.5, 1.5, 31), jnp.float32)
    levels = edm_levels(sde, n, -1.2, 1.2, 0.5)
    ratio = np.asarray(levels.sigma / levels.mu)
    np.testing.assert_allclose(ratio, np.exp(-1.2 + 1.2 * np.asarray(n)), rtol=2e-5)
    # lambda(sigma) of EDM, for the error in units of the noise.
    np.testing.assert_allclose(levels.weight, (ratio**2 + 0.25) / 0.25, rtol=1e-4)
    far = edm_levels(sde, jnp.asarray([-60.0, 60.0]), -1.2, 1.2, 0.5)
    assert all(np.isfinite(part).all() for part in far)
    np.testing.assert_allclose(far.t, [TRAIN_EPS, sde.T], rtol=1e-6)


@pytest.mark.parametrize("sde", [VESDE(N=50), VPSDE(N=50)])
def test_discrete_levels_are_those_of_the_sampler(sde):
    """Training level k and the sampler's time k / (N - 1) must meet in the same entry."""
    k = jnp.arange(50)
    levels = discrete_levels(sde, k)
    np.testing.assert_array_equal(sde.level_index(levels.t), k)
    mu, sigma = sde.discrete_coeffs(k)
    np.testing.assert_array_equal(levels.mu, mu)
    np.testing.assert_array_equal(levels.sigma, sigma)
    assert levels.sigma[0] < levels.sigma[-1]


def keys(n, seed=0):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(n))


@pytest.mark.parametrize("objective", ["continuous", "discrete", "edm"])
def test_levels_are_drawn_from_their_distribution(objective):
    config = base.get_config()
    config.training.continuous = objective != "discrete"
    config.training.objective = "edm" if objective == "edm" else "score"
    sde = get_sde(config)
    n = 20_000
    levels = get_level_fn(config, sde)(keys(n))
    t = np.asarray(levels.t, np.float64)
    if objective == "edm":
        log_ratio = np.log(np.asarray(levels.sigma, np.float64))
        assert log_ratio.mean() == pytest.approx(-1.2, abs=4.5 * 1.2 / np.sqrt(n))
        assert log_ratio.std() == pytest.approx(1.2, abs=4.5 * 1.2 / np.sqrt(2 * n))
    else:
        assert t.mean() == pytest.approx(0.5, abs=4.5 / np.sqrt(12 * n))
        assert t.var() == pytest.approx(1 / 12, abs=4.5 * np.sqrt(1 / 180 / n) + 2e-4)
    if objective == "discrete":
        k = np.asarray(sde.level_index(levels.t))
        assert k.min() < 5 and k.max() > sde.N - 6 and len(np.unique(k)) > 990


@pytest.mark.parametrize(
    "objective, sde",
    [("edm_vp", VPSDE()), ("edm_ve", VESDE()), ("edm_iddpm", VESDE(1e-3, 3e4))],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_other_columns_of_the_edm_table_are_uniform_in_what_they_count(objective, sde):
    """VP: the time of the VP SDE; VE: that of the VE SDE; iDDPM: the number of its level."""
    config = base.get_config()
    config.training.objective = objective
    n = 20_000
    levels = get_level_fn(config, sde)(keys(n))
    np.testing.assert_array_equal(levels.weight, 1)
    position = np.asarray(levels.t, np.float64)
    if objective == "edm_iddpm":
        log_sigmas = np.log(iddpm_sigmas()[-2::-1])  # rising
        position = np.interp(np.log(levels.sigma), log_sigmas, np.arange(1000))
        assert np.abs(position - position.round()).max() < 0.01
        assert len(np.unique(position.round())) == 1000
        position /= 999
    assert position.mean() == pytest.approx(0.5, abs=4.5 / np.sqrt(12 * n))
    assert position.var() == pytest.approx(1 / 12, abs=4.5 * np.sqrt(1 / 180 / n) + 2e-4)


@ALL
def test_importance_sampling_keeps_the_mean_of_the_weighted_loss_and_lowers_its_variance(sde):
    """The exact score of data N(0, 0.3) but for its scale, so that no time has a small loss."""
    n = 100_000
    u = jax.random.uniform(jax.random.key(0), (2, n))
    x_0, z = (jax.random.normal(jax.random.key(i), (n, 1)) for i in (1, 2))
    weighted = (uniform_levels(sde, u[0], likelihood_weighting=True), importance_levels(sde, u[1]))
    losses = []
    for levels in weighted:
        total = 0.3 * levels.mu**2 + levels.sigma**2
        score_fn = lambda x, t, total=total: -0.8 * x / total[:, None]  # noqa: E731
        errors = score_matching_error(score_fn, 0.3**0.5 * x_0, levels, z)
        losses.append(np.asarray(errors, np.float64))
    uniform, importance = losses
    standard_error = np.hypot(uniform.std(), importance.std()) / np.sqrt(n)
    assert abs(uniform.mean() - importance.mean()) < 4.5 * standard_error
    np.testing.assert_array_equal(weighted[1].weight, weighted[1].weight[0])
    if np.ptp(weighted[0].weight) < 1e-3 * weighted[0].weight[0]:  # VE: both are uniform in time
        np.testing.assert_allclose(importance_levels(sde, u[0]).t, weighted[0].t, atol=1e-5)
    else:
        assert importance.var() < uniform.var() / 2


def test_importance_sampling_is_a_switch():
    config = base.get_config()
    config.training.likelihood_weighting = config.training.importance_sampling = True
    levels, n = get_level_fn(config, VPSDE())(keys(20_000)), 20_000
    first, last = VPSDE().log_snr(jnp.asarray([TRAIN_EPS, 1.0]))
    position = (VPSDE().log_snr(levels.t) - first) / (last - first)
    assert np.mean(position) == pytest.approx(0.5, abs=4.5 / np.sqrt(12 * n))
    assert np.var(position) == pytest.approx(1 / 12, abs=4.5 * np.sqrt(1 / 180 / n))
    np.testing.assert_array_equal(levels.weight, levels.weight[0])


@ALL
def test_importance_sampling_draws_in_proportion_to_the_weight(sde):
    """The integral of g^2 / sigma^2 up to the u-th quantile is the fraction u of the whole."""
    u = np.linspace(0, 1, 9)
    quantiles = importance_levels(sde, jnp.asarray(u, jnp.float32)).t
    assert quantiles[0] == pytest.approx(TRAIN_EPS, rel=1e-2)
    assert quantiles[-1] == pytest.approx(sde.T)
    with jax.enable_x64(True):
        t = jnp.geomspace(TRAIN_EPS, sde.T, 20_001)
        weight = uniform_levels(sde, (t - TRAIN_EPS) / (sde.T - TRAIN_EPS), TRAIN_EPS, True).weight
        t, weight = np.asarray(t), np.asarray(weight)
    mass = np.append(0, np.cumsum(np.diff(t) * (weight[1:] + weight[:-1]) / 2))
    np.testing.assert_allclose(np.interp(quantiles, t, mass) / mass[-1], u, atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"training.objective": "dsm"}, "'dsm'.*score, edm, edm_vp"),
        (
            {"training.importance_sampling": True},
            "importance_sampling=True.*likelihood_weighting=True",
        ),
        (
            {"training.likelihood_weighting": True, "training.continuous": False},
            "likelihood_weighting=True.*training.continuous=True",
        ),
        (
            {"training.likelihood_weighting": True, "training.objective": "edm"},
            "likelihood_weighting=True.*objective='score'",
        ),
        (
            {"training.objective": "edm_vp", "training.continuous": False},
            "'edm_vp' needs training.continuous=True",
        ),
        (
            {"training.sde": "subvpsde", "training.continuous": False},
            "subvpsde.*subVPSDE.*training.continuous=True",
        ),
        ({"training.sde": "cosine", "training.continuous": False}, "cosine.*SignalSDE"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_objectives_that_exclude_each_other_are_refused(change, message):
    config = base.get_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        get_level_fn(config, get_sde(config))


def test_subvp_trains_with_the_continuous_objective():
    config = base.get_config()
    config.training.sde = "subvpsde"
    n = 1000
    levels = get_level_fn(config, subVPSDE())(keys(n))
    t = np.asarray(levels.t, np.float64)
    assert t.mean() == pytest.approx(0.5, abs=4.5 / np.sqrt(12 * n))
    integral = 0.1 * t + 19.9 * t**2 / 2  # of beta
    np.testing.assert_allclose(levels.mu, np.exp(-integral / 2), rtol=1e-5)
    np.testing.assert_allclose(levels.sigma, -np.expm1(-integral), rtol=1e-5)
