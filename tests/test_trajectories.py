"""Score-based data assimilation: the published values, and scores composed from windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from golden import assert_golden, cases, load
from oracles import gaussian_score
from scorax.conditioning.posterior import GaussianLikelihood
from scorax.conditioning.trajectories import compose, unfold
from scorax.sampling import CORRECTORS, PREDICTORS, get_pc_sampler
from scorax.sde_lib import SignalSDE
from scorax.utils.arrays import batch_mul


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
