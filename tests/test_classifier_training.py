"""Training a classifier of noisy images, its accuracy, its export, and drawing classes with it."""

import json
import math
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import runs
from scorax import conversion, evaluators, run_lib
from scorax.datasets import get_data_scaler, get_source
from scorax.evaluators import AccuracyCurve
from scorax.experiment import Experiment, build
from scorax.loading import load_classifier, load_state
from scorax.losses import get_classifier_loss_fn
from scorax.metrics import features
from scorax.metrics.feature_sets import Features
from scorax.models.utils import CLASSIFIERS
from scorax.noise_levels import NoiseLevel
from scorax.sde_lib import SDES
from scorax.utils import images
from scorax.utils.arrays import batch_mul
from scorax.utils.checkpoints import Checkpoints
from scorax.weights import formats

STEPS = 60
TRAINING = {"n_iters": STEPS, "batch_size": 64, "log_freq": 30, "eval_freq": 30}
TRAINING |= {"snapshot_freq": 30, "snapshot_freq_for_preemption": 30}


def get_config(name="noise_classifier", **sections):
    """A classifier of 8-pixel digits that learns something in seconds."""
    sections["training"] = TRAINING | sections.get("training", {})
    sections["model"] = {"name": name} | sections.get("model", {})
    sections["eval"] = {"batch_size": 64} | sections.get("eval", {})
    return runs.get_config("classifier/mnist", **sections)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a classifier: config, directory, last state."""
    workdir = tmp_path_factory.mktemp("runs") / "classifier"
    config = get_config()
    return config, workdir, run_lib.train(config, str(workdir))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Its weights without the run."""
    target = tmp_path_factory.mktemp("exported") / "small" / "digits"
    conversion.export_weights(str(trained[1]), trained[0], "weights", str(target))
    return target


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


# The objective


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=list(SDES))
def test_loss_is_the_cross_entropy_at_the_noise_that_is_told(sde):
    """Logits of nothing but noise, and the noise of x measured in units of the level told."""

    class Probe(nn.Module):
        @nn.compact
        def __call__(self, x, sigma, train):
            spread = jnp.sqrt(jnp.mean(x**2, (1, 2, 3))) / sigma
            return jnp.stack([jnp.zeros_like(sigma), spread, 2 * jnp.log(sigma)], 1)

    t = jnp.linspace(0.1 * sde.T, sde.T, 6)
    mu, sigma = sde.marginal_coeffs(t)
    loss_fn = get_classifier_loss_fn(
        Probe(), lambda keys: NoiseLevel(t, mu, sigma, jnp.full(6, jnp.nan)), train=True
    )
    labels = np.array([0, 1, 2, 2, 1, 0])
    batch = {"image": jnp.zeros((6, 64, 64, 1)), "label": labels, "index": np.arange(6)}
    loss, model_state = jax.jit(loss_fn)(jax.random.key(0), {}, {}, batch)
    logits = np.stack([np.zeros(6), np.ones(6), 2 * np.log(sigma / mu)], 1)
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(6), labels]
    np.testing.assert_allclose(loss, expected.mean(), rtol=0.01)
    assert model_state == {}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_has_gradients_of_every_parameter(name):
    config = get_config(name)
    experiment = build(config)
    params = jax.tree.map(
        lambda p: np.random.default_rng(0).standard_normal(p.shape, np.float32) * 0.3,
        experiment.state_shapes.params,
    )
    x = np.random.default_rng(1).random((8, 8, 8, 1), np.float32)
    batch = {"image": x, "label": np.arange(8), "index": np.arange(8, dtype=np.uint32)}
    grad = jax.jit(jax.grad(lambda p: experiment.loss_fn(True)(jax.random.key(0), p, {}, batch)[0]))
    for path, g in jax.tree_util.tree_leaves_with_path(grad(params)):
        assert np.abs(g).max() > 0 or path[-1].key == "W", path


# Training


@pytest.mark.slow
def test_training_teaches_and_shows_it(trained):
    config, workdir, state = trained
    report = run_lib.evaluate(config, str(workdir))["accuracy"]
    accuracy, levels = report["accuracy"], report["noise_levels"]
    assert report["held_out"] and report["num_examples"] == 297
    np.testing.assert_allclose([levels[0], levels[-1]], [0.01, 16.0], rtol=1e-3)
    np.testing.assert_allclose(np.diff(np.log(levels)), math.log(1600) / 12, rtol=1e-2)
    assert accuracy[0] > 0.6  # chance: 0.1, with a standard error of 0.02
    assert accuracy[-1] < 0.3
    for path in ("samples/step_30.png", "samples/step_60.png", "eval/step_60/accuracy.png"):
        assert Image.open(workdir / path).size == (600, 400)
    curve = runs.scalars(workdir, "accuracy")
    assert set(curve) == {30, 60}
    # The same images with other noise.
    assert abs(curve[60] - np.mean(accuracy)) < 0.03
    assert runs.scalars(workdir, "eval_loss")[60] < runs.scalars(workdir, "training_loss")[30]


@pytest.mark.slow
def test_training_that_was_stopped_ends_as_if_it_had_not_been(trained, tmp_path):
    config, workdir, state = trained
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEPS))
    (tmp_path / "run" / "samples" / f"step_{STEPS}.png").unlink()
    assert_same(run_lib.train(config, str(tmp_path / "run")), state)
    assert (tmp_path / "run" / "samples" / f"step_{STEPS}.png").exists()


def test_accuracy_counts_what_the_classifier_says_of_noisy_images(trained, monkeypatch, tmp_path):
    """It says 3 where there is little noise and, where the noise is as told, 5 where it is much."""

    def classifier_fn(self, params, model_state):
        def classify(x, sigma):
            right = jnp.abs(jnp.std(x, (1, 2, 3)) / sigma - 1) < 0.5
            return jax.nn.one_hot(jnp.where(sigma < 1, 3, jnp.where(right, 5, 3)), 10)

        return classify

    config, workdir, state = trained
    monkeypatch.setattr(Experiment, "classifier_fn", classifier_fn)
    source = get_source(config, "test")
    labels = np.array([source[i]["label"] for i in range(len(source))])
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    report = run_lib.evaluate(config, str(tmp_path))["accuracy"]
    for level, accuracy in zip(report["noise_levels"], report["accuracy"], strict=True):
        expected = np.mean(labels == (3 if level < 1 else 5))
        assert accuracy == pytest.approx(expected, abs=1e-4)
    whole = AccuracyCurve(build(config)).in_training(jax.random.key(0), state)
    np.testing.assert_allclose(whole, report["accuracy"], atol=1e-4)


# Weights without their run


def test_exported_weights_are_those_of_the_run(trained, exported, tmp_path):
    config, workdir, state = trained
    assert {p.name for p in exported.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert json.loads((exported / "config.json").read_text()) == json.loads(
        (workdir / "config.json").read_text()
    )
    for directory in (workdir, exported):
        classifier = load_classifier(str(directory))
        experiment, loaded = classifier.experiment, classifier.state
        assert_same(loaded.params_ema, state.params_ema)
        assert int(loaded.step) == STEPS
        assert experiment.config.model.to_dict() == config.model.to_dict()
    earlier = load_classifier(str(workdir), "30").state
    assert int(earlier.step) == 30

    asked = get_config(eval={"checkpoint": str(exported)})
    new = run_lib.evaluate(asked, str(tmp_path / "new"))  # there is no run
    old = run_lib.evaluate(config, str(workdir))
    assert new["accuracy"] == old["accuracy"] and new["step"] == STEPS
    (folder,) = (tmp_path / "new" / "eval").iterdir()
    assert folder.name.endswith("_small_digits") and (folder / "accuracy.png").exists()


def test_exported_weights_become_a_run_again(trained, exported, tmp_path):
    config, _, state = trained
    conversion.import_checkpoint(str(exported), config, str(tmp_path / "run"))
    again, _ = load_state(build(config), str(tmp_path / "run"))
    assert_same(again.params_ema, state.params_ema)
    target = tmp_path / "again"
    conversion.export_weights(str(tmp_path / "run"), config, "weights", str(target))
    arrays = [formats.read_exported(path)[1] for path in (exported, target)]
    assert_same(*arrays)


def test_wrong_weights_are_refused(exported, tmp_path):
    def load(directory, **sections):
        config = get_config(eval={"checkpoint": str(directory)}, **sections)
        return load_state(build(config), str(tmp_path))

    with pytest.raises(ValueError, match="digits'.*model.nf is 12, the checkpoint has 8"):
        load(exported, model={"nf": 12})
    with pytest.raises(ValueError, match="'nowhere' is no step of a run, and no directory"):
        load("nowhere")
    with pytest.raises(ValueError, match="there is no checkpoint in .*; train first"):
        load("")
    (tmp_path / "cut").mkdir()
    shutil.copy(exported / "config.json", tmp_path / "cut")
    with pytest.raises(ValueError, match="cut' is no step of a run, and no directory"):
        load(tmp_path / "cut")
    data = (exported / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(ValueError, match="cannot read .*cut/model.safetensors.*get the file again"):
        load(tmp_path / "cut")


# Drawing classes

SPREAD = 0.05  # standard deviation of the images of a class around its grey, in [0, 1]
GREYS = np.linspace(0.1, 0.9, 10)


def logits(x, sigma, scaler):
    """Exact log p(class | x), but for a constant, of x: (B, H, W, C) with noise sigma: (B,)."""
    greys = scaler(jnp.asarray(GREYS, jnp.float32))
    variance = (SPREAD * (scaler(1.0) - scaler(0.0))) ** 2 + sigma**2
    square = jnp.sum((x[:, None] - greys[None, :, None, None, None]) ** 2, (2, 3, 4))
    return -square / (2 * variance[:, None])


@pytest.fixture
def greys(monkeypatch):
    """Networks know images of ten greys exactly; so does the judge. They need no weights."""

    def score_fn(self, params, model_state, labels=None):
        scaler = get_data_scaler(self.config)
        centers = scaler(jnp.asarray(GREYS, jnp.float32))
        spread = SPREAD * (scaler(1.0) - scaler(0.0))

        def score(x, t):
            mu, sigma = self.sde.marginal_coeffs(t)
            p = jax.nn.softmax(logits(batch_mul(1 / mu, x), sigma / mu, scaler))
            if labels is not None:
                given = jax.nn.one_hot(labels, 10)
                p = jnp.where((labels == 10)[:, None], p, given)
            mean = jnp.sum(p * centers[None], 1)[:, None, None, None]
            offset = x - batch_mul(mu, jnp.broadcast_to(mean, x.shape))
            return -batch_mul(1 / (mu**2 * spread**2 + sigma**2), offset)

        return score

    def classifier_fn(self, params, model_state):
        assert self.network == "a classifier of noisy images"
        return lambda x, sigma: logits(x, sigma, get_data_scaler(self.config))

    def apply(variables, x):
        greys = x.astype(jnp.float32).mean((1, 2, 3)) / 255
        distance = jnp.abs(greys[:, None] - jnp.asarray(GREYS, jnp.float32)[None])
        return Features(greys[:, None], -distance)

    judge = features.FeatureExtractor("greys", {}, {}, apply, 8)
    monkeypatch.setitem(features.FEATURES, "classifier", lambda config: judge)
    monkeypatch.setattr(Experiment, "score_fn", score_fn)
    monkeypatch.setattr(Experiment, "classifier_fn", classifier_fn)


@pytest.fixture(scope="module")
def score_run(tmp_path_factory):
    """Runs of untrained score networks: of one that is told no classes, and of one that is."""
    made = {}
    for classes in (0, 10):
        config = runs.get_config("edm/mnist", model={"num_classes": classes})
        made[classes] = tmp_path_factory.mktemp("runs") / f"score_{classes}"
        shapes = build(config).state_shapes
        state = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
        checkpoints = Checkpoints(made[classes] / "checkpoints", 1)
        checkpoints.save(8, state.replace(step=np.int32(8)), {"next_batch": 8}, config)
        checkpoints.close()
    return made


def draw(workdir, classifier="", classes=0, **guidance):
    """Evaluates the task; its numbers and its folder."""
    config = runs.get_config(
        "edm/mnist",
        model={"num_classes": classes},
        sampling={"steps": 40},
        eval={"tasks": ("class_conditional",), "num_samples": 20},
        guidance={"classifier": str(classifier), "weight": 1.0, **guidance},
    )
    report = run_lib.evaluate(config, str(workdir))
    return report["class_conditional"], workdir / "eval" / "step_8"


@pytest.mark.parametrize("kind", ["classifier", "classifier-free"])
def test_samples_are_of_the_classes_asked_for(kind, greys, score_run, exported, tmp_path):
    """The score's data lie in [-1, 1], the classifier's in [0, 1]."""
    free = kind == "classifier-free"
    workdir = shutil.copytree(score_run[10 if free else 0], tmp_path / "run")
    fields = {"classes": 10} if free else {"classifier": exported}
    report, folder = draw(workdir, labels=(7, 2, 4), **fields)
    assert report["guidance"] == kind and report["labels"] == [7, 2, 4]
    assert report["judge"] == "greys" and report["classified_as_asked"] == 1.0
    assert report["classified_as_asked_of_each"] == {"2": 1.0, "4": 1.0, "7": 1.0}
    with np.load(folder / "class_conditional.npz") as arrays:
        samples, labels = arrays["samples"], arrays["labels"]
    np.testing.assert_array_equal(labels, ([7, 2, 4] * 7)[:20])
    x = samples.astype(np.float64) / 255
    stderr = SPREAD / 64**0.5
    assert np.abs(x.mean((1, 2, 3)) - GREYS[labels]).max() < 5 * stderr
    residual = x - GREYS[labels][:, None, None, None]
    np.testing.assert_allclose(residual.std(), SPREAD, rtol=0.1)
    rows = np.asarray(Image.open(folder / "class_conditional.png"), np.float64)
    width = images.make_grid(np.zeros((18, *samples.shape[1:])), 6).shape[1]
    assert rows[:, :-width].max() > 200  # the names of the classes
    rows = np.array_split(rows[2:, -width:], 3)  # one for each class, six samples each
    np.testing.assert_allclose([r[r > 0].mean() / 255 for r in rows], GREYS[[7, 2, 4]], atol=0.02)

    # Without weight, and drawn again for it, they are of any class.
    report, folder = draw(workdir, labels=(7, 2, 4), **fields | {"weight": 0.0})
    assert report["classified_as_asked"] < 0.4
    assert report["weight"]["weight"] == 0.0


@pytest.mark.slow
def test_another_classifier_at_the_same_place_guides_anew(greys, score_run, exported, tmp_path):
    workdir = shutil.copytree(score_run[0], tmp_path / "run")
    place = shutil.copytree(exported, tmp_path / "classifier")
    draw(workdir, place)
    draw(workdir, place)
    saved, arrays, metadata = formats.read_exported(place)
    shutil.rmtree(place)
    changed = arrays | {"params/logits/bias": arrays["params/logits/bias"] + 1}
    formats.write_exported(place, saved, changed, metadata)
    draw(workdir, place)
    log = (workdir / "stdout.txt").read_text()
    assert log.count("class_conditional: done before with the same settings") == 1
    assert log.count("class_conditional: done again, because of classifier: ") == 1


def score_config(**sections):
    return runs.get_config(**{"eval": {"tasks": ("class_conditional",)}} | sections)


GUIDANCE_ERRORS = [  # fields of guidance ("HERE": of digits), what the message has to say
    ({}, "needs a classifier, --config.guidance.classifier=DIRECTORY, or a network"),
    ({"classifier": "nowhere"}, "'nowhere' does not exist; train one.*configs/classifier/mnist.py"),
    ({"classifier": "HERE", "checkpoint": "30"}, "guidance.checkpoint='30'.*of one step; leave"),
    ({"classifier": "HERE", "labels": (3, 10)}, r"guidance.labels=\(3, 10\).*10 .* 0 ... 9"),
    ({"classifier": "HERE", "labels": (-1,)}, r"guidance.labels=\(-1,\) has -1, which must"),
    ({"classifier": "HERE", "schedule": "x"}, "guidance.schedule.*'x'; choose from: constant"),
    ({"classifier": "HERE", "schedule": "linear"}, "guidance.sigma_max=inf of a linear weight"),
    ({"classifier": "HERE", "clamp": 0.001}, "guidance.clamp=0.001 must be larger than"),
]


@pytest.mark.parametrize("fields, message", GUIDANCE_ERRORS)
def test_what_cannot_guide_is_told_before_anything_is_compiled(
    fields, message, exported, monkeypatch
):
    config = score_config()
    with config.unlocked():
        config.guidance.update(fields)
        if fields.get("classifier") == "HERE":
            config.guidance.classifier = str(exported)
    monkeypatch.setattr(jax.stages.Lowered, "compile", None)
    with pytest.raises(ValueError, match=message) as error:
        evaluators.check(build(config))
    assert "\n" not in str(error.value)


def test_classifier_of_other_images_is_refused(exported):
    config = score_config(data={"image_size": 16}, guidance={"classifier": str(exported)})
    with pytest.raises(ValueError, match="data.image_size=8, but the score network makes .* 16"):
        evaluators.check(build(config))


def test_score_network_is_no_classifier(score_run, tmp_path):
    workdir = shutil.copytree(score_run[0], tmp_path / "run")
    config = runs.get_config("edm/mnist")
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(ValueError, match="guidance.classifier=.*trains a score at all noise"):
        load_classifier(str(workdir))
    with pytest.raises(ValueError, match="guidance.classifier=.*config.json does not exist"):
        load_classifier(str(tmp_path))


@pytest.mark.parametrize(
    "task", [t for t in evaluators.EVALUATORS if t not in ("accuracy", "loss")]
)
def test_tasks_that_need_a_score_refuse_a_classifier(task):
    config = get_config(eval={"tasks": (task,)})
    with pytest.raises(ValueError, match="needs a score .*'classifier' trains a classifier of"):
        evaluators.check(build(config))


def test_accuracy_refuses_a_score():
    with pytest.raises(ValueError, match="'accuracy'.*needs a classifier.*trains a score at all"):
        evaluators.check(build(score_config(eval={"tasks": ("accuracy",)})))


def test_network_and_objective_must_fit():
    with pytest.raises(ValueError, match="'noise_classifier' is a classifier, .*'score' does not"):
        build(get_config(training={"objective": "score"}))
    with pytest.raises(ValueError, match="'ncsnpp' is no classifier, .*one of: wideresnet, noise_"):
        build(get_config("ncsnpp"))
    with pytest.raises(ValueError, match="model.num_classes=0 of a classifier must be at least 2"):
        build(get_config(model={"num_classes": 0}))
    with pytest.raises(ValueError, match="trains a classifier of noisy images, which has no score"):
        build(get_config()).score_fn({}, {})
