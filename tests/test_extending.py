"""The examples of docs/extending.md: short, run as they are, and right in what they print."""

import copy
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from pages import blocks, run
from scorax import conditioning, datasets, evaluators, noise_levels, sampling, sde_lib, solvers
from scorax.conditioning import denoising, guidance
from scorax.experiment import build
from scorax.losses import State
from scorax.metrics import features
from scorax.metrics.feature_sets import METRICS, Features
from scorax.models import utils

PAGE = "extending.md"
NUMBER = r"-?\d+(?:\.\d*)?(?:e[+-]\d+)?"
STATE = State(np.int32(1), {}, (), {}, {})  # of tasks that look at no network
NAMES = (
    "sde",
    "predictor",
    "solver",
    "operator",
    "likelihood",
    "metric",
    "data",
    "task",
    "network",
)
TABLES = (
    *(sde_lib.SDES, sampling.PREDICTORS, sampling.CORRECTORS, sampling.SAMPLERS, solvers.SOLVERS),
    *(conditioning.OPERATORS, conditioning.LIKELIHOODS, denoising.DENOISERS, guidance.WEIGHTS),
    *(METRICS, features.FEATURES, datasets.DATASETS, utils.MODELS, noise_levels.OBJECTIVES),
    evaluators.EVALUATORS,
)


@pytest.fixture(autouse=True)
def tables():
    """Every table is afterwards what it was."""
    before = [copy.copy(table) for table in TABLES]
    yield
    for table, rows in zip(TABLES, before, strict=True):
        table.clear()
        table.update(rows)


@pytest.fixture
def example(monkeypatch):
    """Runs the example of that name: the numbers of its last line, and its names."""

    def run_example(name):
        lines, names = run(blocks(PAGE)[NAMES.index(name)], monkeypatch)
        return [float(number) for number in re.findall(NUMBER, lines[-1])], names

    return run_example


def test_there_is_a_short_example_of_each():
    assert len(blocks(PAGE)) == len(NAMES)
    for name, block in zip(NAMES, blocks(PAGE), strict=True):
        lines = block.splitlines()
        assert len(lines) <= 25, name
        assert max(map(len, lines)) <= 110, name


# The standard deviation of 8,000 samples: 0.5, give or take 0.004 and what the steps leave.
SPREAD = pytest.approx(0.5, abs=0.02)


def test_sde(example):
    (prior_std, spread, nfe), names = example("sde")
    assert (prior_std, spread, nfe) == (16, SPREAD, 50)
    sde, t = names["sde"], jnp.linspace(0.01, 1, 7)
    # d(sigma^2)/dt = g^2, and the inverse of the log-SNR is one.
    slope = jax.vmap(jax.grad(lambda t: sde.marginal_coeffs(t)[1] ** 2))(t)
    np.testing.assert_allclose(sde.sde(t[:, None], t)[1] ** 2, slope, rtol=1e-5)
    np.testing.assert_allclose(sde.time_of_log_snr(sde.log_snr(t)), t, rtol=1e-5)


def test_predictor(example):
    (spread, nfe), names = example("predictor")
    assert (spread, nfe) == (SPREAD, 500)
    # For VE it is Euler in sigma, of dx / dsigma = -sigma score.
    sde = names["sde"].with_steps(10)
    x, t = jnp.ones((1, 2)), jnp.array([0.7])
    (sigma,), (sigma_s,) = (sde.marginal_coeffs(t - s)[1] for s in (0, 0.1))
    step = names["DDIMPredictor"](sde, lambda x, t: -x).update_fn(None, x, t)[0]
    np.testing.assert_allclose(step, 1 - sigma * (sigma - sigma_s), rtol=1e-4)


def test_solver(example):
    (spread,), names = example("solver")
    assert spread == SPREAD
    # Half of the steps, twice the error of the flow from 16 at sigma = 16 to 0.5.
    sde, score = names["sde"], names["score"]

    def end(steps):
        sampler = jax.jit(lambda x: names["get_euler"](sde, steps)(None, score, (1, 1), x)[0])
        return float(sampler(jnp.full((1, 1), sde.prior_std))[0, 0])

    low, high = (0.25 + np.asarray(sde.marginal_coeffs(jnp.array([sde.t_min, 1.0]))[1]) ** 2) ** 0.5
    exact = sde.prior_std * low / high
    errors = [end(steps) - exact for steps in (200, 400, 800)]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert coarse / fine == pytest.approx(2, rel=0.15)


@pytest.mark.slow
def test_operator(example):
    """The residual of exact posterior draws, pixel by pixel on a grid of x."""
    (residual,), names = example("operator")
    assert names["report"]["likelihood"] == "pigdm" and names["report"]["operator"] == "saturation"
    x, rng = np.linspace(-3, 3, 4001), np.random.default_rng(0)
    truth = load_digits().images[1500:1502].reshape(-1, 1) / 16
    y = truth / (1 + truth) + 0.02 * rng.normal(size=truth.shape)
    model = x / (1 + abs(x))
    density = np.exp(-((y - model) ** 2) / (2 * 0.02**2) - x**2 / (2 * 0.25))
    square = ((y - model) ** 2 * density).sum(1) / density.sum(1)
    # 16 draws of 64 pixels, and A linearised at x_hat.
    assert residual == pytest.approx(math.sqrt(square.mean()), rel=0.15)


@pytest.mark.slow
def test_likelihood(example):
    """A posterior known in closed form: each mean y of 2 x 2 pixels is N(k y, k 0.05^2)."""
    (residual,), names = example("likelihood")
    y = np.load(f"{names['folder']}/restore.npz")["measurements"]
    variance = 0.25 / 4
    k = variance / (variance + 0.05**2)
    expected = np.sqrt(((k - 1) * y) ** 2 + k * 0.05**2).mean()
    assert residual == pytest.approx(expected, rel=4.5 / math.sqrt(2 * 16 * y[0].size))


def test_metric(example):
    """A shift by (3, 3, 3): its squared length along each of the 300 directions, 9 in the mean."""
    (distance,), _ = example("metric")
    assert distance == pytest.approx(np.mean((3 * directions(3).sum(0)) ** 2), rel=0.05)


def directions(dimensions):
    """Those of the example."""
    d = np.random.default_rng(0).normal(size=(dimensions, 300))
    return d / np.linalg.norm(d, axis=0)


@pytest.mark.slow
def test_metric_is_reported_with_its_option(example, tmp_path):
    _, names = example("metric")
    config = names["config"]
    config.eval.update({"features": "pixels", "num_samples": 1500})
    pixels = features.FeatureExtractor(
        "pixels",
        {"features": "pixels", "sha256": "0"},
        {},
        lambda variables, x: Features(x.reshape(len(x), -1) / 255.0),
        batch_size=16,
    )
    features.FEATURES["pixels"] = lambda config: pixels
    training, folder = datasets.get_source(config), tmp_path / "step_1"
    folder.mkdir()
    samples = training.images // 2
    np.savez(folder / "samples.npz", samples=samples)
    task, built = evaluators.EVALUATORS["fd"], build(config)
    task.check(built)
    report = task(built, STATE, str(folder))
    # Half of each pixel: a projection p, in quantiles, is p / 2 but for rounding down.
    p = training.images.reshape(1500, 64) / 255 @ directions(64)
    assert report["sliced_wasserstein"] == pytest.approx(np.mean((p / 2) ** 2), rel=0.01)
    assert task.settings(built, STATE)["eval.num_slices"] == 300
    del config.eval.num_slices
    with pytest.raises(ValueError, match="option 'eval.num_slices', which no config has"):
        task.check(built)


def test_data(example):
    (*shape, mean, std), names = example("data")
    assert shape == [64, 8, 8, 1]
    assert mean == pytest.approx(0.5, abs=1e-3) and std == pytest.approx(8**-0.5, abs=1e-3)
    source = datasets.get_source(names["config"], "test")
    assert len(source) == 2000 and [source[i]["label"] for i in range(5)] == [0, 1, 2, 3, 0]
    # Along the stripes of the first orientation nothing changes.
    assert (np.diff(source[0]["image"], axis=1) == 0).all()
    assert (source[0]["image"] != datasets.get_source(names["config"])[0]["image"]).any()


def test_task(example):
    """The variance of VE at T is the prior's, which leaves |x|^2 / (2 16^2) nats."""
    (gap,), names = example("task")
    x = load_digits().images[1500:] / 16
    assert gap == pytest.approx(np.mean(x**2) / (2 * 16**2 * math.log(2)), rel=1e-2)
    built, task = names["built"], evaluators.EVALUATORS["prior_gap"]
    settings = task.settings(built, STATE)
    assert {"eval.split", "eval.num_examples", "model.sigma_max"} <= settings.keys()
    assert not any(key.startswith("sampling.") for key in settings)


@pytest.mark.slow
def test_network(example):
    (parameters, *scores), names = example("network")
    nf, width = names["config"].model.nf, 5
    assert parameters == (width**2 + 1) * nf + 2 * nf + (9 * nf + 1)
    assert scores == pytest.approx([-1, -1], rel=1e-5)
    # It trains: after one step of the loss its output is no longer 0.
    built, state = names["built"], names["state"]
    batch = {"image": jnp.asarray(np.random.default_rng(0).random((8, 8, 8, 1)), jnp.float32)}
    batch |= {"index": jnp.arange(8, dtype=jnp.uint32)}
    loss = functools.partial(built.loss_fn(train=True), jax.random.key(0))
    grads = jax.grad(lambda params: loss(params, state.model_state, batch)[0])(state.params)
    assert np.abs(grads["Conv_1"]["kernel"]).max() > 0
