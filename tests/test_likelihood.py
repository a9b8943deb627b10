"""Bits per dimension: reference values, and data whose density is known."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from golden import cases, config_of, load, nhwc, params_of, parse, relative_error, sde_of
from oracles import gaussian_score, mixture_score
from scorax import likelihood
from scorax.configs import base
from scorax.datasets import get_data_inverse_scaler, get_data_scaler
from scorax.likelihood import (
    ESTIMATORS,
    EXACT_DIMENSIONS,
    Estimator,
    data_offset,
    dequantize,
    divergence_terms,
    get_configured_likelihood_fn,
    get_likelihood_fn,
    pool,
)
from scorax.models.utils import get_model, get_parametrization, get_score_fn
from scorax.sde_lib import SDES, VESDE, VPSDE
from scorax.solvers.probability_flow import get_drift, get_encoder
from slow import but_slow


def mixture_bpd(x, weights, means, variances):
    """-log2 of the density of a mixture of Gaussians at x, for each dimension."""
    log_p = norm.logpdf(x[:, None], means, np.sqrt(variances)).sum(-1) + np.log(weights)
    return -logsumexp(log_p, axis=1) / (x.shape[1] * math.log(2))


# Two modes in two dimensions, whose score has a Jacobian that is not diagonal.
MIXTURE = tuple(
    np.asarray(a, np.float32)
    for a in ([0.3, 0.7], [[-1.0, 0.5], [0.8, -0.4]], [[0.1, 0.3], [0.2, 0.05]])
)


def draw(n, weights, means, variances):
    rng = np.random.default_rng(0)
    k = rng.choice(len(weights), n, p=weights / weights.sum())
    x = means[k] + np.sqrt(variances[k]) * rng.standard_normal((n, means.shape[1]))
    return x.astype(np.float32)


# Reference values


@functools.cache
def published_likelihood(name, eps):
    """(probes, data) -> Likelihood without offset, at the published tolerance."""
    z = load("ode_likelihood")
    settings = parse(z, "config")
    sde = sde_of(name, settings)
    mean, var = (jnp.asarray(z[f"in/toy_{k}"].transpose(1, 2, 0)) for k in ("mean", "var"))
    likelihood_fn = get_likelihood_fn(
        sde,
        estimator="given",
        eps=eps,
        solver="dopri5",
        rtol=settings["rtol"],
        atol=settings["atol"],
    )
    return jax.jit(lambda probes, x: likelihood_fn(probes, gaussian_score(sde, mean, var), x))


@pytest.mark.parametrize(
    "case",
    [c for c in cases("ode_likelihood") if c["kind"] == "likelihood"],
    ids=lambda c: c["key"],
)
def test_golden_bits_per_dimension(case, monkeypatch):
    z, key = load("ode_likelihood"), case["key"]
    # The published probes stand in for the key they would be drawn with.
    monkeypatch.setitem(ESTIMATORS, "given", Estimator(lambda probes, shape, n: probes))
    run = published_likelihood(case["sde"], case["eps"])
    data, probe = (nhwc(z[k]) for k in (f"{case['sde']}/bpd/data", f"{key}/epsilon"))
    result = run(probe[None], data)
    inverse_scaler = {"(x+1)/2": lambda x: (x + 1) / 2, "identity": lambda x: x}
    offset = data_offset(inverse_scaler[case["inverse_scaler"]])
    assert relative_error(result.bpd + offset, z[f"{key}/bpd"]) < 1e-4
    assert relative_error(result.z, nhwc(z[f"{key}/z"])) < 1e-4


@pytest.mark.parametrize(
    "case",
    but_slow(
        [c for c in cases("ode_likelihood") if c["kind"] == "net_divergence"],
        lambda c: c["sde"] == "vp",
        ids=lambda c: c["key"],
    ),
)
def test_golden_divergence_of_a_network(case):
    z, key = load("ode_likelihood"), case["key"]
    config = config_of(parse(z, f"{case['model']}/config"))
    params = params_of(z, f"{case['model']}/params/", config)
    sde = sde_of(case["sde"], parse(z, "config"))
    score_fn = get_score_fn(sde, get_model(config), params, {}, get_parametrization(config, sde))
    x, probe = (jnp.asarray(nhwc(z[f"{key}/{name}"])) for name in ("x", "epsilon"))
    terms = jax.jit(functools.partial(divergence_terms, get_drift(sde, score_fn)))
    dx, div = terms(probe[None], jnp.asarray(z[f"{key}/t"]), x)
    assert relative_error(dx, nhwc(z[f"{key}/drift"])) < 1e-4
    assert relative_error(div[:, 0], z[f"{key}/div"]) < 1e-4


@functools.cache
def exact_likelihood(sde, eps):
    """In double precision, compiled once for each number of dimensions."""
    likelihood_fn = get_likelihood_fn(sde, estimator="exact", eps=eps, rtol=1e-8, atol=1e-8)

    @jax.jit
    def run(x, *mixture):
        return likelihood_fn(jax.random.key(0), mixture_score(sde, *mixture), x)

    return run


def closed_forms():
    for case in cases("likelihood_exact"):
        if case["kind"] == "likelihood":
            slow = [pytest.mark.slow] if case["D"] == 2 else []  # each compiles anew
            yield pytest.param(case, marks=slow, id=case["key"])


@pytest.mark.parametrize("case", list(closed_forms()))
def test_golden_closed_forms(case):
    z, key, prefix = load("likelihood_exact"), case["key"], f"in/d{case['D']}"
    if case["data"] == "gauss":  # a mixture of two that are equal
        twice = [np.stack([z[f"{prefix}/gauss_{k}_f64"]] * 2) for k in ("mean", "var")]
        mixture = (np.array([0.5, 0.5]), *twice)
    else:
        mixture = [z[f"{prefix}/mix_{k}_f64"] for k in ("weights", "means", "vars")]
    sde = sde_of(case["sde"], {**parse(z, "config"), "N": 1000})
    with jax.enable_x64(True):
        result = exact_likelihood(sde, case["eps"])(z[case["x"]], *mixture)
        log_p = sde.prior_logp(z[f"{key}/latent_f64"])
        log_det = -result.bpd * case["D"] * math.log(2) - sde.prior_logp(result.z)
        for i, t in enumerate(case["t"]):
            xt = z[f"{key}/xt{i}_f64"]
            score = mixture_score(sde, *mixture)(xt, jnp.full(len(xt), t))
            assert relative_error(score, z[f"{key}/score{i}_f64"]) < 1e-9
    assert relative_error(log_p, z[f"{key}/prior_logp_f64"]) < 1e-12
    assert relative_error(result.z, z[f"{key}/latent_f64"]) < 1e-6
    assert relative_error(result.bpd, z[f"{key}/bpd_model_f64"]) < 1e-6
    assert relative_error(log_det, z[f"{key}/log_det_f64"]) < 1e-6
    assert not np.asarray(result.stderr).any()


# Densities


@pytest.mark.parametrize("estimator", [name for name, row in ESTIMATORS.items() if not row.exact])
def test_estimates_lie_within_their_standard_error_of_the_density(estimator):
    """For a VP whose prior is the end of the data's process to all digits."""
    sde, x = VPSDE(beta_max=40.0), draw(2000, *MIXTURE)
    likelihood_fn = get_likelihood_fn(sde, estimator=estimator, n_probes=20)
    score_fn = mixture_score(sde, *MIXTURE)
    result = jax.jit(lambda rng: likelihood_fn(rng, score_fn, x))(jax.random.key(1))
    error = np.asarray(result.bpd) - mixture_bpd(x, *MIXTURE)
    variance = np.square(np.asarray(result.stderr, np.float64)).mean()
    assert np.square(error).mean() == pytest.approx(variance, rel=0.15)
    assert abs(error.mean()) < 4.5 * math.sqrt(variance / len(x))


@pytest.mark.parametrize("name", but_slow(SDES, ("vesde", "cosine").__contains__))
def test_density_integrates_to_one(name):
    """Over a grid in one dimension, which for VE reaches far: the prior adds nothing, but moves."""
    sde = SDES[name]()
    mixture = [np.asarray(a, np.float32) for a in ([0.4, 0.6], [[-1.0], [0.5]], [[0.2], [0.1]])]
    x = np.linspace(-5, 5, 801, dtype=np.float32)[:, None]
    likelihood_fn = get_likelihood_fn(sde, estimator="exact", rtol=1e-6, atol=1e-6)
    result = jax.jit(lambda: likelihood_fn(jax.random.key(0), mixture_score(sde, *mixture), x))()
    density = np.exp(-np.asarray(result.bpd, np.float64) * math.log(2))
    assert density.sum() * 10 / 800 == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_latents_and_evaluations_are_those_of_the_encoder():
    """Same eps and tolerance; the divergence takes part in choosing the steps."""
    sde, x = VESDE(sigma_max=20.0), draw(6, *MIXTURE)
    score_fn = mixture_score(sde, *MIXTURE)
    result = jax.jit(
        lambda: get_likelihood_fn(sde, n_probes=3, error_control="sample")(
            jax.random.key(0), score_fn, x
        )
    )()
    z, nfe = jax.jit(lambda: get_encoder(sde, eps=1e-5)(score_fn, x))()
    np.testing.assert_allclose(result.z, z, atol=1e-3 * sde.prior_std)
    assert int(nfe) - 30 <= int(result.nfe) <= int(nfe) + 60
    assert result.bpd.shape == result.stderr.shape == (6,)


def test_one_probe_shows_no_standard_error():
    sde, x = VPSDE(), draw(3, *MIXTURE)
    likelihood_fn = get_likelihood_fn(sde)
    run = jax.jit(lambda rng: likelihood_fn(rng, mixture_score(sde, *MIXTURE), x))
    one, other = run(jax.random.key(0)), run(jax.random.key(1))
    assert np.isnan(one.stderr).all()
    assert np.abs(one.bpd - other.bpd).max() > 1e-3


# 8-bit data


@pytest.mark.slow
def test_the_range_of_the_data_does_not_change_the_bits():
    """The same Gaussian images in [0, 1] and in [-1, 1]: the offset makes up for the scale."""
    sde, bits = VPSDE(beta_max=40.0), []
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 1)).astype(np.uint8)
    for centered in (False, True):
        config = base.get_config()
        config.data.centered, config.eval.bpd_estimator = centered, "exact"
        scale = get_data_scaler(config)
        mean, std = scale(0.4), scale(0.3) - scale(0.0)
        x = scale(dequantize(jax.random.key(0), images))
        likelihood_fn = get_configured_likelihood_fn(config, sde)
        score_fn = gaussian_score(sde, mean, std**2)
        run = jax.jit(functools.partial(likelihood_fn, jax.random.key(0), score_fn))
        bits.append(np.asarray(run(x).bpd))
    density = norm.logpdf(np.asarray(dequantize(jax.random.key(0), images)), 0.4, 0.3)
    np.testing.assert_allclose(bits[0], 8 - density.mean((1, 2, 3)) / math.log(2), atol=2e-3)
    np.testing.assert_allclose(bits[1], bits[0], atol=2e-3)


@pytest.mark.parametrize("centered, bits", [(True, 7.0), (False, 8.0)])
def test_offset_follows_the_scaler(centered, bits):
    config = base.get_config()
    config.data.centered = centered
    assert data_offset(get_data_inverse_scaler(config)) == bits


def test_config_selects_what_it_names(monkeypatch):
    config = base.get_config()
    config.eval.bpd_estimator, config.eval.bpd_probes = "gaussian", 3
    config.eval.bpd_rtol, config.eval.bpd_atol, config.eval.bpd_eps = 1e-3, 1e-4, 1e-2
    config.sampling.ode_solver, config.sampling.error_control = "dopri5", "sample"
    noted = functools.wraps(get_likelihood_fn)(lambda *args, **kwargs: (args, kwargs))
    monkeypatch.setattr(likelihood, "get_likelihood_fn", noted)
    sde = VPSDE()
    args, kwargs = likelihood.get_configured_likelihood_fn(config, sde)
    assert args == (sde,) and kwargs == dict(
        estimator="gaussian", n_probes=3, eps=1e-2, offset=8.0, rtol=1e-3, atol=1e-4,
        solver="dopri5", error_control="sample",
    )  # fmt: skip
    get_likelihood_fn(*args, **kwargs)


def test_dequantization_fills_each_grey_level_evenly():
    images = np.arange(256, dtype=np.uint8).reshape(2, 8, 16, 1).repeat(50, 0)
    x = np.asarray(dequantize(jax.random.key(0), images), np.float64)
    assert x.dtype == np.float64 and 0 <= x.min() and x.max() < 1
    np.testing.assert_array_equal(np.floor(x * 256), images)
    u = x * 256 - images
    n = u.size
    assert abs(u.mean() - 0.5) < 4.5 / math.sqrt(12 * n)
    assert u.var() == pytest.approx(1 / 12, rel=4.5 * math.sqrt(0.8 / n))
    # The same images as numbers in [0, 1], as a data set gives them after the inverse scaler.
    floats = (images.astype(np.float32) / 255 * 2 - 1 + 1) / 2
    np.testing.assert_array_equal(dequantize(jax.random.key(0), floats), x.astype(np.float32))


@pytest.mark.parametrize(
    "images",
    [
        np.random.default_rng(0).random((2, 4)),
        np.array([0.0, 1.0, 1.5 / 255]),
        np.array([-1.0, 1.0]),
        np.array([0.0, 256 / 255]),
        np.array([0.0, np.nan]),
        np.array([0, 128, 255]),
    ],
    ids=["uniform", "half level", "centered", "too large", "nan", "integers"],
)
def test_data_that_are_not_8_bit_are_refused(images):
    with pytest.raises(ValueError, match="8-bit images.*uniform_dequantization=False"):
        dequantize(jax.random.key(0), images)


# Means over a data set


def test_a_ragged_last_batch_counts_what_it_holds():
    values = np.random.default_rng(0).normal(3.0, 0.5, (2, 10))
    padded = np.concatenate([values, np.full((2, 6), 1e6)], axis=1)
    mean = pool(padded, mask=np.arange(16) < 10)
    assert mean.count == 10
    assert mean.mean == pytest.approx(values.mean())
    # Repetitions of one example are not independent examples.
    each = (values[0] + values[1]) / 2
    assert mean.stderr == pytest.approx(each.std(ddof=1) / math.sqrt(10))
    assert pool(values[0]) == pool(values[:1])


def test_the_mean_of_one_example_has_no_standard_error_and_of_none_no_value():
    assert math.isnan(pool(np.array([3.0])).stderr)
    with pytest.raises(ValueError, match="no example"):
        pool(np.array([3.0, 4.0]), mask=np.array([False, False]))


# Errors


@pytest.mark.parametrize(
    "change, message",
    [
        ({"estimator": "hutchinson"}, "bpd_estimator.*'hutchinson'.*rademacher, gaussian, exact"),
        ({"n_probes": 0}, "n_probes=0.*eval.bpd_probes"),
        ({"eps": 0.0}, "eps=0.0.*eval.bpd_eps"),
        ({"eps": 1.0}, "eps=1.0.*eval.bpd_eps"),
        ({"rtol": 0.0}, "rtol=0.0.*eval.bpd_rtol"),
        ({"atol": -1.0}, "atol=-1.0.*bpd_atol"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        get_likelihood_fn(VPSDE(), **change)


def test_the_exact_trace_of_large_data_is_refused():
    likelihood_fn = get_likelihood_fn(VPSDE(), estimator="exact")
    x = np.zeros((1, EXACT_DIMENSIONS + 1), np.float32)
    with pytest.raises(ValueError, match="257 products.*at most 256.*bpd_estimator='rademacher'"):
        likelihood_fn(jax.random.key(0), lambda x, t: -x, x)
