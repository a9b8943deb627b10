"""The weights that ship: they fit their configs, and are what they are said to be."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorax import experiment, loading, sampling
from scorax.conditioning.denoising import tweedie
from scorax.data_sources.kolmogorov import KolmogorovFlow
from scorax.datasets import get_data_scaler, get_source
from scorax.evaluators import check
from scorax.utils.arrays import batch_mul
from scorax.utils.images import to_float

FOLDER = Path(__file__).resolve().parent.parent / "pretrained"
SCORES = {
    "mnist_ve": "ve.mnist",
    "photographs_ve": "ve.photographs",
    "ou_edm": "edm.ou",
    "lorenz63": "lorenz63.small",
    "kolmogorov": "kolmogorov.small",
}
OBSERVATIONS = FOLDER / "observations"  # of trajectories of lorenz63 and kolmogorov


def test_they_are_small_and_no_others():
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == {
        *SCORES,
        "mnist_classifier",
        OBSERVATIONS.name,
    }
    sizes = {
        path.name: sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        for path in FOLDER.iterdir()
    }
    assert sizes["lorenz63"] + sizes.pop("kolmogorov") < 8e6
    assert max(sizes.values()) < 3.1e6  # 750,000 parameters, and a config


def examples(config, n):
    """The first test examples, in the model's range, and their labels."""
    if config.data.kind == "fields":  # does not ship: a coarse simulation instead
        return simulated_windows(config.data.length, n), None
    source = get_source(config, "test")
    x = to_float(np.stack([source[i]["image"] for i in range(n)]))
    return get_data_scaler(config)(x), np.array([source[i]["label"] for i in range(n)])


def simulated_windows(length, n, warm_up=30):
    """Windows of a Kolmogorov flow, (n, length, 64, 64, 2)."""
    flow, states = KolmogorovFlow(resolution=64), []
    modes = flow.first(jax.random.split(jax.random.key(5), n))
    for _ in range(warm_up + length):
        modes, x = flow.advance(modes)
        states.append(np.asarray(x))
    return np.stack(states[-length:], 1)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(OBSERVATIONS.iterdir()), ids=lambda p: p.stem)
def test_observations_fit_their_network(path, tmp_path):
    name = path.stem.split("_")[0]
    config = importlib.import_module(f"scorax.configs.{SCORES[name]}").get_config()
    config.eval.update({"tasks": ("assimilate",), "measurements": str(path)})
    config.training.batch_size = 8  # one for each of the virtual devices
    check(experiment.build(config))


@pytest.mark.slow
@pytest.mark.parametrize("name, module", SCORES.items())
def test_score_networks_denoise(name, module):
    """At each level far better than the best that knows only the mean and variance of the data."""
    config = importlib.import_module(f"scorax.configs.{module}").get_config()
    config.eval.checkpoint = str(FOLDER / name)
    config.training.batch_size = 8  # one for each of the virtual devices
    config = loading.with_facts(config, "")
    trained = experiment.build(config)
    state, _ = loading.load_state(trained, "")
    score_fn = trained.score_fn(state.params_ema, state.model_state)
    x, _ = examples(config, 4 if config.data.kind == "fields" else 32)
    denoise = jax.jit(lambda y, sigma: tweedie(trained.sde, score_fn, y, sigma), static_argnums=1)
    for sigma, share in ((0.1, 0.5), (0.4, 0.4)):
        noise = sigma * np.random.default_rng(0).standard_normal(x.shape, np.float32)
        error = np.mean((np.asarray(denoise(x + noise, sigma)) - x) ** 2)
        v = x.var()
        assert error < share * v * sigma**2 / (v + sigma**2), (sigma, error)


@pytest.mark.slow
def test_bfloat16_changes_loss_and_samples_by_little():
    """Of the same noise: the loss by less than 0.1 %, each sample by less than 1 % of the range."""
    losses, samples = [], []
    for dtype in ("float32", "bfloat16"):
        config = importlib.import_module("scorax.configs.ve.mnist").get_config()
        config.eval.checkpoint = str(FOLDER / "mnist_ve")
        config.model.dtype = dtype
        config.sampling.update(method="heun", steps=10)
        trained = experiment.assemble(config)
        state, _ = loading.load_state(trained, "")
        weights = state.params_ema, state.model_state
        x, _ = examples(config, 32)
        batch = {"image": x, "index": np.arange(32, dtype=np.uint32)}
        loss, _ = jax.jit(trained.loss_fn(train=False))(jax.random.key(0), *weights, batch)
        losses.append(float(loss))
        sampler = sampling.get_sampling_fn(config, trained.sde)

        def sample(rng, trained=trained, weights=weights, sampler=sampler, shape=x.shape):
            return sampler(rng, trained.score_fn(*weights), (8, *shape[1:]))[0]

        samples.append(np.asarray(jax.jit(sample)(jax.random.key(1))))
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=1e-3)
    change = np.sqrt(np.mean((samples[0] - samples[1]) ** 2, (1, 2, 3)))
    assert (change > 0).all() and (change < 0.01).all(), change
    assert samples[0].std() > 0.2  # digits, and not one gray


def test_classifier_tells_digits_with_and_without_noise():
    classifier = loading.load_classifier(str(FOLDER / "mnist_classifier"))
    trained, state = classifier.experiment, classifier.state
    classify = jax.jit(trained.classifier_fn(state.params_ema, state.model_state))
    x, labels = examples(trained.config, 200)
    for level, accuracy in ((0.01, 0.98), (0.4, 0.95)):
        sigma = jnp.full(len(x), level)
        noise = jax.random.normal(jax.random.key(0), x.shape)
        found = np.argmax(classify(x + batch_mul(sigma, noise), sigma), -1)
        assert (found == labels).mean() >= accuracy, level
