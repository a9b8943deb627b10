"""The tasks of an evaluation against closed forms, and what is left of one that was killed."""

import functools
import json
import os
import shutil
import signal
import time

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import runs
from oracles import gaussian_flow, gaussian_score, replacing_network
from scorax import evaluators, experiment, run_lib
from scorax.datasets import get_dataset, get_source
from scorax.evaluators import EVALUATORS, BatchSampler
from scorax.evaluators.task import Evaluator
from scorax.experiment import Experiment, build
from scorax.metrics import features
from scorax.metrics.feature_sets import Features, feature_statistics, frechet_distance
from scorax.utils import images
from scorax.utils.checkpoints import Checkpoints
from slow import but_slow

STEP, SPREAD = 8, 0.4  # of the checkpoint; standard deviation of the Gaussian data of `gaussian`


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with one checkpoint, whose averaged parameters are none of the others."""
    config = runs.get_config()
    workdir = tmp_path_factory.mktemp("runs") / "run"
    state = jax.device_get(jax.jit(build(config).init_state)())
    rng = np.random.default_rng(0)
    ema = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), state.params)
    state = state.replace(step=np.int32(STEP), params_ema=ema)
    checkpoints = Checkpoints(workdir / "checkpoints", 1)
    checkpoints.save(STEP, state, {"next_batch": STEP}, config)
    checkpoints.close()
    return workdir, state


@pytest.fixture
def workdir(trained, tmp_path, monkeypatch):
    """A copy of that run, whose shapes are not found out again for each evaluation."""
    shapes = jax.eval_shape(lambda: trained[1])
    monkeypatch.setattr(experiment, "get_state_shapes", lambda *parts: shapes)
    return shutil.copytree(trained[0], tmp_path / "run")


@pytest.fixture
def gaussian(monkeypatch):
    """The exact score of N(0, SPREAD^2) takes the network's place."""
    get_score = functools.partial(gaussian_score, variance=SPREAD**2)
    monkeypatch.setattr(Experiment, "score_fn", replacing_network(get_score))


@pytest.fixture
def drawn(monkeypatch):
    """Batches drawn so far; `drawn.after` is called with their number after each."""
    draw = BatchSampler.__call__

    class Drawn(list):
        after = staticmethod(lambda number: None)

    def __call__(self, *arguments):
        x = draw(self, *arguments)
        batches.append(x)
        batches.after(len(batches))
        return x

    batches = Drawn()
    monkeypatch.setattr(BatchSampler, "__call__", __call__)
    return batches


def evaluate(workdir, *tasks, sections=None, **fields):
    """Evaluates the tasks with these fields of `eval`; the report and the folder."""
    config = runs.get_config(eval={"tasks": tasks} | fields, **sections or {})
    report = run_lib.evaluate(config, str(workdir))
    folder = workdir / "eval" / f"step_{STEP}"
    if (folder / "report.json").exists():
        assert json.loads((folder / "report.json").read_text()) == report
    return report, folder


def samples_of(folder):
    return np.load(folder / "samples.npz")["samples"]


@pytest.mark.slow
def test_killed_sampling_continues_at_its_round(workdir, gaussian, drawn):
    whole, folder = evaluate(workdir, "samples", num_samples=36)
    assert len(drawn) == 5
    expected = (folder / "samples.npz").read_bytes()
    shutil.rmtree(folder)
    drawn.clear()

    def crash(number):
        if number == 4:
            raise RuntimeError("lightning")

    drawn.after = crash
    with pytest.raises(RuntimeError, match="lightning"):
        evaluate(workdir, "samples", num_samples=36)
    assert not (folder / "samples.npz").exists() and not (folder / "report.json").exists()
    gif = (folder / "process.gif").stat().st_mtime_ns
    drawn.after = lambda number: None
    report, _ = evaluate(workdir, "samples", num_samples=36)
    assert len(drawn) == 4 + 2  # the fourth was not on the disk yet
    assert (folder / "samples.npz").read_bytes() == expected
    assert {p.name for p in folder.iterdir()} - {"process.mp4"} == {
        *("report.json", "process.gif", "samples.npz", "samples.png")
    }
    assert (folder / "process.gif").stat().st_mtime_ns == gif
    assert report["samples"]["nfe"] == whole["samples"]["nfe"] == 10
    assert "continuing at round 4 of 5" in (workdir / "stdout.txt").read_text()


def test_what_is_done_is_not_done_again(workdir, gaussian, drawn):
    first, folder = evaluate(workdir, "samples", num_samples=12)
    twelve = samples_of(folder)
    evaluate(workdir, "samples", num_samples=12)
    evaluate(workdir, "samples", num_samples=5, frames=0)  # there are more already
    assert len(drawn) == 2
    more, _ = evaluate(workdir, "samples", num_samples=20)
    assert len(drawn) == 2 + 2  # the first batch of 8 stays
    assert samples_of(folder).shape == (20, 8, 8, 1)
    np.testing.assert_array_equal(samples_of(folder)[:12], twelve)
    assert more["samples"]["num_samples"] == 20
    log = (workdir / "stdout.txt").read_text()
    assert "samples: done before with the same settings" in log

    other, _ = evaluate(workdir, "samples", num_samples=12, sections={"sampling": {"snr": 0.5}})
    assert len(drawn) == 4 + 2
    assert samples_of(folder).shape == (12, 8, 8, 1)
    assert (samples_of(folder) != twelve).any()
    log = (workdir / "stdout.txt").read_text()
    snr = runs.get_config().sampling.snr
    assert f"samples: done again, because of sampling.snr: {snr} -> 0.5" in log
    (folder / "samples.npz").unlink()
    evaluate(workdir, "samples", num_samples=12, sections={"sampling": {"snr": 0.5}})
    assert len(drawn) == 6 + 2


@pytest.mark.slow
def test_rounds_of_other_settings_are_thrown_away(workdir, gaussian, drawn):
    def crash(number):
        raise RuntimeError

    _, folder = evaluate(workdir, "samples", sections={"seed": 1})
    expected = samples_of(folder)
    shutil.rmtree(folder)
    drawn.after = lambda number: crash(number) if number == 4 else None
    with pytest.raises(RuntimeError):
        evaluate(workdir, "samples")
    assert (folder / "samples_rounds" / "samples" / "00000.npz").exists()
    drawn.after = lambda number: None
    evaluate(workdir, "samples", sections={"seed": 1})
    assert len(drawn) == 2 + 2 + 2
    np.testing.assert_array_equal(samples_of(folder), expected)


@pytest.mark.parametrize(
    "number", but_slow([signal.SIGINT, signal.SIGTERM], lambda n: n == signal.SIGTERM)
)
def test_signal_keeps_the_rounds_that_are_done(number, workdir, gaussian, drawn):
    handler = signal.getsignal(number)
    drawn.after = lambda n: os.kill(os.getpid(), number) if n == 1 else None
    report, folder = evaluate(workdir, "samples", "loss", num_samples=20)
    assert "samples" not in report and "loss" not in report
    assert signal.getsignal(number) == handler
    log = (workdir / "stdout.txt").read_text()
    assert "samples: stopped after round 1 of 3" in log
    assert "the same command continues" in log
    report, _ = evaluate(workdir, "samples", num_samples=20)
    assert len(drawn) == 3 and report["samples"]["num_samples"] == 20


def test_step_whose_samples_are_not_finite_is_named(workdir, monkeypatch):
    def score_fn(self, params, model_state, labels=None):
        return lambda x, t: jnp.where(t[0] > 0.6, -1.0, jnp.nan) * x  # t = 1, .75, .5, ...

    monkeypatch.setattr(Experiment, "score_fn", score_fn)
    with pytest.raises(FloatingPointError, match="not finite at sampling step 3 of 5.*checkpoint"):
        evaluate(workdir, "samples")
    assert not (workdir / "eval" / f"step_{STEP}" / "report.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("task", but_slow(["encode", "bpd", "samples"], "encode".__eq__))
def test_flow_that_fails_says_at_which_time(task, workdir, monkeypatch, caplog):
    def score_fn(self, params, model_state, labels=None):
        return lambda x, t: jnp.where(jnp.abs(t[0] - 0.5) > 0.1, -1.0, jnp.nan) * x

    monkeypatch.setattr(Experiment, "score_fn", score_fn)
    with pytest.raises(FloatingPointError, match="flow ODE from .* stopped at t=0.(4|39999|6)"):
        evaluate(workdir, task, sections={"sampling": {"method": "ode"}})
    assert "Traceback" not in caplog.text  # the sentence stands alone


@pytest.mark.slow
def test_loss_is_the_mean_over_all_of_a_ragged_split(workdir, trained):
    config = runs.get_config(eval={"batch_size": 64})
    n = len(get_source(config, "test"))
    assert n % 64 != 0
    report, folder = evaluate(workdir, "loss", batch_size=64)
    batch = get_dataset(config, "test", -(-n // 8) * 8)[0]
    batch = jax.tree.map(lambda x: x[:n], batch)
    rng = jax.random.fold_in(jax.random.key(config.seed), STEP)
    loss_fn = jax.jit(build(config).loss_fn(train=False))
    expected, _ = loss_fn(rng, trained[1].params_ema, trained[1].model_state, batch)
    assert report["loss"]["num_examples"] == n
    np.testing.assert_allclose(report["loss"]["loss"], expected, rtol=1e-5)

    half, _ = evaluate(workdir, "loss", batch_size=64, num_examples=n // 2)
    ratio = half["loss"]["stderr"] / report["loss"]["stderr"]
    assert half["loss"]["num_examples"] == n // 2
    np.testing.assert_allclose(ratio, 2**0.5, rtol=0.2)
    assert {p.name for p in folder.iterdir()} == {"report.json"}


@pytest.mark.slow
def test_bits_per_dimension_of_gaussian_data(workdir, gaussian):
    """The images of a Gaussian score: -log2 N(x; 0, SPREAD^2), in grey levels."""
    fields = {"num_examples": 12, "bpd_repeats": 2, "bpd_estimator": "exact"}
    report, folder = evaluate(workdir, "bpd", **fields)
    source = get_source(runs.get_config(), "test")
    x = (np.stack([source[i]["image"] for i in range(12)]).reshape(12, -1) + 0.5) / 256
    nats = (x**2).mean(1) / (2 * SPREAD**2) + np.log(2 * np.pi * SPREAD**2) / 2
    expected = 8 + nats / np.log(2)
    bpd = np.load(folder / "bpd.npz")["bpd"]
    assert bpd.shape == (2, 12) and (bpd[0] != bpd[1]).all()
    np.testing.assert_allclose(bpd, np.stack([expected] * 2), atol=0.02)
    assert report["bpd"]["num_examples"] == 12 and report["bpd"]["repeats"] == 2
    np.testing.assert_allclose(report["bpd"]["bpd"], bpd.mean(), rtol=1e-6)
    stderr = bpd.mean(0).std(ddof=1) / 12**0.5
    np.testing.assert_allclose(report["bpd"]["stderr"], stderr, rtol=1e-5)
    assert report["bpd"]["nfe"] > 10


def stretch(config):
    """Factor from data to latents that the flow of a Gaussian has."""
    sde = build(config).sde
    return gaussian_flow(sde, 0.0, SPREAD**2, 1.0, sde.t_min, sde.T)


@pytest.mark.slow
def test_latents_of_gaussian_data_and_the_way_back(workdir, gaussian):
    report, folder = evaluate(workdir, "encode", num_encoded=12)
    config, arrays, numbers = runs.get_config(), np.load(folder / "encode.npz"), report["encode"]
    source = get_source(config, "test")
    x = np.stack([source[i]["image"] for i in range(12)])
    np.testing.assert_array_equal(arrays["images"], x)
    z = arrays["latents"]
    np.testing.assert_allclose(z, stretch(config) * x / 255, rtol=2e-3, atol=1e-3)
    np.testing.assert_array_equal(arrays["reconstructions"], x)
    assert numbers["psnr"] > 50
    np.testing.assert_allclose(numbers["latent_variance"], z.astype(float).var(), rtol=1e-6)
    np.testing.assert_allclose(numbers["latent_mean"], z.astype(float).mean(), rtol=1e-6)
    np.testing.assert_allclose(numbers["prior_variance"], config.model.sigma_max**2, rtol=1e-6)
    picture = np.asarray(Image.open(folder / "encode.png"))
    height = (len(picture) - 6) // 2  # of a row; there are 2 pixels of black around each
    np.testing.assert_array_equal(picture[2 : 2 + height], picture[-2 - height : -2])


@pytest.mark.slow
def test_interpolation_goes_from_one_image_to_the_other(workdir, gaussian):
    report, folder = evaluate(workdir, "interpolate", num_pairs=3, num_points=5)
    arrays = np.load(folder / "interpolate.npz")
    images, originals = arrays["images"], arrays["originals"]
    assert images.shape == (3, 5, 8, 8, 1) and originals.shape == (3, 2, 8, 8, 1)
    source = get_source(runs.get_config(), "test")
    np.testing.assert_array_equal(originals[2, 1], source[5]["image"])
    np.testing.assert_array_equal(images[:, [0, -1]], originals)
    # The flow of a Gaussian is linear: half-way on the sphere is the mean of the two, rescaled.
    x = originals.astype(np.float64)
    norms = np.sqrt((x**2).sum((2, 3, 4)))
    directions = (x / norms[..., None, None, None]).sum(1)
    length = np.sqrt((directions**2).sum((1, 2, 3), keepdims=True))
    middle = directions / length * norms.mean(1)[:, None, None, None]
    assert np.abs(images[:, 2] - np.clip(middle, 0, 255)).max() < 1.5
    assert report["interpolate"]["num_pairs"] == 3
    assert report["interpolate"]["nfe_encode"] > 10
    assert Image.open(folder / "interpolate.png").size[0] > 100


@pytest.fixture
def halves(monkeypatch):
    """Features that need no network: the mean of the upper and of the lower half. Images seen."""

    def apply(variables, x):
        x = x.astype(jnp.float32) / 255
        means = [x[:, :4].mean((1, 2, 3)), x[:, 4:].mean((1, 2, 3))]
        return Features(jnp.stack(means, axis=1))

    seen, provenance = [], {"features": "halves", "sha256": "0"}
    call = features.FeatureExtractor.__call__

    def __call__(self, images):
        seen.append(len(images))
        return call(self, images)

    monkeypatch.setattr(features.FeatureExtractor, "__call__", __call__)
    extractor = features.FeatureExtractor("halves", provenance, {}, apply, 8)
    monkeypatch.setitem(features.FEATURES, "halves", lambda config: extractor)
    return extractor, seen


@pytest.mark.slow
def test_distance_of_the_samples_from_the_training_images(workdir, gaussian, drawn, halves):
    extractor, seen = halves
    report, folder = evaluate(workdir, "fd", features="halves", num_samples=12)
    assert len(drawn) == 2 and report["samples"]["num_samples"] == 12
    source = get_source(runs.get_config(), "train")
    real = extractor(np.stack([source[i]["image"] for i in range(len(source))])).features
    fake = extractor(samples_of(folder)).features
    expected = frechet_distance(*feature_statistics(fake), *feature_statistics(real))
    numbers = report["fd"]
    np.testing.assert_allclose(numbers["FD-halves"], expected, rtol=1e-5)
    assert numbers["num_samples"] == 12 and numbers["num_reference"] == len(source)
    assert {"kid", "precision", "recall", "density", "coverage"} <= set(numbers)
    assert set(numbers["left_out"]) == {"inception_score"}  # there are no logits
    assert "warning" not in numbers

    seen.clear()
    sections = {"sampling": {"snr": 0.5}}
    fewer, _ = evaluate(workdir, "fd", "samples", features="halves", sections=sections)
    assert len(drawn) == 2 + 2 and sum(seen) == 12  # the statistics were kept
    fewer, _ = evaluate(workdir, "fd", features="halves", num_samples=2, sections=sections)
    assert len(drawn) == 4 and fewer["fd"]["num_samples"] == 2
    assert "2 images for 2 features: their covariance is singular" in fewer["fd"]["warning"]
    assert "covariance is singular" in (workdir / "stdout.txt").read_text()


def test_statistics_of_something_else_are_refused(workdir, gaussian, halves, tmp_path):
    config = runs.get_config()
    statistics = features.get_statistics(config, halves[0], "test")
    features.save_statistics(tmp_path / "mine.npz", statistics)
    fields = {"features": "halves", "stats": str(tmp_path / "mine.npz")}
    report, _ = evaluate(workdir, "fd", **fields)
    assert report["fd"]["reference"].endswith("test")
    other = statistics._replace(provenance=statistics.provenance | {"image_size": 32})
    features.save_statistics(tmp_path / "mine.npz", other)
    with pytest.raises(ValueError, match="mine.npz.*image_size: 32 instead of 8"):
        evaluate(workdir, "fd", num_samples=10, **fields)


def test_the_reference_may_be_a_folder_of_pictures(workdir, gaussian, halves, tmp_path):
    config = runs.get_config()
    source = get_source(config, "test")
    chosen = np.stack([source[i]["image"] for i in range(50)])
    images.save_each(tmp_path / "pictures", images.to_float(chosen), [f"{i}" for i in range(50)])
    report, _ = evaluate(workdir, "fd", features="halves", stats=str(tmp_path / "pictures"))
    mean, cov = feature_statistics(halves[0](chosen).features)
    drawn = np.load(workdir / "eval" / f"step_{STEP}" / "samples.npz")["samples"]
    expected = frechet_distance(*feature_statistics(halves[0](drawn).features), mean, cov)
    assert report["fd"]["num_reference"] == 50
    assert report["fd"][halves[0].distance_name] == pytest.approx(expected, rel=1e-4)


ERRORS = [  # tasks, fields of eval, what the message has to say
    (("bpd", "x"), {}, r"task \(eval.tasks\) 'x'; choose from: samples, loss, bpd"),
    (("loss",), {"split": "dev"}, "eval.split 'dev'; choose from: test, train"),
    (("loss",), {"num_examples": -1}, "eval.num_examples=-1 must be at least 0"),
    (("encode",), {"num_encoded": 0}, "eval.num_encoded=0 must be at least 1"),
    (("interpolate",), {"num_pairs": 0}, "eval.num_pairs=0 must be at least 1"),
    (("interpolate",), {"num_points": 1}, "eval.num_points=1 must be at least 2"),
    (("bpd",), {"bpd_repeats": 0}, "eval.bpd_repeats=0 must be at least 1"),
    (("bpd",), {"bpd_rtol": 0.0}, "eval.bpd_rtol=0.0 must be greater than 0"),
    (("bpd",), {"bpd_estimator": "x"}, "eval.bpd_estimator.* 'x'; choose from: rademacher"),
    (("fd",), {"features": "inception"}, "eval.inception_path='' is no file; get pt_inception"),
    (("fd",), {"features": "x"}, "eval.features.* 'x'; choose from: inception, classifier"),
    (("fd",), {"features": "classifier", "stats": "no.npz"}, "eval.stats='no.npz' is no file"),
    (("fd",), {"features": "classifier", "num_samples": 1}, "eval.num_samples=1.* 2 or more"),
]


@pytest.mark.parametrize(
    "tasks, fields, message", ERRORS, ids=["-".join([*e[0], *e[1]]) for e in ERRORS]
)
def test_what_cannot_be_evaluated_is_told_before_anything_is_compiled(
    tasks, fields, message, monkeypatch
):
    monkeypatch.setattr(jax.stages.Lowered, "compile", None)
    with pytest.raises(ValueError, match=message) as error:
        evaluators.check(experiment_of(eval={"tasks": tasks} | fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", ["loss", "bpd", "encode", "interpolate", "fd"])
def test_missing_data_is_told_at_once(task):
    data = {"dataset": "image_folder", "dir": "nowhere"}
    fields = {"tasks": (task,), "features": "classifier"}
    with pytest.raises(ValueError, match="'nowhere' does not exist"):
        evaluators.check(experiment_of(eval=fields, data=data))


def experiment_of(**sections):
    """An experiment of which only config and SDE count, unchecked."""
    config = runs.get_config(**sections)
    return Experiment(config, build(runs.get_config()).sde, None, None, None)


@pytest.mark.parametrize("task", EVALUATORS)
def test_settings_are_fields_of_the_config(task):
    fields = flax.traverse_util.flatten_dict(runs.get_config().to_dict(), sep=".")
    for beginning in EVALUATORS[task].keys:
        assert any(field.startswith(beginning) for field in fields), beginning


def test_another_training_with_the_same_steps_is_another_checkpoint(trained):
    experiment, state = experiment_of(), trained[1]
    task = Evaluator("x", lambda work: {}, ())
    other = state.replace(params_ema=jax.tree.map(lambda x: x + 1e-3, state.params_ema))
    old, new = (task.settings(experiment, s) for s in (state, other))
    report = {"x": {}, "settings": {"x": old}}
    assert task.find_changes(report, old, "") == []
    assert [c.split(":")[0] for c in task.find_changes(report, new, "")] == ["checksum"]
    assert task.find_changes({}, new, "") == ["no numbers of it"]


def test_damaged_report_is_told(tmp_path):
    (tmp_path / "report.json").write_text('{"step": 8, ')
    with pytest.raises(ValueError, match="report.json cannot be read .*; move it away"):
        evaluators.read_report(str(tmp_path))


@pytest.mark.slow
def test_killed_process_continues_on_four_devices(workdir, cache, tmp_path):
    """Some tasks; then two of them again, killed in the middle of the samples."""
    env, killed = runs.environment(cache, 4), shutil.copytree(workdir, tmp_path / "killed")
    fields = {"num_samples": 200, "num_examples": 20, "bpd_rtol": 1e-2, "bpd_atol": 1e-2}
    fields |= {"features": "classifier", "features_path": tmp_path / "classifier.safetensors"}
    fields = {f"eval__{name}": value for name, value in fields.items()}
    fields |= {"sampling__rtol": 1e-3, "sampling__atol": 1e-3}
    tasks = {"samples", "fd", "loss"}
    command = runs.command(workdir, "eval", eval__tasks=tuple(sorted(tasks)), **fields)
    output = runs.finish(runs.start(command, env))
    assert "Traceback" not in output
    expected, folder = (w / "eval" / f"step_{STEP}" for w in (workdir, killed))
    whole = json.loads((expected / "report.json").read_text())
    assert set(whole) == {"step", "versions", "settings", *tasks}

    command = runs.command(killed, "eval", eval__tasks=("fd", "loss"), **fields)
    process = runs.start(command, env)
    until = time.monotonic() + 200
    while not (folder / "samples_rounds" / "samples" / "00003.npz").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.002)
    process.kill()
    runs.finish(process, -signal.SIGKILL)
    assert not (folder / "samples.npz").exists()
    output = runs.finish(runs.start(command, env))
    assert "continuing at round" in output
    assert (folder / "samples.npz").read_bytes() == (expected / "samples.npz").read_bytes()
    report = json.loads((folder / "report.json").read_text())
    assert set(report) == {"step", "versions", "settings", "samples", "fd", "loss"}
    for task in ("fd", "loss"):
        assert report[task] == whole[task]
