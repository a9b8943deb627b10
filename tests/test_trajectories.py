"""Score-based data assimilation: the published values, and scores composed from windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from golden import assert_golden, cases, load
from oracles import correlated_score, gaussian_score
from scorax.conditioning.posterior import MMPS, GaussianLikelihood, gaussian_data_covariance
from scorax.conditioning.trajectories import compose, unfold
from scorax.configs import base
from scorax.metrics.filtering import LinearChain, kalman_smoother
from scorax.sampling import CORRECTORS, PREDICTORS, get_pc_sampler, get_sampling_fn
from scorax.sde_lib import SignalSDE
from scorax.utils.arrays import batch_mul
from simulation import simulate


def cases_of(kind):
    return pytest.mark.parametrize(
        "case",
        [c for c in cases("sda") if c["kind"] == kind],
        ids=lambda c: str(c.get("out", c))[-40:],
    )


def sde_of(case, n=1000):
    return SignalSDE(case["eta"], case["alpha"], case["sde"], N=n)


# Reference values


@cases_of("schedule")
def test_golden_schedule(case):
    z = load("sda")
    mu, sigma = sde_of(case).marginal_coeffs(jnp.asarray(z[case["t"]]))
    assert_golden(mu, z, case["mu"])
    assert_golden(sigma, z, case["sigma"])


def published_kernel(z, prefix):
    """The small network of a case, on windows whose states are stacked into channels."""
    w1, b1, c1, w2 = (jnp.asarray(z[f"{prefix}/{k}"]) for k in ("W1", "b1", "c1", "W2"))

    def vectors(x, t):
        h = jnp.tanh(jnp.matmul(x, w1.T) + (b1 * t + c1)[None])
        return jnp.matmul(h, w2.T)

    def fields(x, t):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        layout = ("NHWC", "OIHW", "NHWC")
        h = lax.conv_general_dilated(padded, w1, (1, 1), "VALID", dimension_numbers=layout)
        return jnp.matmul(jnp.tanh(h + (b1 * t + c1)[None, None, None]), w2.T)

    return fields if w1.ndim == 4 else vectors


@cases_of("composed_score")
@pytest.mark.parametrize("chunk", [0, 3])
def test_golden_composed_score(case, chunk):
    z, k = load("sda"), case["order"]
    x = jnp.asarray(z[case["x"]])
    x = jnp.moveaxis(x, 2, -1)  # channels last; vectors stay as they are
    kernel = published_kernel(z, case["kernel"])

    def score_fn(windows, t):
        stacked = jnp.moveaxis(windows, 1, -2).reshape(len(t), *windows.shape[2:-1], -1)
        out = kernel(stacked, jnp.float32(case["t"]))
        out = out.reshape(len(t), *windows.shape[2:-1], 2 * k + 1, -1)
        return jnp.moveaxis(out, -2, 1)

    windows = unfold(x, k)
    stacked = jnp.moveaxis(windows, -1, 3).reshape(*windows.shape[:2], -1, *x.shape[2:-1])
    np.testing.assert_array_equal(stacked, z[case["windows"]])
    composed = compose(score_fn, k, chunk)(x, jnp.full(len(x), case["t"]))
    assert_golden(jnp.moveaxis(composed, -1, 2), z, case["out"])


def toy_score(z, sde):
    mean, var = (jnp.asarray(z[f"in/toy_{k}"]) for k in ("mean", "var"))
    return gaussian_score(sde, mean, var)


@cases_of("step")
def test_golden_step(case, monkeypatch):
    """The published corrector subtracts its noise, and ours adds it."""
    z, dt = load("sda"), case["dt"]
    sde = sde_of(case, round(1 / dt))
    score_fn = toy_score(z, sde)
    t = jnp.full(2, case["t"])
    predictor = PREDICTORS["exponential"](sde, score_fn)
    x, _ = predictor.update_fn(jax.random.key(0), jnp.asarray(z[case["x"]]), t)
    assert_golden(x, z, case["predictor"])
    monkeypatch.setattr(jax.random, "normal", lambda *args: -jnp.asarray(z[case["z"]]))
    corrector = CORRECTORS["adaptive_langevin"](sde, score_fn, case["tau"], 1)
    x, _ = corrector.update_fn(jax.random.key(0), jnp.asarray(z[case["predictor"]]), t - dt)
    assert_golden(x, z, case["corrector"])


@cases_of("run")
def test_golden_run(case, monkeypatch):
    z = load("sda")
    sde = sde_of(case, case["steps"])
    score_fn, guidance = toy_score(z, sde), case["guidance"]
    if guidance:
        operator = {
            "linear": lambda x: x[:, :: case["subsample"]],
            "nonlinear": lambda x: x / (1 + jnp.abs(x)),
        }[guidance["A"]]
        y = jnp.asarray(z[guidance["y"]])
        score_fn = GaussianLikelihood(
            sde, operator, y, guidance["std"], gamma=guidance["gamma"], detach=guidance["detach"]
        )(score_fn)
    noises = z[case["noises"]]
    queue = [noises[0], *(-noise for noise in noises[1:])]
    monkeypatch.setattr(jax.random, "normal", lambda *args: jnp.asarray(queue.pop(0)))
    sampler = get_pc_sampler(
        sde,
        PREDICTORS["exponential"],
        CORRECTORS["adaptive_langevin" if case["corrections"] else "none"],
        snr=case["tau"],
        denoise=False,
        corrector_last=True,
    )
    with jax.disable_jit():
        x, nfe = sampler(jax.random.key(0), score_fn, noises[0].shape)
    assert nfe == case["steps"] * (1 + case["corrections"])
    assert_golden(x, z, case["out"])


@cases_of("loss")
def test_golden_loss(case):
    """The loss is the mean square of eps, which is sigma^2 times the score's loss."""
    z, sde = load("sda"), sde_of(case)
    t, noise = jnp.asarray(z[case["t"]]), jnp.asarray(z[case["noise"]])
    mu, sigma = sde.marginal_coeffs(t)
    x = batch_mul(mu, jnp.asarray(z[case["x"]])) + batch_mul(sigma, noise)
    error = (-batch_mul(sigma, toy_score(z, sde)(x, t)) - noise) ** 2
    weights = jnp.asarray(z[case["weights"]])
    assert_golden(error.mean(), z, case["out"])
    assert_golden((error * weights).mean() / weights.mean(), z, case["out_weighted"])


# Gaussian chains, whose windows have known scores and whose posterior is the smoother's


LENGTH, ORDER, PHI, NOISE = 16, 3, 0.7, 0.4
SAMPLERS = {
    "pc": {"method": "pc", "steps": 150, "predictor": "exponential", "snr": 0.25,
           "corrector": "adaptive_langevin", "corrector_last": True, "n_steps_each": 2},
    "ddim": {"method": "ddim", "steps": 60},
    "dpmpp_2m_sde": {"method": "dpmpp_2m_sde", "steps": 40},
}  # fmt: skip


def autoregression(length):
    """Covariance of a stationary AR(1) chain, float64 (length, length)."""
    lags = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    return NOISE**2 / (1 - PHI**2) * PHI**lags


def chain_score(sde, length):
    """The exact score of that chain, x: (B, length, 1)."""
    flat = correlated_score(sde, np.zeros(length), autoregression(length))
    return lambda x, t: flat(x[..., 0], t)[..., None]


@pytest.mark.parametrize("method", ["mmps", "exact covariance"])
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_sparse_observations_give_the_smoother(sampler, method):
    """The composed score leaves out what lies beyond a window, most of all at high noise.

    Bound: means within 0.2 of the posterior's standard deviation, spreads within 12 %, if windows
    of 7 states see a correlation of 0.7 decay to 0.1. With a correlation of 0.9 and windows of 5,
    DDIM's means are off by 1.2, stochastic ones by 0.55, and with a corrector by 0.04 (measured).
    """
    config, sde = base.get_config(), SignalSDE()
    config.sampling.update(SAMPLERS[sampler])
    std, n = 0.2, 4000
    matrix = np.eye(LENGTH)[::4]
    truth = np.linalg.cholesky(autoregression(LENGTH)) @ np.random.default_rng(3).normal(
        size=LENGTH
    )
    y = matrix @ truth
    operator = lambda x: x[:, ::4, 0]  # noqa: E731
    given = (sde, operator, jnp.asarray(y, jnp.float32)[None], std)
    if method == "mmps":
        likelihood = MMPS(*given, iterations=4)
    else:
        covariance = gaussian_data_covariance(sde, autoregression(LENGTH), matrix)
        likelihood = GaussianLikelihood(*given, covariance=covariance)
    score_fn = likelihood(compose(chain_score(sde, 2 * ORDER + 1), ORDER))
    draw = get_sampling_fn(config, sde)
    x, _ = simulate(lambda rng: draw(rng, score_fn, (n, LENGTH, 1)))
    one = np.eye(1)
    chain = LinearChain(np.zeros(1), autoregression(1), PHI * one, np.zeros(1), NOISE**2 * one,
                        one, std**2 * one)  # fmt: skip
    seen = np.full((LENGTH, 1), np.nan)
    seen[::4, 0] = y
    exact = kalman_smoother(chain, seen)
    spread = np.sqrt(exact.covariance[:, 0, 0])
    error = (np.mean(x[..., 0], 0) - exact.mean[:, 0]) / spread
    ratio = np.std(x[..., 0], 0) / spread
    assert np.abs(error).max() < 0.2
    np.testing.assert_allclose(ratio, 1, atol=0.12)


def test_the_composed_score_of_a_chain_without_noise_is_exact():
    """With little noise a state depends on its neighbours alone, so that windows suffice."""
    sde, t = SignalSDE(), jnp.full(6, 0.01)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, LENGTH, 1)), jnp.float32)
    whole = chain_score(sde, LENGTH)(x, t)
    error = [
        float(jnp.abs(compose(chain_score(sde, 2 * k + 1), k)(x, t) - whole).max())
        for k in (0, 1, 2)
    ]
    assert error[1] < 0.02 * float(jnp.abs(whole).max())
    assert error[2] < error[1] < 0.1 * error[0]


def test_chunks_bound_the_memory_and_change_nothing():
    sde = SignalSDE()
    x, t = jnp.ones((2, 9, 1)), jnp.full(2, 0.3)
    whole, chunked = (compose(chain_score(sde, 3), 1, chunk) for chunk in (0, 4))
    np.testing.assert_allclose(chunked(x, t), whole(x, t), rtol=1e-6)
    gradients = [jax.grad(lambda x, f=f: (f(x, t) ** 2).sum())(x) for f in (whole, chunked)]
    np.testing.assert_allclose(*gradients, rtol=1e-5)


@pytest.mark.parametrize(
    "order, length, message", [(2, 4, "4 states is shorter"), (-1, 4, "at least 0")]
)
def test_impossible_windows_are_told(order, length, message):
    with pytest.raises(ValueError, match=message):
        compose(lambda x, t: x, order)(jnp.ones((1, length, 1)), jnp.ones(1))
