"""Samplers: reference values, and data whose score is known at every time.

The oracle has four coordinates: two are Gaussian with different variances, two are a mixture of two
Gaussians. Its exact score in closed form takes the place of the network, so that whatever the
samples miss is the sampler's fault.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from golden import assert_golden, cases, load, nhwc, parse, sde_of
from oracles import gaussian_flow, gaussian_score, mixture_score, toy_score
from scorax.configs import base
from scorax.sampling import CORRECTORS, PREDICTORS, get_pc_sampler, get_sampling_fn, time_grid
from scorax.sde_lib import SDES, VESDE, VPSDE, SignalSDE, get_sde
from simulation import simulate
from slow import but_slow

# Reference values


@pytest.mark.parametrize("case", cases("sampler_steps"), ids=lambda c: c["key"])
def test_golden_step(case, stored_noise):
    z, key = load("sampler_steps"), case["key"]
    settings = parse(z, "config")
    sde = sde_of(case["sde"], settings)
    score_fn = toy_score(sde)
    x, t = jnp.asarray(nhwc(z[case["x"]])), jnp.asarray(z[case["t"]])
    if case["kind"] == "predictor":
        update = PREDICTORS[case["name"]](sde, score_fn, case["probability_flow"])
    else:
        update = CORRECTORS[case["name"]](sde, score_fn, settings["snr"], case["n_steps"])
    left = stored_noise([z[f"{key}/noise_{i}"] for i in range(case["noises"])])
    with jax.disable_jit():
        x_next, x_mean = update.update_fn(jax.random.key(0), x, t)
    assert not left
    assert_golden(x_next, z, key + "/x_next")
    assert_golden(x_mean, z, key + "/x_mean")


@pytest.mark.parametrize("case", cases("pc_sampler_runs"), ids=lambda c: c["key"])
def test_golden_run(case, stored_noise):
    z, key = load("pc_sampler_runs"), case["key"]
    settings = parse(z, "config")
    sde = sde_of(case["sde"], settings)
    mean, var = (jnp.asarray(z[f"in/toy_{k}"].transpose(1, 2, 0)) for k in ("mean", "var"))
    score_fn = gaussian_score(sde, mean, var)
    sampler = get_pc_sampler(
        sde,
        PREDICTORS[case["predictor"]],
        CORRECTORS[case["corrector"]],
        settings["snr"],
        case["n_steps"],
        case["probability_flow"],
        case["denoise"],
        case["eps"],
    )
    times = z[f"in/{case['sde']}/timesteps"]
    np.testing.assert_allclose(time_grid(sde, case["eps"]), times, rtol=1e-6)
    left = stored_noise(z[key + "/noises"])
    b, c, h, w = case["shape"]
    with jax.disable_jit():
        samples, nfe = sampler(jax.random.key(0), score_fn, (b, h, w, c))
    assert not left
    assert case["inverse_scaler"] == "(x+1)/2"
    assert_golden((samples + 1) / 2, z, key + "/samples")
    # Published: N (n_steps + 1) whatever ran. Ours counts what was evaluated.
    evaluations = (case["predictor"] != "none") + case["n_steps"] * (case["corrector"] != "none")
    assert nfe == sde.N * evaluations


# Oracle

MEAN, VAR = np.array([0.5, -0.3]), np.array([0.2, 0.8])
WEIGHTS = np.array([0.35, 0.65])
CENTERS, SPREADS = np.array([[-1.0, 0.4], [0.8, -0.5]]), np.array([[0.15, 0.3], [0.3, 0.1]])


def exact_score(sde):
    """The scores of the two independent halves, side by side."""
    gaussian = gaussian_score(sde, MEAN, VAR)
    mixture = mixture_score(sde, WEIGHTS, CENTERS, SPREADS)
    return lambda x, t: jnp.concatenate([gaussian(x[:, :2], t), mixture(x[:, 2:], t)], -1)


@functools.cache
def exact():
    """Mean, covariance, and the standard deviation of the products that estimate the covariance."""
    center = WEIGHTS @ CENTERS
    mean, cov = np.concatenate([MEAN, center]), np.zeros((4, 4))
    cov[:2, :2] = np.diag(VAR)
    for w, m, v in zip(WEIGHTS, CENTERS, SPREADS, strict=True):
        cov[2:, 2:] += w * (np.diag(v) + np.outer(m - center, m - center))
    rng = np.random.default_rng(0)
    n = 200_000
    part = (rng.random(n) > WEIGHTS[0]).astype(int)
    mixture = CENTERS[part] + np.sqrt(SPREADS[part]) * rng.standard_normal((n, 2))
    x = np.hstack([MEAN + np.sqrt(VAR) * rng.standard_normal((n, 2)), mixture]) - mean
    return mean, cov, np.std(x[:, :, None] * x[:, None, :], axis=0)


def draw(sampler, sde, n, seed=0, get_score=exact_score):
    x, _ = simulate(lambda rng: sampler(rng, get_score(sde), (n, 4)), seed)
    return np.asarray(x, np.float64)


# Standard normal data compile fast, for the tests that look at something else.
draw_unit = functools.partial(draw, get_score=gaussian_score)


def assert_distribution(x, bias, shift=0.0):
    """The samples have the moments of the data within 4.5 standard errors and the allowances.

    Args:
      x: (n, 4).
      bias: allowed relative to the spread (means) and variances; the discretisation's share.
      shift: allowed in the mean besides, in standard deviations.
    """
    mean, cov, product_std = exact()
    n, std = len(x), np.sqrt(np.diag(cov))
    assert np.isfinite(x).all()
    deviation = np.abs(x.mean(0) - mean) / std
    assert (deviation < 4.5 / math.sqrt(n) + bias + shift).all(), f"means off by {deviation}"
    centered = x - mean
    difference = centered.T @ centered / n - cov
    limit = 4.5 * product_std / math.sqrt(n) + (bias + shift**2) * np.outer(std, std)
    assert (np.abs(difference) < limit).all(), f"variances off by {difference / np.outer(std, std)}"
    # All four together are twice as sharp.
    pooled = np.mean((centered / std) ** 2) - 1
    assert abs(pooled) < 4.5 * math.sqrt(0.5 / n) + bias + shift**2, f"variance off by {pooled}"
    # Not only moments: the share of each mode.
    share = WEIGHTS @ norm.cdf(CENTERS[:, 0] / np.sqrt(SPREADS[:, 0]))
    error = abs(np.mean(x[:, 2] > 0) - share)
    assert error < 4.5 * math.sqrt(share * (1 - share) / n) + bias + shift, f"share off by {error}"


STEPS, SAMPLES = 400, 4000


def combinations():
    """Every two of SDE, predictor and corrector together at least once; single steps are golden."""
    moving = [name for name in PREDICTORS if name != "none"]
    correctors = [name for name in CORRECTORS if name != "adaptive_langevin"]  # see below
    for i, sde in enumerate(SDES):
        for j, predictor in enumerate(moving):
            yield sde, predictor, correctors[(i + j) % len(correctors)]


@pytest.mark.parametrize(
    "sde, predictor, corrector",
    but_slow(combinations(), {("vpsde", "euler_maruyama", "ald")}.__contains__),
)
def test_every_combination_returns_the_data(sde, predictor, corrector):
    """A predictor's step is of first order: its variances are off by up to 12 / N (measured).

    Langevin steps of finite size settle at a variance that is about snr^2 too large.
    """
    sde, snr = SDES[sde](N=STEPS), 0.05
    sampler = get_pc_sampler(sde, PREDICTORS[predictor], CORRECTORS[corrector], snr)
    assert_distribution(draw(sampler, sde, SAMPLES), bias=12 / STEPS + snr**2)


@pytest.mark.parametrize("sde", list(SDES))
def test_adaptive_steps_keep_data_of_many_dimensions(sde):
    """Gaussian data of 200 values with two variances; the step settles at one that is too large."""
    sde, tau, n = SDES[sde](N=200), 0.02, 500
    mean, variance = 0.3, np.tile([0.5, 1.5], 100).astype(np.float32)
    sampler = get_pc_sampler(
        sde,
        PREDICTORS["exponential"],
        CORRECTORS["adaptive_langevin"],
        tau,
        n_steps=2,
        denoise=False,
        corrector_last=True,
    )
    score_fn = gaussian_score(sde, mean, variance)
    x, _ = jax.jit(lambda rng: sampler(rng, score_fn, (n, 200)))(jax.random.key(0))
    for k, v in enumerate((0.5, 1.5)):
        part = np.asarray(x)[:, k::2]
        assert part.mean() == pytest.approx(mean, abs=5 * math.sqrt(v / part.size) + 0.01)
        assert part.var() == pytest.approx(v, rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("sde", ["vesde", "vpsde"])
@pytest.mark.parametrize("corrector", ["langevin", "ald"])
def test_correctors_alone_return_the_data(sde, corrector):
    """Annealed Langevin dynamics: many small steps at each of few noise levels."""
    # The steps of ald are in proportion to the noise: it needs larger ones, and freezes while the
    # noise is a tenth of the spread. A langevin step is 2 snr^2 of the variance at any noise,
    # and leaves a variance that is snr^2 too large, and more in the narrower of two directions.
    snr, n_steps = {"langevin": (0.16, 40), "ald": (0.3, 80)}[corrector]
    sde = SDES[sde](N=100)
    sampler = get_pc_sampler(sde, PREDICTORS["none"], CORRECTORS[corrector], snr, n_steps)
    assert_distribution(draw(sampler, sde, 2000), bias=0.05)


@pytest.mark.parametrize(
    "sde, predictor",
    but_slow(
        [(sde, ("euler_maruyama", "reverse_diffusion")[i % 2]) for i, sde in enumerate(SDES)],
        {("vpsde", "reverse_diffusion")}.__contains__,
    ),
)
def test_probability_flow_returns_the_data(sde, predictor):
    """Without noise nothing damps the errors of a step: they are larger than those of the SDE.

    The flow also carries the prior's offset from p_T along, unchanged in standard deviations.
    """
    sde = SDES[sde](N=800)
    mu, _ = sde.marginal_coeffs(jnp.asarray([sde.T]))
    offset = float(mu[0]) * np.abs(CENTERS).max() / sde.prior_std
    sampler = get_pc_sampler(sde, PREDICTORS[predictor], CORRECTORS["none"], probability_flow=True)
    assert_distribution(draw(sampler, sde, SAMPLES), bias=60 / sde.N, shift=offset)


@pytest.mark.parametrize("name", but_slow(SDES, ("vesde", "vpsde").__contains__))
def test_probability_flow_converges_with_first_order(name, monkeypatch):
    """For Gaussian data the flow is linear, so that two starting points show all of it."""
    cls, v = SDES[name], 0.05

    def prior(self, rng, shape):
        return self.prior_std * jnp.asarray([[-1.0], [1.0]])

    monkeypatch.setattr(cls, "prior_sampling", prior)

    def spread(n):
        sde = cls(N=n)

        # So small an eps that only the steps' own error is left.
        sampler = get_pc_sampler(
            sde, PREDICTORS["euler_maruyama"], CORRECTORS["none"], probability_flow=True, eps=1e-6
        )
        score_fn = gaussian_score(sde, 0.0, v)
        x, _ = jax.jit(lambda rng: sampler(rng, score_fn, (2, 1)))(jax.random.key(0))
        return float(x[1, 0] - x[0, 0]) / 2

    sde = cls()
    exact = float(gaussian_flow(sde, 0.0, v, sde.prior_std, sde.T, 1e-6))
    errors = [spread(n) - exact for n in (250, 500, 1000)]
    assert abs(errors[-1]) < 0.04 * exact
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 1.5 < coarse / fine < 3.0, errors


def sampling_config(**sampling):
    config = base.get_config()
    config.training.sde = "vpsde"
    config.sampling.snr = 0.05
    config.sampling.update(sampling)
    return config


def test_steps_of_sampling_do_not_depend_on_training():
    """A model trained with 1,000 levels, sampled in 300 steps: the same distribution."""
    config = sampling_config(steps=300, predictor="euler_maruyama")
    sde = get_sde(config)
    assert sde.N == 1000
    sampler = get_sampling_fn(config, sde)
    seen = []
    x = draw(lambda *args: seen.append(sampler(*args)) or seen[0], sde, SAMPLES)
    assert seen[0][1] == 300 * 2
    assert_distribution(x, bias=12 / 300)


def test_config_selects_what_it_names():
    """The same keys and settings, built by hand: the same samples."""
    config = sampling_config(
        steps=30, predictor="Reverse_Diffusion", corrector="ALD", n_steps_each=2, snr=0.2,
        noise_removal=False, eps=0.01,
    )  # fmt: skip
    sde = get_sde(config)
    by_hand = get_pc_sampler(
        sde.with_steps(30), PREDICTORS["reverse_diffusion"], CORRECTORS["ald"], 0.2, 2,
        denoise=False, eps=0.01,
    )  # fmt: skip
    np.testing.assert_array_equal(
        draw_unit(get_sampling_fn(config, sde), sde, 8), draw_unit(by_hand, sde, 8)
    )
    config.sampling.eps = 0.0  # the SDE's own
    assert not np.array_equal(
        draw_unit(get_sampling_fn(config, sde), sde, 8), draw_unit(by_hand, sde, 8)
    )


# Bookkeeping


@pytest.mark.parametrize("sde", list(SDES))
def test_a_corrector_after_the_predictor_acts_at_the_time_it_has_reached(sde):
    sde, calls = SDES[sde](N=25), []
    sampler = get_pc_sampler(
        sde,
        PREDICTORS["exponential"],
        CORRECTORS["adaptive_langevin"],
        corrector_last=True,
        t_start=0.1,
    )

    def score_fn(x, t):
        calls.append(float(t[0]))
        return -x

    with jax.disable_jit():
        sampler(jax.random.key(0), score_fn, (2, 3), jnp.ones((2, 3)))
    end = 0.0 if isinstance(sde, (VESDE, SignalSDE)) else sde.t_min
    np.testing.assert_allclose(calls, [0.1, 0.06, 0.06, 0.02, 0.02, end], atol=1e-6)


@pytest.mark.parametrize("last", [False, True])
def test_a_corrector_acts_between_two_noise_levels(last):
    sde, calls = SignalSDE(N=10), []
    low, high, n_steps = 0.3, 3.0, 2
    between = {"corrector_min": low, "corrector_max": high, "corrector_last": last}
    parts = PREDICTORS["exponential"], CORRECTORS["langevin"]
    sampler = get_pc_sampler(sde, *parts, 0.1, n_steps, **between)

    def score_fn(x, t):
        calls.append(float(t[0]))
        return -x

    with jax.disable_jit():
        _, nfe = sampler(jax.random.key(0), score_fn, (2, 3))
    times = np.linspace(1, 0, 11)
    mu, sigma = sde.marginal_coeffs(jnp.asarray(times, jnp.float32))
    inside = (low <= np.asarray(sigma / mu)) & (np.asarray(sigma / mu) <= high)
    assert 1 < inside.sum() < 8
    expected = []
    for i in range(10):
        corrections = n_steps * bool(inside[i + last])
        begin, end = corrections * [times[i]], corrections * [times[i + 1]]
        expected += [times[i], *end] if last else [*begin, times[i]]
    assert nfe == len(calls)
    np.testing.assert_allclose(calls, expected, atol=1e-6)


def test_a_corrector_that_never_acts_changes_nothing():
    sde = VPSDE(N=25)
    parts = sde, PREDICTORS["ancestral_sampling"]
    beyond = get_pc_sampler(*parts, CORRECTORS["langevin"], corrector_min=1e6)
    without = get_pc_sampler(*parts, CORRECTORS["none"])
    (x, nfe), (y, _) = (s(jax.random.key(0), lambda x, t: -x, (2, 3)) for s in (beyond, without))
    assert nfe == 25
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("low, high", [(-1.0, None), (2.0, 1.0)])
def test_an_impossible_range_of_a_corrector_is_told(low, high):
    with pytest.raises(ValueError, match="corrector_min=.*at least 0 and less than"):
        get_pc_sampler(VPSDE(), PREDICTORS["none"], CORRECTORS["langevin"], corrector_min=low,
                       corrector_max=high)  # fmt: skip


@pytest.mark.parametrize("predictor", list(PREDICTORS))
@pytest.mark.parametrize("corrector", list(CORRECTORS))
@pytest.mark.parametrize("n_steps", [1, 3])
def test_nfe_is_the_number_of_calls(predictor, corrector, n_steps):
    sde, calls = VPSDE(beta_max=2.0, N=4), []

    def score_fn(x, t):
        calls.append(t)
        return -x

    sampler = get_pc_sampler(sde, PREDICTORS[predictor], CORRECTORS[corrector], 0.1, n_steps)
    with jax.disable_jit():
        x, nfe = sampler(jax.random.key(0), score_fn, (2, 3))
    assert nfe == len(calls)
    assert x.shape == (2, 3) and all(t.shape == (2,) for t in calls)
    if predictor == corrector == "none":
        assert nfe == 0
    else:
        np.testing.assert_allclose(calls[0], sde.T)
        last = PREDICTORS[predictor].time_grid(sde, sde.t_min, sde.T)[-2]
        np.testing.assert_allclose(calls[-1], last, rtol=1e-5)


def test_denoising_leaves_out_the_noise_of_the_last_step():
    """Same key, so that the two differ by G z alone, G of VE's first level being sigma_min."""
    sde, n = VESDE(sigma_min=0.3, sigma_max=20.0, N=100), 20_000
    x, x_mean = (
        draw_unit(
            get_pc_sampler(
                sde, PREDICTORS["reverse_diffusion"], CORRECTORS["none"], denoise=denoise
            ),
            sde,
            n,
        )
        for denoise in (False, True)
    )
    noise = x - x_mean
    assert noise.std() == pytest.approx(0.3, rel=4.5 / math.sqrt(2 * 4 * n))
    assert abs(np.corrcoef(noise[:, 0], x_mean[:, 0])[0, 1]) < 4.5 / math.sqrt(n)
    assert x.var() - x_mean.var() == pytest.approx(0.09, rel=0.05)


def test_samples_depend_on_the_key_alone():
    sde = VPSDE(beta_max=2.0, N=10)
    sampler = get_pc_sampler(sde, PREDICTORS["euler_maruyama"], CORRECTORS["langevin"])
    a, again, b = (draw_unit(sampler, sde, 5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - b).min() > 0
    assert len(np.unique(a)) == a.size


def test_steps_do_not_share_their_noise():
    """With a drift of zero the samples are sums of independent draws: the variances add."""
    sde, n = VESDE(sigma_min=0.1, sigma_max=1.0, N=50), 20_000
    sampler = get_pc_sampler(
        sde, PREDICTORS["reverse_diffusion"], CORRECTORS["ald"], 0.3, 2, denoise=False
    )
    x, _ = jax.jit(lambda rng: sampler(rng, lambda x, t: jnp.zeros_like(x), (n, 1)))(
        jax.random.key(0)
    )
    sigmas = sde.discrete_sigmas.astype(np.float64)
    # The prior, the reverse steps (a telescoping sum), and two corrector steps at each grid time.
    t = np.asarray(time_grid(sde, sde.t_min), np.float64)
    expected = 1.0 + sigmas[-1] ** 2 + 2 * np.sum(2 * 2 * (0.3 * 0.1 * 10**t) ** 2)
    assert np.var(np.asarray(x)) == pytest.approx(expected, rel=4.5 * math.sqrt(2 / n))


@pytest.mark.parametrize("n, calls", [(10, 10), (200, 51), (1000, 51)])
def test_the_observer_follows_the_run(n, calls):
    sde, seen = VESDE(N=n), []

    def observer(done, total, x):
        seen.append((done, total, np.asarray(x)))

    sampler = get_pc_sampler(
        sde, PREDICTORS["euler_maruyama"], CORRECTORS["none"], observer=observer
    )
    x = draw_unit(sampler, sde, 3)
    jax.effects_barrier()
    steps = sorted(done for done, _, _ in seen)
    assert len(steps) == len(set(steps)) == calls
    assert steps[0] == 1 and steps[-1] == n and {total for _, total, _ in seen} == {n}
    last = next(x for done, _, x in seen if done == n)
    np.testing.assert_allclose(last, x, rtol=1e-6)
    unobserved = get_pc_sampler(sde, PREDICTORS["euler_maruyama"], CORRECTORS["none"])
    np.testing.assert_allclose(draw_unit(unobserved, sde, 3), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "pd"}, "sampling.method.*'pd'.*pc"),
        ({"predictor": "euler"}, "sampling.predictor.*'euler'.*euler_maruyama, reverse_diffusion"),
        (
            {"corrector": "mala"},
            "sampling.corrector.*'mala'.*ald, adaptive_langevin, none",
        ),
        ({"eps": -0.1}, "sampling.eps=-0.1"),
        ({"eps": 1.0}, "sampling.eps=1.0"),
        ({"snr": 0.0}, "sampling.snr=0.0"),
        ({"n_steps_each": 0}, "n_steps_each=0"),
        ({"steps": 1}, "N=1.*sampling.steps"),
        ({"steps": 15}, "N=15.*sampling.steps"),
        (
            {"predictor": "ancestral_sampling", "probability_flow": True},
            "probability_flow=True.*reverse_diffusion or euler_maruyama",
        ),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(change, message):
    config = sampling_config(**change)
    with pytest.raises(ValueError, match=message):
        get_sampling_fn(config, get_sde(config))
