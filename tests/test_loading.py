"""The door for programs: whatever holds a trained network gives the same scores through it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_convert_checkpoint import config_for, golden, source_of

import scorax
from golden import assert_golden, nhwc
from oracles import gaussian_score
from scorax import conversion
from scorax.loading import load_state

NAME = "score_sde_pytorch"  # VE, with a score among its reference values


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The same network in every form: as a run, exported, and in published formats."""
    config, folder = config_for(NAME), tmp_path_factory.mktemp("kept")
    run = folder / "run"
    conversion.import_checkpoint(source_of(NAME), config, str(run))
    (run / "config.json").write_text(json.dumps(config.to_dict()))
    for form in ("weights", "safetensors"):
        conversion.export_weights(str(run), config, form, str(folder / form))
    (step,) = (int(p.name) for p in (run / "checkpoints").iterdir())
    return folder, config, step


def places(kept):
    """(path, config, step) of each form."""
    folder, config, step = kept
    return {
        "run": (folder / "run", None, None),
        "step": (folder / "run" / "checkpoints" / str(step), None, None),
        "step by number": (folder / "run", None, step),
        "exported": (folder / "weights", None, None),
        "safetensors": (folder / "safetensors", None, None),  # its metadata have the config
        "published": (source_of(NAME), config, None),
    }


@pytest.mark.parametrize(
    "form", ["run", "step", "step by number", "exported", "safetensors", "published"]
)
def test_every_form_gives_the_published_score(form, kept):
    path, config, step = places(kept)[form]
    model, z = scorax.load(path, config, step), golden(NAME)
    assert model.step == kept[2]
    assert_golden(model.score_fn(nhwc(z["in/x"]), jnp.asarray(z["in/t"])), z, "out/score")


@pytest.fixture(scope="module")
def model(kept):
    return scorax.load(kept[0] / "weights")


@pytest.mark.slow
def test_samples_are_images_drawn_with_the_sampler_asked_for(model):
    rng = jax.random.key(0)
    images, nfe = model.sample(rng, 2, method="ddim", steps=3)
    assert images.shape == (2, *model.shape) and images.dtype == jnp.float32 and nfe == 3
    assert 0 <= images.min() and images.max() <= 1
    sampler = scorax.solvers.SOLVERS["ddim"](model.sde, steps=3)
    x, _ = jax.jit(lambda rng: sampler(rng, model.score_fn, images.shape))(rng)
    np.testing.assert_allclose(images, jnp.clip(model.to_data(x), 0, 1), atol=1e-5)
    again, _ = model.sample(rng, 2, steps=3, method="ddim")
    np.testing.assert_array_equal(again, images)
    assert len(model._compiled) == 1  # the order of the options is no other sampler


def test_a_condition_takes_the_scores_place(model):
    known = gaussian_score(model.sde, mean=model.to_model(0.25), variance=1e-6)
    images, _ = model.sample(
        jax.random.key(0), 2, condition=lambda score_fn: known, method="ddim", steps=5
    )
    np.testing.assert_allclose(images, jnp.full_like(images, 0.25), atol=1e-3)


def test_what_does_not_fit_is_refused(model, kept, tmp_path):
    folder, config, step = kept
    rng = jax.random.key(0)
    for options, message in (
        ({"metod": "ddim"}, "unknown field sampling.metod; did you mean method"),
        ({"steps": "many"}, "sampling.steps='many' must be of type int"),
        ({"method": "dim"}, "unknown sampling.method 'dim'; choose from: pc"),
        ({"labels": np.zeros(1, int)}, "the network is told no classes|has no classes"),
    ):
        with pytest.raises(ValueError, match=message):
            model.sample(rng, 1, **options)
    with pytest.raises(ValueError, match="n=0 examples cannot be drawn"):
        model.sample(rng, 0)
    with pytest.raises(ValueError, match="images are float32 of shape"):
        model.bits_per_dim(rng, np.zeros((1, *model.shape), np.float32))
    for path, config_or_name, number, message in (
        (tmp_path / "nowhere", None, None, "nowhere does not exist"),
        (folder / "run", None, step + 1, f"no checkpoint of step {step + 1}"),
        (folder / "run" / "checkpoints" / str(step), None, step, "is one step of a run"),
        (folder / "weights", None, step, "is not a run"),
        (source_of(NAME), None, None, "does not say what network|does not say which network"),
        (source_of(NAME), "ve/minst", None, "directory: 've/minst'"),
        (tmp_path, None, None, "no config.json"),
    ):
        with pytest.raises(ValueError, match=message):
            scorax.load(path, config_or_name, number)


def test_evaluation_reads_the_same_weights(model, kept):
    config = model.config.copy_and_resolve_references()
    config.eval.checkpoint = str(kept[0] / "weights")
    state, _ = load_state(scorax.experiment.build(config), "")
    same = jax.tree.map(lambda a, b: (a == b).all(), state.params_ema, model.state.params_ema)
    assert all(jax.tree.leaves(same))
