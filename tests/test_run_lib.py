import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from PIL import Image

import runs
from scorax import run_lib, steps
from slow import but_slow

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def assert_states_equal(a, b):
    """Bit for bit, leaf by leaf."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def steps_saved(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished, undisturbed run: its config, directory and last state."""
    config, workdir = runs.get_config(), tmp_path_factory.mktemp("runs") / "run"
    return config, workdir, run_lib.train(config, str(workdir))


def test_run_leaves_what_the_module_promises(run):
    config, workdir, state = run
    assert int(state.step) == config.training.n_iters
    assert json.loads((workdir / "config.json").read_text())["optim"]["lr"] == config.optim.lr
    assert json.loads((workdir / "versions.json").read_text())["jax"] == jax.__version__
    assert steps_saved(workdir) == [4, 8]
    assert Image.open(workdir / "samples" / "step_8.png").size[0] > 100
    losses = runs.scalars(workdir, "training_loss")
    assert list(losses) == [2, 4, 6, 8]
    assert np.isfinite(list(losses.values())).all()
    assert list(runs.scalars(workdir, "eval_loss")) == [4, 8]
    log = (workdir / "stdout.txt").read_text()
    assert "step 8: training_loss" in log
    assert str(workdir / "samples" / "step_8.png") in log


def test_finished_run_says_so_and_names_the_picture(run):
    config, workdir, state = run
    picture = workdir / "samples" / "step_8.png"
    before = picture.stat().st_mtime_ns
    assert_states_equal(run_lib.train(config, str(workdir)), state)
    assert f"finished: step 8 of 8; samples: {picture}" in (workdir / "stdout.txt").read_text()
    assert picture.stat().st_mtime_ns == before


def test_sampler_that_fails_does_not_fail_the_training(run, tmp_path, monkeypatch):
    def fail(self, *arguments):
        raise FloatingPointError("samples are not finite")

    workdir = shutil.copytree(run[1], tmp_path / "run")
    (workdir / "samples" / "step_8.png").unlink()
    monkeypatch.setattr(run_lib.BatchSampler, "__call__", fail)
    assert_states_equal(run_lib.train(run[0], str(workdir)), run[2])
    log = (workdir / "stdout.txt").read_text()
    assert "no picture of step 8: samples are not finite" in log
    assert log.splitlines()[-1].endswith("finished: step 8 of 8")


@pytest.mark.slow
def test_interrupted_run_continues_bit_for_bit(run, tmp_path, monkeypatch):
    """A crash two steps behind the last checkpoint: the same state and losses in the end."""
    config, workdir, state = run
    log_metrics = run_lib.Run.log_metrics

    def crash(self, step, metrics):
        log_metrics(self, step, metrics)
        if step == 6:
            raise RuntimeError("lightning")

    monkeypatch.setattr(run_lib.Run, "log_metrics", crash)
    with pytest.raises(RuntimeError, match="lightning"):
        run_lib.train(config, str(tmp_path))
    assert steps_saved(tmp_path) == [4]
    assert "RuntimeError: lightning" in (tmp_path / "stdout.txt").read_text()
    monkeypatch.undo()
    assert_states_equal(run_lib.train(config, str(tmp_path)), state)
    for name in ("training_loss", "grad_norm", "eval_loss"):
        assert runs.scalars(tmp_path, name) == runs.scalars(workdir, name)
    pictures = [Image.open(w / "samples" / "step_8.png") for w in (workdir, tmp_path)]
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("number", but_slow(SIGNALS, lambda n: n == signal.SIGTERM))
def test_signal_saves_and_stops(number, tmp_path, monkeypatch):
    config = runs.get_config()
    log_metrics = run_lib.Run.log_metrics

    def interrupt(self, step, metrics):
        log_metrics(self, step, metrics)
        os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    monkeypatch.setattr(run_lib.Run, "log_metrics", interrupt)
    state = run_lib.train(config, str(tmp_path))
    assert int(state.step) == 2
    assert steps_saved(tmp_path) == [2]
    assert "the same command continues" in (tmp_path / "stdout.txt").read_text()
    assert not (tmp_path / "samples").exists()
    assert signal.getsignal(number) == handler


def stop_during(monkeypatch, module, name, number=signal.SIGTERM):
    """Sends a signal when a function is called, which then takes a second."""
    function = getattr(module, name)

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), number)
        time.sleep(1)
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, interrupted)


def test_a_signal_while_the_training_step_is_compiled_ends_the_run(tmp_path, monkeypatch):
    stop_during(monkeypatch, steps, "compile_train")
    assert int(run_lib.train(runs.get_config(), str(tmp_path)).step) == 0
    assert steps_saved(tmp_path) == []
    log = (tmp_path / "stdout.txt").read_text()
    assert log.splitlines()[-1].endswith("stopped at step 0 of 8; the same command continues")


@pytest.mark.slow
def test_a_signal_while_the_loss_is_compiled_saves_the_step(tmp_path, monkeypatch):
    stop_during(monkeypatch, steps, "compile_eval")
    config = runs.get_config(training={"snapshot_freq_for_preemption": 8})
    assert int(run_lib.train(config, str(tmp_path)).step) == 4
    assert steps_saved(tmp_path) == [4]


def spoil(monkeypatch, first, last):
    """Makes some of the batches, by number from 0, all NaN."""
    get_iterator = run_lib.get_iterator

    def get_broken_iterator(dataset, config):
        def spoiled(batch):
            k = batch["index"].max() // config.training.batch_size
            added = np.float32(np.nan if first <= k <= last else 0)
            return batch | {"image": batch["image"] + added}

        return get_iterator(dataset.map(spoiled), config)

    monkeypatch.setattr(run_lib, "get_iterator", get_broken_iterator)


def test_a_step_that_is_not_finite_is_skipped_and_its_batch_kept(run, tmp_path, monkeypatch):
    spoil(monkeypatch, 3, 3)
    state = run_lib.train(run[0], str(tmp_path))
    assert int(state.step) == 8
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    line = f"is not finite at step 4; its batch is in {tmp_path}/skipped.npz, and it is skipped (1 "
    assert line in (tmp_path / "stdout.txt").read_text()
    with np.load(tmp_path / "skipped.npz") as kept:
        assert int(kept["step"]) == 4 and not np.isfinite(kept["image"]).all()
        np.testing.assert_array_equal(kept["index"].ravel(), np.arange(24, 32))
    assert list(runs.scalars(tmp_path, "training_loss")) == [2, 4, 6, 8]


def test_diverged_run_stops_before_it_saves(tmp_path, monkeypatch):
    spoil(monkeypatch, 5, 99)
    config = runs.get_config(training={"max_skipped": 0}, optim={"lr": 100.0})
    message = "not finite at step 6; .*max_skipped=0 is exceeded; .*lr=0.0002 continues from step 4"
    with pytest.raises(FloatingPointError, match=message):
        run_lib.train(config, str(tmp_path))
    assert steps_saved(tmp_path) == [4]


def test_parameters_that_are_not_finite_are_not_saved(run, tmp_path):
    config, _, state = run
    params = jax.tree.map(lambda x: np.full_like(x, np.inf), state.params)
    checkpoints = run_lib._open_checkpoints(config, str(tmp_path))
    broken = run_lib.Run(run_lib.build(config), str(tmp_path), checkpoints, 0)
    with pytest.raises(FloatingPointError, match="a parameter is not finite"):
        broken.save(state.replace(params=params), 8)
    assert checkpoints.latest_step() is None


def test_evaluation_writes_samples_animation_and_report(run):
    config, workdir, _ = run
    report = run_lib.evaluate(config, str(workdir))
    folder = workdir / "eval" / "step_8"
    assert json.loads((folder / "report.json").read_text()) == report
    assert report["samples"]["nfe"] == 10  # five steps of one predictor and one corrector
    assert report["samples"]["seconds"] > 0
    samples = np.load(folder / "samples.npz")["samples"]
    assert samples.shape == (12, 8, 8, 1) and samples.dtype == np.uint8
    assert len(np.unique(samples.reshape(12, -1), axis=0)) == 12
    assert Image.open(folder / "process.gif").n_frames == 3
    assert Image.open(folder / "samples.png").size[0] > 100


DAMAGED = [
    *(
        ("report.json", text)
        for text in (b"[]", b"null", b'{"settings": 3}', b'{"samples": ', None)
    ),
    *(("samples.npz", content) for content in (lambda x: x[: len(x) // 2], b"ab", None)),
    *(("samples_rounds/samples/settings.json", content) for content in (b"[]", b"x", None)),
]


@pytest.mark.parametrize("name, content", DAMAGED)
def test_a_damaged_file_of_an_evaluation_is_named(run, tmp_path, name, content):
    config, workdir, _ = run
    run_lib.evaluate(config, str(workdir))
    folder = shutil.copytree(workdir, tmp_path / "run") / "eval" / "step_8"
    if "rounds" in name:  # of an evaluation that was interrupted
        (folder / "report.json").unlink()
        (folder / "samples.npz").unlink()
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.unlink(missing_ok=True)
        path.mkdir()
    else:
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)
    with pytest.raises(ValueError, match=f"^{path}.*move it away") as error:
        run_lib.evaluate(config, str(tmp_path / "run"))
    assert "\n" not in str(error.value)


def test_numbers_without_settings_are_computed_again(run, tmp_path):
    config, workdir, _ = run
    config = runs.get_config(eval={"tasks": ("loss",)})
    workdir = shutil.copytree(workdir, tmp_path / "run")
    report = workdir / "eval" / "step_8" / "report.json"
    first = run_lib.evaluate(config, str(workdir))
    report.write_text(json.dumps({"loss": {"loss": 0.0}}))
    assert run_lib.evaluate(config, str(workdir))["loss"] == first["loss"]
    assert "because of no settings of it" in (workdir / "stdout.txt").read_text()


def test_another_config_is_refused_and_changes_nothing(run, tmp_path):
    config, workdir, _ = run
    shutil.copytree(workdir, tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    other = runs.get_config(model={"nf": 12}, optim={"lr": 1.0})
    for start in (run_lib.train, run_lib.evaluate):
        with pytest.raises(ValueError, match="model.nf is 12, the checkpoint has 8"):
            start(other, str(tmp_path / "run"))
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    assert steps_saved(tmp_path / "run") == [4, 8]


def test_calls_of_the_step_must_not_miss_the_intervals(run):
    keys = ("log_freq", "eval_freq", "snapshot_freq", "snapshot_freq_for_preemption", "n_iters")
    config = runs.get_config(training={"n_jitted_steps": 3} | dict.fromkeys(keys, 9))
    with pytest.raises(ValueError, match="n_jitted_steps=3 does not divide the 8 steps done"):
        run_lib.train(config, str(run[1]))


def test_evaluation_needs_a_checkpoint(run, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint in .*; train first"):
        run_lib.evaluate(runs.get_config(), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="no checkpoint of step 5 .*choose from: 4, 8"):
        run_lib.evaluate(runs.get_config(eval={"checkpoint": "5"}), str(run[1]))


ERRORS = [  # section, fields, what the message has to say
    ("training", {"sde": "vpsd"}, "unknown sde.* 'vpsd'; choose from: vesde, vpsde"),
    ("training", {"objective": "x"}, "training.objective 'x'; choose from: score, edm"),
    ("training", {"continuous": False}, "training.objective='edm' needs training.continuous=True"),
    ("training", {"batch_size": 12}, "training.batch_size=12 cannot be split .* over 8 devices"),
    ("training", {"n_jitted_steps": 3}, "training.n_iters=8 .* training.n_jitted_steps=3"),
    ("training", {"log_freq": 0}, "training.log_freq=0 must be at least 1"),
    ("training", {"p_std": -1.0}, "training.p_std=-1.0 must be at least"),
    ("training", {"likelihood_weighting": True}, "training.likelihood_weighting=True"),
    ("model", {"name": "unet"}, r"model.name.* 'unet'; choose from: ncsnpp"),
    ("model", {"parametrization": "v"}, r"model.parametrization.* 'v'; choose from: .*sigma"),
    ("model", {"nonlinearity": "x"}, "unknown nonlinearity.* 'x'; choose from: .*swish"),
    ("model", {"dtype": "float8"}, "model.dtype.* 'float8'; choose from: float32, bfloat16"),
    ("model", {"embedding_type": "x"}, "model.embedding_type='x' .*fourier, positional"),
    ("model", {"ch_mult": (1,) * 5}, "data.image_size=8 cannot be halved 4 times.*model.ch_mult"),
    ("model", {"sigma_min": -1.0}, "model.sigma_min=-1.0 must be greater than 0"),
    ("model", {"sigma_data": 0.0}, "model.sigma_data=0.0 must be at least"),
    ("model", {"dropout": 1.5}, "model.dropout=1.5 must be at most 0.999"),
    ("model", {"ema_rate": 2.0}, "model.ema_rate=2.0 must be at most 1"),
    ("optim", {"optimizer": "x"}, r"optim.optimizer.* 'x'; choose from: adam"),
    ("optim", {"schedule": "x"}, "optim.schedule 'x'; choose from: constant, cosine"),
    ("optim", {"lr": -1.0}, "optim.lr=-1.0 must be at least 0"),
    ("optim", {"beta1": 1.0}, "optim.beta1=1.0 must be at most 0.999999"),
    ("sampling", {"method": "x"}, "sampling.method 'x'; choose from: .*pc"),
    ("sampling", {"predictor": "x"}, "sampling.predictor.* 'x'; choose from: .*euler_maruyama"),
    ("sampling", {"corrector": "x"}, "sampling.corrector.* 'x'; choose from: .*langevin"),
    ("sampling", {"steps": 1}, "N=1 .*sampling.steps.* at least 2"),
    ("sampling", {"eps": 2.0}, "sampling.eps=2.0 must lie between 0 and 1"),
    ("eval", {"tasks": ("x",)}, r"eval.tasks.* 'x'|task \(eval.tasks\) 'x'"),
    ("eval", {"num_samples": 0}, "eval.num_samples=0 must be at least 1"),
    ("data", {"dataset": "cats"}, "unknown dataset.* 'cats'; choose from: .*cifar10"),
    ("data", {"image_size": 16}, "data.image_size=16 .* set --config.data.image_size=8"),
    ("data", {"num_threads": 0}, "data.num_threads=0 must be at least 1"),
    ("data", {"dataset": "image_folder", "dir": "nowhere"}, "'nowhere' does not exist; put"),
]


@pytest.mark.parametrize(
    "section, fields, message",
    ERRORS,
    ids=["-".join(f"{k}={v}" for k, v in e[1].items()) for e in ERRORS],
)
def test_bad_configs_are_refused_before_anything_is_written(section, fields, message, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(ValueError, match=message) as error:
        run_lib.train(runs.get_config(**{section: fields}), str(workdir))
    assert "\n" not in str(error.value)
    assert not workdir.exists()


def test_fourier_features_are_refused_for_discrete_levels():
    config = runs.get_config(
        training={"continuous": False, "objective": "score"},
        model={"parametrization": "score_sde"},
    )
    with pytest.raises(ValueError, match="'fourier' .*=False; set model.embedding_type="):
        run_lib.build(config)


def test_image_that_breaks_off_stops_the_run_with_its_name(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        folder = tmp_path / "data" / split / "a"
        folder.mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(256, size=(8, 8), dtype=np.uint8)).save(
                folder / f"{i}.png"
            )
    path = tmp_path / "data" / "train" / "a" / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    data = {"dataset": "image_folder", "dir": str(tmp_path / "data")}
    with pytest.raises(ValueError, match=f"{path} cannot be decoded .*; replace or remove it"):
        run_lib.train(runs.get_config(data=data), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
