"""Points in the plane: densities that are known, and what a network and a sampler make of them."""

import json

import jax
import numpy as np
import pytest

import runs
from oracles import mixture_score
from scorax import experiment, loading, sampling
from scorax.data_sources import points
from scorax.data_sources.points import CENTRES, COMPONENTS, POINTS, SPREAD
from scorax.datasets import describe, get_source, get_statistics
from scorax.likelihood import get_configured_density_fn
from scorax.utils.data_range import get_data_inverse_scaler, get_data_scaler
from scorax.utils.pictures import PICTURES
from scorax.utils.shapes import KINDS
from simulation import simulate

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", POINTS)
def test_points_are_seeded_and_split(name):
    train, test = points.load(name, "train"), points.load(name, "test")
    assert (len(train), len(test)) == (20_000, 2_000) and train.held_out
    assert train.content() == points.load(name, "train").content() != test.content()
    assert train.examples.shape == (20_000, 2) and np.isfinite(train.examples).all()
    assert set(train.all_labels().tolist()) == set(range(max(1, len(train.classes))))


@pytest.mark.parametrize("name, half", [("gaussians", 2.0), ("checkerboard", 2.0)])
def test_known_densities_are_those_of_the_points(name, half):
    source = points.load(name, "test")
    axis = np.linspace(-half, half, 801)[:-1] + half / 800
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(source.log_density(grid))
    cell = (2 * half / 800) ** 2
    assert density.sum() * cell == pytest.approx(1, abs=1e-3)
    # The mean of log p over points is the integral of p log p.
    entropy = np.where(density > 0, density * source.log_density(grid).clip(-1e3), 0).sum() * cell
    found = source.log_density(points.load(name, "train").examples)
    assert found.mean() == pytest.approx(entropy, abs=5 * found.std() / np.sqrt(len(found)) + 1e-3)


def test_other_densities_are_not_known():
    with pytest.raises(NotImplementedError, match="density of Arrays is not known"):
        points.load("moons", "test").log_density(np.zeros((1, 2)))


def of_points(**sections):
    """The config with its statistics, the experiment, and the exact score in the model's range."""
    config = runs.get_config("vp/points", **sections)
    source = get_source(config)
    config.data.mean, config.data.scale = get_statistics(config, source)
    built = experiment.assemble(config)
    scale = np.array(config.data.scale)
    means = (CENTRES - config.data.mean) / scale
    variances = np.broadcast_to(SPREAD**2 / scale**2, means.shape)
    weights = np.full(COMPONENTS, 1 / COMPONENTS)
    return config, built, mixture_score(built.sde, weights, means, variances)


def test_samples_of_the_exact_score_lie_on_the_ring():
    config, built, score = of_points(sampling={"steps": 300})
    sampler = sampling.get_sampling_fn(config, built.sde)
    x = simulate(lambda rng: sampler(rng, score, (4000, 2))[0])
    x = np.asarray(get_data_inverse_scaler(config)(x))
    nearest = np.argmin(((x[:, None] - CENTRES) ** 2).sum(-1), 1)
    share = np.bincount(nearest, minlength=COMPONENTS) / len(x)
    np.testing.assert_allclose(share, 1 / COMPONENTS, atol=5 * np.sqrt(0.11 / len(x)))
    np.testing.assert_allclose((x - CENTRES[nearest]).std(0), SPREAD, rtol=0.05)


def test_density_of_the_exact_score_is_exact():
    """In nats per dimension, and in the units of the points."""
    config, built, score = of_points()
    source = get_source(config, "test")
    x = source.examples[:64]
    density_fn = get_configured_density_fn(config, built.sde)
    found = jax.jit(lambda x: density_fn(jax.random.key(0), score, x))(get_data_scaler(config)(x))
    np.testing.assert_allclose(found.nats_per_dim, -source.log_density(x) / 2, atol=2e-3)


def test_what_the_log_says_of_points():
    assert describe(points.load("moons", "test")) == "2,000 points, 2 classes: 0 upper, 1 lower"


@pytest.mark.slow
def test_points_from_training_to_density(tmp_path, cache):
    """A class-conditional perceptron on the command line, and the same network in a program."""
    env = runs.environment(cache)
    fields = {"model__num_classes": 8, "training__n_jitted_steps": 1, "sampling__steps": 50}
    runs.finish(runs.start(runs.command(tmp_path, config="vp/points", **fields), env))
    tasks = {"eval__tasks": ("samples", "bpd", "loss"), "eval__num_examples": 32}
    runs.finish(runs.start(runs.command(tmp_path, "eval", "vp/points", **fields, **tasks), env))
    folder = tmp_path / "eval" / "step_8"
    report = json.loads((folder / "report.json").read_text())
    assert report["bpd"]["of"] == "negative log density of points in units of the data"
    source = get_source(runs.get_config("vp/points"), "test")
    exact = -source.log_density(source.examples[:32]).mean() / 2
    assert report["bpd"]["exact"] == pytest.approx(exact)
    assert np.load(folder / "samples.npz")["samples"].shape == (12, 2)
    model = loading.load(str(tmp_path))
    x, _ = model.sample(jax.random.key(0), 5, labels=np.arange(5))
    assert x.shape == (5, 2)
    nats, *_ = model.nats_per_dim(jax.random.key(0), np.asarray(x), bpd_rtol=1e-2, bpd_atol=1e-2)
    assert np.isfinite(nats).all()
    with pytest.raises(ValueError, match="data.kind='points' has no bits per dimension"):
        model.bits_per_dim(jax.random.key(0), np.zeros((1, 2), np.uint8))


# Pictures of every kind

SHAPES = {"images": (8, 8, 3), "series": (20, 2), "points": (2,), "fields": (5, 16, 16, 2)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_kept_shown_and_compared(kind, tmp_path):
    x = RNG.uniform(0, 1, (6, *SHAPES[kind])).astype(np.float32)
    row = PICTURES[kind]
    assert row.keep(x).dtype == (np.uint8 if kind == "images" else np.float32)
    picture = row.draw(x, None, None)
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3 and len(np.unique(picture)) > 2
    compared = row.compare(x[:2], np.stack([x[:3], x[3:]]), x[2:4])
    assert compared.dtype == np.uint8 and compared.ndim == 3
    row.save(tmp_path / "a.png", x)
    row.animate(tmp_path / "a.gif", [x * 3, x])
    assert (tmp_path / "a.png").exists() and (tmp_path / "a.gif").exists()


def test_vorticity_of_a_rotation():
    """u = y, v = -x has vorticity 2 by the published sign, away from the edges; x counts rows."""
    from scorax.utils.pictures import _field_panels

    x, y = np.mgrid[:8, :8].astype(np.float32)
    field = np.stack([y, -x], -1)
    np.testing.assert_allclose(_field_panels(field)[1:-1, 1:-1], 2)
