"""The SDEs: reference values, and what has to hold for every row of the table."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from golden import assert_golden, load, nhwc, parse, relative_error, sde_of
from oracles import toy_score
from scorax import sde_lib
from scorax.configs import base
from scorax.sampling import time_grid
from scorax.sde_lib import SDES, VESDE, VPSDE, SigmaPowerSDE, SignalSDE, subVPSDE
from scorax.utils.schedules import NOISES, SIGNALS
from simulation import simulate

pytestmark = pytest.mark.usefixtures("strict_dtypes")
SIGNAL_SDES = {
    f"{signal}-{noise}": SignalSDE(signal=signal, noise=noise)
    for signal in SIGNALS
    for noise in NOISES
    if (signal, noise) != ("cos", "vp")
}
EACH = {name: cls() for name, cls in SDES.items()} | SIGNAL_SDES
ALL = pytest.mark.parametrize("sde", list(EACH.values()), ids=list(EACH))
GOLDEN = pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
# Up to the end, and so close to the data that naive formulas cancel.
TIMES = np.concatenate([np.geomspace(1e-5, 0.1, 30), np.linspace(0.11, 1.0, 60)]).astype(np.float32)


# Reference values


@pytest.fixture
def numbers():
    return load("sde_numbers")


def golden_setting(z, name):
    sde = sde_of(name, parse(z, "config"))
    return sde, jnp.asarray(nhwc(z["in/x"])), jnp.asarray(z["in/t"])


@GOLDEN
def test_golden_forward_process(numbers, name):
    sde, x, t = golden_setting(numbers, name)
    results = {}
    results["marginal_mean"], results["marginal_std"] = sde.marginal_prob(x, t)
    results["sde_drift"], results["sde_diffusion"] = sde.sde(x, t)
    results["discretize_f"], results["discretize_G"] = sde.discretize(x, t)
    results["prior_logp"] = sde.prior_logp(x)
    for key, value in results.items():
        assert_golden(value, numbers, f"{name}/{key}")


@GOLDEN
@pytest.mark.parametrize("flow", [False, True], ids=["sde", "ode"])
def test_golden_reverse_process(numbers, name, flow):
    sde, x, t = golden_setting(numbers, name)
    score_fn = toy_score(sde)
    assert_golden(score_fn(x, t), numbers, f"{name}/score")
    reverse = sde.reverse(score_fn, probability_flow=flow)
    prefix = f"{name}/reverse_pf_" if flow else f"{name}/reverse_"
    drift, diffusion = reverse.sde(x, t)
    f, G = reverse.discretize(x, t)
    assert_golden(drift, numbers, prefix + "drift")
    assert_golden(diffusion, numbers, prefix + "diffusion")
    assert_golden(f, numbers, prefix + "discretize_f")
    assert_golden(G, numbers, prefix + "discretize_G")


@pytest.mark.parametrize(
    "key",
    ["ve/discrete_sigmas", "vp/discrete_betas", "vp/alphas", "vp/alphas_cumprod"]
    + ["vp/sqrt_alphas_cumprod", "vp/sqrt_1m_alphas_cumprod"],
)
def test_golden_tables(numbers, key):
    name, table = key.split("/")
    values = getattr(sde_of(name, parse(numbers, "config")), table)
    assert_golden(values, numbers, key)
    # Also relative to each entry, because the entries span orders of magnitude.
    np.testing.assert_allclose(values, numbers[key], rtol=2e-4)


@GOLDEN
def test_marginal_std_is_closer_to_the_truth_than_the_published_one(numbers, name):
    sde, x, t = golden_setting(numbers, name)
    _, std = sde.marginal_prob(x, t)
    exact = numbers[f"{name}/marginal_std_f64"]
    np.testing.assert_allclose(np.asarray(std, np.float64), exact, rtol=2e-6)
    if name != "ve":  # published: 1 - exp(...) in float32, which loses up to all its digits
        published = np.abs(numbers[f"{name}/marginal_std"] / exact - 1)
        assert published[0] > 1e-3


# Contracts over the table


@ALL
def test_moments_obey_the_sde(sde):
    """d mu / dt = f mu and d sigma^2 / dt = 2 f sigma^2 + g^2 (Song et al. 2021, eq. 12)."""
    with jax.enable_x64(True):
        t = jnp.asarray(TIMES, jnp.float64)

        def moments(t):
            mu, sigma = sde.marginal_coeffs(t)
            return mu, sigma**2

        (mu, var), (dmu, dvar) = jax.jvp(moments, (t,), (jnp.ones_like(t),))
        f, g = sde.sde(jnp.ones_like(t)[:, None], t)
        f = f[:, 0]
        assert t.dtype == var.dtype == g.dtype == jnp.float64
        np.testing.assert_allclose(dmu, f * mu, rtol=1e-9, atol=1e-12)
        # 2 f sigma^2 and g^2 may cancel: compare on their scale.
        scale = np.abs(2 * f * var) + np.abs(g**2)
        assert np.abs((dvar - 2 * f * var - g**2) / scale).max() < 1e-9


EXACT_SIGMA = {
    "vesde": lambda t: 0.01 * 5000.0**t,
    "vpsde": lambda t: np.sqrt(1 - np.exp(-(0.1 * t + 9.95 * t**2))),
    "subvpsde": lambda t: 1 - np.exp(-(0.1 * t + 9.95 * t**2)),
    "sigma_power": lambda t: np.sqrt((25.0 ** (2 * t) - 1) / (2 * np.log(25.0))),
    "cosine": lambda t: np.sqrt(1 - np.cos(np.arccos(np.sqrt(1e-3)) * t) ** 4 + 1e-6),
}


@pytest.mark.parametrize("name", list(EXACT_SIGMA))
def test_float32_sigma_keeps_its_digits_near_the_data(name):
    """The textbook formulas lose every digit in float32 at t = 1e-5; the code must not.

    They are exact enough in double precision: 1 - exp(-1e-6) is then off by 1e-10.
    """
    _, sigma = SDES[name]().marginal_coeffs(jnp.asarray(TIMES))
    assert sigma.dtype == jnp.float32
    np.testing.assert_allclose(
        np.asarray(sigma, np.float64), EXACT_SIGMA[name](TIMES.astype(np.float64)), rtol=4e-6
    )


@ALL
def test_everything_is_accurate_in_float32(sde):
    def values(t):
        f, g = sde.sde(jnp.ones_like(t)[:, None], t)
        return {"mu": sde.marginal_coeffs(t)[0], "f": f[:, 0], "g": g, "log_snr": sde.log_snr(t)}

    single = values(jnp.asarray(TIMES))
    with jax.enable_x64(True):
        double = jax.tree.map(np.asarray, values(jnp.asarray(TIMES, jnp.float64)))
    for key, value in single.items():
        assert value.dtype == jnp.float32 and double[key].dtype == np.float64
        np.testing.assert_allclose(value, double[key], rtol=2e-5, atol=1e-6, err_msg=key)


@ALL
def test_noise_grows_from_the_data_to_the_prior(sde):
    t = jnp.asarray(TIMES)
    mu, sigma = sde.marginal_coeffs(t)
    assert (np.diff(sigma) > 0).all() and (np.diff(mu) <= 0).all()
    assert mu[0] == pytest.approx(1, abs=1e-3) and sigma[0] < 0.02
    # At T the kernel has to have forgotten the data and to have the spread of the prior.
    assert sigma[-1] == pytest.approx(sde.prior_std, rel=1e-3)
    assert mu[-1] / sigma[-1] < 0.15


@ALL
def test_log_snr_falls_and_its_inverse_inverts_it(sde):
    t = jnp.asarray(TIMES)
    log_snr = sde.log_snr(t)
    # An SDE that has noise eta at t = 0 already gets more of it only slowly.
    assert (np.diff(log_snr) <= 0).all() and (np.diff(log_snr[::10]) < 0).all()
    back = sde.time_of_log_snr(log_snr)
    # Where the noise level hardly depends on t, rounding of log_snr moves t: weigh with the slope.
    _, slope = jax.jvp(sde.log_snr, (t,), (jnp.ones_like(t),))
    # A linear signal all but vanishes at t = 1, where rounding of t itself shows.
    rounding = np.abs(slope) * 2 * np.finfo(np.float32).eps
    limit = 1e-5 * (1 + np.abs(log_snr)) + rounding
    np.testing.assert_array_less(np.abs(slope * (back - t)), limit)
    if not isinstance(sde, SignalSDE):  # which has noise eta at t = 0 already
        np.testing.assert_allclose(back, t, rtol=1e-4, atol=1e-7)

    levels = jnp.linspace(log_snr[0], log_snr[-1], 201)
    times = sde.time_of_log_snr(levels)
    assert times[0] < 2e-5 and times[-1] == pytest.approx(1, abs=1e-5)
    assert (np.diff(times) > 0).all()
    limit = 1e-5 * (1 + np.abs(np.asarray(levels))) + np.interp(times, t, rounding)
    np.testing.assert_array_less(np.abs(sde.log_snr(times) - levels), limit)


@ALL
def test_time_of_log_snr_holds_far_outside_the_range(sde):
    """Below the noise that an SDE has at t = 0 there is no time: it returns 0."""
    levels = jnp.asarray([-80.0, -30.0, 30.0, 80.0])
    times = sde.time_of_log_snr(levels)
    assert (np.diff(times) <= 0).all()
    found, first = sde.log_snr(times), sde.log_snr(jnp.zeros(()))
    expected = np.where(times == 0, first, levels)
    linear = getattr(sde, "signal", "") == "lin"  # in which rounding of t is all of mu < 1e-6
    k = 2 if linear else 1
    np.testing.assert_allclose(found[k:], expected[k:], rtol=1e-4)
    assert np.isfinite(times[0]) and found[0] < (-25 if linear else -60)  # next to mu = 0


@ALL
def test_prior_density_is_the_normal_density(sde):
    z = sde.prior_sampling(jax.random.key(0), (5, 3, 4, 2))
    expected = scipy.stats.norm.logpdf(np.asarray(z, np.float64), scale=sde.prior_std)
    np.testing.assert_allclose(sde.prior_logp(z), expected.sum((1, 2, 3)), rtol=1e-5)


@ALL
def test_prior_samples_have_the_moments_of_the_prior(sde):
    n = 200_000
    z = np.asarray(sde.prior_sampling(jax.random.key(1), (n, 1)), np.float64) / sde.prior_std
    assert abs(z.mean()) < 4.5 / math.sqrt(n)
    assert abs(z.var() - 1) < 4.5 * math.sqrt(2 / n)
    assert scipy.stats.kstest(z[:, 0], "norm").pvalue > 1e-3


@ALL
def test_forward_chain_reaches_the_marginals(sde):
    """N steps of `discretize` from a fixed x_0 give the mean and spread of the perturbation kernel.

    The allowance beyond sampling error is the chain's own discretisation error, of order 1 / N:
    a chain x + f x + G z with Euler's G^2 settles at a variance that is |f| / 2 too large.
    """
    n, x_0 = 8_000, 2.0
    times = jnp.linspace(0.0, sde.T, sde.N)
    half = sde.N // 2

    def run(rng):
        def step(x, i_t):
            i, t = i_t
            f, G = sde.discretize(x, jnp.full((n,), t))
            z = jax.random.normal(jax.random.fold_in(rng, i), x.shape)
            return x + f + G[:, None] * z, None

        x, indices = jnp.full((n, 1), x_0), jnp.arange(sde.N)
        middle, _ = jax.lax.scan(step, x, (indices[:half], times[:half]))
        end, _ = jax.lax.scan(step, middle, (indices[half:], times[half:]))
        return middle, end

    for x, t in zip(simulate(run, 2), (times[half], sde.T), strict=True):
        x = np.asarray(x, np.float64)
        mu, sigma = (float(c[0]) for c in sde.marginal_coeffs(jnp.asarray([t])))
        f, _ = sde.discretize(jnp.ones((1, 1)), jnp.asarray([t]))
        allowed = 10 / sde.N + abs(float(f[0, 0]))
        assert abs(x.mean() - mu * x_0) < 4.5 * sigma / math.sqrt(n) + allowed * mu * x_0
        assert abs(x.var() / sigma**2 - 1) < 4.5 * math.sqrt(2 / n) + allowed


@ALL
def test_langevin_scale_is_the_squared_shrinkage_of_one_step(sde):
    t = jnp.asarray([0.02, 0.3, 0.8])
    f, _ = sde.discretize(jnp.ones((3, 1)), t)
    np.testing.assert_allclose(sde.langevin_scale(t), (1 + f[:, 0]) ** 2, rtol=2e-3)


@ALL
def test_ancestral_step_keeps_the_marginals_of_gaussian_data(sde):
    """With the exact score of N(m, v), one step from x_t has to give the moments of x_s.

    The mean, which is linear in x, is read off with two evaluations.
    """
    m, v = 0.7, 0.3
    t = jnp.asarray([0.1, 0.4, 0.9, 1.0])
    s = t - 1 / sde.N
    (mu_t, sigma_t), (mu_s, sigma_s) = sde.marginal_coeffs(t), sde.marginal_coeffs(s)
    var_t, var_s = mu_t**2 * v + sigma_t**2, mu_s**2 * v + sigma_s**2

    def mean(x):
        score = (-(x - mu_t * m) / var_t)[:, None]
        x_mean, std = sde.ancestral_step(x[:, None], t, score)
        return x_mean[:, 0], std

    center, std = mean(mu_t * m)
    shifted, _ = mean(mu_t * m + jnp.sqrt(var_t))
    np.testing.assert_allclose(center, mu_s * m, atol=2e-3)
    variance = (shifted - center) ** 2 + std**2
    # One step moves the variance by up to 10 %: a wrong gap or noise shows at this tolerance.
    np.testing.assert_allclose(variance, var_s, rtol=1e-3)


# Discrete chains


@pytest.mark.parametrize("n", [10, 24, 232, 500, 1000, 2000, 3000])
@pytest.mark.parametrize("eps", [1e-3, 1e-5])
@pytest.mark.parametrize("cls", [VESDE, VPSDE])
def test_sampling_visits_every_level_once(cls, n, eps):
    sde = cls(N=n) if cls is VESDE else VPSDE(beta_max=5.0, N=n)
    grid = time_grid(sde, eps)
    assert grid[0] == sde.T and grid[-1] <= eps * 1.001
    np.testing.assert_array_equal(sde.level_index(grid), np.arange(n)[::-1])


@pytest.mark.parametrize("sde", [VESDE(), VPSDE()])
def test_levels_are_those_of_the_table_at_exact_fractions(sde):
    k = jnp.arange(sde.N)
    np.testing.assert_array_equal(sde.level_index(k / (sde.N - 1)), k)
    np.testing.assert_array_equal(sde.level_index(jnp.asarray([-0.1, 1.5])), [0, sde.N - 1])


@pytest.mark.parametrize("sde", [VESDE(), VPSDE()])
def test_discrete_and_continuous_levels_agree(sde):
    """The discrete chain is the SDE's discretisation: its levels are those of the kernel."""
    k = jnp.asarray([10, 100, 500, 900])
    mu, sigma = sde.discrete_coeffs(k)
    mu_t, sigma_t = sde.marginal_coeffs(k / (sde.N - 1))
    np.testing.assert_allclose(mu, mu_t, rtol=0.04)
    np.testing.assert_allclose(sigma, sigma_t, rtol=0.06)


@pytest.mark.parametrize("sde", [subVPSDE(), SigmaPowerSDE(), SignalSDE()])
def test_no_discrete_training_says_who_and_what(sde):
    with pytest.raises(NotImplementedError, match=f"{type(sde).__name__}.discrete_coeffs"):
        sde.discrete_coeffs(jnp.zeros((), jnp.int32))


@ALL
def test_with_steps_changes_only_the_number_of_steps(sde):
    fewer = sde.with_steps(123)
    assert fewer.N == 123 and sde.N == 1000
    assert dataclasses.replace(fewer, N=1000) == sde
    t = jnp.asarray(TIMES)
    np.testing.assert_array_equal(fewer.marginal_coeffs(t), sde.marginal_coeffs(t))
    if isinstance(sde, VESDE):
        assert len(fewer.discrete_sigmas) == 123
        assert fewer.discrete_sigmas[-1] == pytest.approx(sde.sigma_max)


# Construction


@pytest.mark.parametrize(
    "make, field",
    [
        (lambda: VESDE(N=1), "N=1"),
        (lambda: VESDE(N=10.5), "N=10.5"),
        (lambda: VESDE(N=True), "N=True"),
        (lambda: VESDE(sigma_min=0.0), "sigma_min"),
        (lambda: VESDE(sigma_min=5.0, sigma_max=1.0), "sigma_max"),
        (lambda: VPSDE(beta_min=0.0), "beta_min"),
        (lambda: VPSDE(beta_min=3.0, beta_max=1.0), "beta_max"),
        (lambda: VPSDE(N=20), "N=20"),
        (lambda: subVPSDE(beta_min=-1.0), "beta_min"),
        (lambda: SigmaPowerSDE(sigma_base=1.0), "sigma_base"),
        (lambda: SignalSDE(eta=0.0), "eta"),
        (lambda: SignalSDE(eta=1.0), "eta"),
        (lambda: SignalSDE(signal="sin"), "signal.*'sin'; choose from: cos, lin, exp"),
        (lambda: SignalSDE(noise="ve"), "noise.*'ve'; choose from: vp, subvp, subsubvp"),
    ],
)
def test_bad_parameters_are_refused_by_name(make, field):
    with pytest.raises(ValueError, match=field):
        make()


@pytest.mark.parametrize("field", ["sigma_min", "sigma_max"])
def test_nan_is_refused(field):
    with pytest.raises(ValueError, match=field):
        VESDE(**{field: math.nan})


def test_get_sde_reads_the_fields_of_each_row():
    config = base.get_config()
    config.model.num_scales = 77
    config.model.sigma_max = 380.0
    config.model.beta_max = 12.0
    config.model.sigma_base = 9.0
    config.model.eta = 0.02
    expected = {
        "vesde": VESDE(0.01, 380.0, N=77),
        "vpsde": VPSDE(0.1, 12.0, N=77),
        "subvpsde": subVPSDE(0.1, 12.0, N=77),
        "sigma_power": SigmaPowerSDE(9.0, N=77),
        "cosine": SignalSDE(0.02, N=77),
    }
    assert set(expected) == set(SDES)
    for name, sde in expected.items():
        config.training.sde = name.upper()  # the published names are upper and lower case
        assert sde_lib.get_sde(config) == sde


def test_unknown_sde_lists_the_choices():
    config = base.get_config()
    config.training.sde = "vpsd"
    with pytest.raises(ValueError, match="'vpsd'.*vesde, vpsde, subvpsde"):
        sde_lib.get_sde(config)


def test_relative_error_notices_what_it_should():
    """The comparison that every golden test rests on."""
    reference = np.array([1.0, -2.0])
    assert relative_error(reference + np.array([0.0, 2e-3]), reference) == pytest.approx(1e-3)
    with pytest.raises(AssertionError):
        relative_error(np.array([np.nan, 0.0]), reference)
    with pytest.raises(AssertionError):
        assert_golden(np.float32(1.002), {"a": np.float32(1.0)}, "a")
