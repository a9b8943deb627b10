"""main.py as a user meets it: a command line in, files and a few lines out."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import runs
from scorax import main
from slow import but_slow

SIGNALS = [signal.SIGINT, signal.SIGTERM]
SMOKE = "--config configs/ve/mnist.py:smoke"
WRONG = [  # command line, what the one line has to say
    (f"{SMOKE} --mode train --config.optim.lr=abc", "--config.optim.lr=abc: could not convert"),
    (f"{SMOKE} --mode train --config.seed=1.5", "--config.seed=1.5: invalid literal for int()"),
    (f"{SMOKE} --mode train --config.model.fir=maybe", "--config.model.fir=maybe: "),
    (f"{SMOKE} --mode train --config.model.nff=3", "--config.model.nff; did you mean model.nf?"),
    (f"{SMOKE} --mode train --config.optm.lr=3", "--config.optm.lr; did you mean optim.lr?"),
    (f"{SMOKE} --mode train --config.optim.lr.x=3", "unknown field --config.optim.lr.x"),
    (f"{SMOKE} --mode trian", "--mode=trian: value should be one of <train|eval>"),
    (f"{SMOKE} --mode train --nope=3", "flag 'nope'"),
    (f"{SMOKE} --mode train extra", "'extra' belongs to no flag"),
    (SMOKE, "give --config and --mode"),
    ("--mode train", "give --config and --mode"),
    ("--config configs/ve/nope.py --mode train", "No such file or directory: 'configs/ve/nope.py'"),
    ("--config configs/__init__.py --mode train", "configs/__init__.py is no config"),
    ("--config README.md --mode train", "(README.md, line "),
    ("--config configs/ve/mnist.py:smok --mode train", "unknown config variant 'smok'; write FILE"),
]


def say(arguments, workdir, env=os.environ):
    """What main.py says to a command line that is wrong."""
    command = [sys.executable, "main.py", *arguments.split(), "--workdir", str(workdir)]
    done = subprocess.run(command, cwd=runs.ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert not workdir.exists()
    return done.stderr


@pytest.mark.parametrize("arguments, message", WRONG, ids=[w[0][-24:] for w in WRONG])
def test_wrong_command_line_is_told_in_one_sentence(arguments, message, tmp_path):
    line = say(arguments, tmp_path / "run")
    assert line.startswith("error: ") and line.count("\n") == 1
    assert message in line


@pytest.mark.slow
def test_missing_data_is_told_in_one_sentence(tmp_path):
    env = runs.environment(tmp_path)
    line = say("--config configs/ve/afhq_512.py --mode train", tmp_path / "run", env)
    assert line.count("\n") == 1
    for part in ("'data/afhq' does not exist", "https://", "--config.data.dir=DIR"):
        assert part in line


@pytest.mark.parametrize(
    "path, workdir",
    [
        ("configs/ve/mnist.py", "runs/ve/mnist"),
        ("./configs/ve/mnist.py:smoke", "runs/ve/mnist_smoke"),
        ("/some/where/configs/vp/a.b.py", "runs/vp/a.b"),
        ("mine.py", "runs/mine"),
    ],
)
def test_default_workdir(path, workdir):
    assert main.default_workdir(path) == workdir


@pytest.fixture(scope="module")
def env(cache):
    """A laptop's: nothing says that there is no TPU."""
    return {k: v for k, v in runs.environment(cache).items() if k != "JAX_PLATFORMS"}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_imports_ends_the_program(number, tmp_path):
    process = runs.start(runs.command(tmp_path / "run"), os.environ | {"PYTHONVERBOSE": "1"})
    for line in process.stdout:  # says what it imports
        if line.startswith("import 'jax"):
            break
    process.send_signal(number)
    output = runs.finish(process, 128 + number)
    assert output.rstrip().endswith(f"{number.name}: stopped")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", but_slow(SIGNALS, lambda n: n == signal.SIGINT))
def test_a_signal_while_something_compiles_ends_the_program(number, env, tmp_path):
    process = runs.start(runs.command(tmp_path), env | {"JAX_ENABLE_COMPILATION_CACHE": "false"})
    for line in process.stdout:
        if line.startswith("compiling the training step"):
            break
    time.sleep(1)
    process.send_signal(number)
    output = runs.finish(process, 128 + number)
    assert f"{number.name}: stopping; Ctrl-C again stops at once" in output
    assert output.splitlines()[-1] == "stopped at step 0 of 8; the same command continues"


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 8])
def test_a_signal_ends_a_picture_that_is_being_drawn(step, env, tmp_path):
    """Between two steps, and at the end, where the next run draws it."""
    drawing = {"training__snapshot_freq": step, "sampling__steps": 20_000}
    process = runs.start(runs.command(tmp_path, **drawing), env)
    for line in process.stdout:
        if line.startswith("done in") and "compiling the sampler" in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    output = runs.finish(process, 128 + signal.SIGTERM)
    last = f"stopped at step {step} of 8, which is saved; the same command continues"
    assert output.splitlines()[-1] == last and "Traceback" not in output
    assert not (tmp_path / "samples").exists()
    output = runs.finish(runs.start(runs.command(tmp_path), env))
    assert "finished: step 8 of 8; samples: " in output


@pytest.mark.slow
def test_a_first_session(env, tmp_path):
    """Train, train again, evaluate: what is said and what is left, and nothing else."""
    output = runs.finish(runs.start(runs.command(tmp_path), env))
    for word in ("Traceback", "libtpu", "backend", "Warning", "orbax"):
        assert word not in output
    assert "training: 8/8" in output and "steps/s" in output and "left" in output
    picture = tmp_path / "samples" / "step_8.png"
    assert str(picture) in output.splitlines()[-1] and picture.exists()

    again = runs.finish(runs.start(runs.command(tmp_path), env))
    assert f"finished: step 8 of 8; samples: {picture}" in again
    assert "training:" not in again

    output = runs.finish(runs.start(runs.command(tmp_path, "eval"), env))
    report = tmp_path / "eval" / "step_8" / "report.json"
    assert f"report: {report}" in output
    assert {p.name for p in report.parent.iterdir()} - {"process.mp4"} == {
        *("report.json", "process.gif", "samples.npz", "samples.png")
    }


LONG = {"training__n_iters": 200, "training__log_freq": 20, "training__eval_freq": 200}
LONG |= {"training__snapshot_freq_for_preemption": 20, "training__snapshot_freq": 200}
LONG |= {"training__snapshot_sampling": False}


def saved_arrays(workdir, step):
    """The arrays of a checkpoint, read without this repository's code."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((workdir / "checkpoints" / str(step) / "state").absolute())


@pytest.mark.slow
def test_killed_run_continues_bit_for_bit(cache, tmp_path):
    fields, env = LONG | {"training__n_jitted_steps": 2}, runs.environment(cache)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    runs.finish(runs.start(runs.command(whole, **fields), env))
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM)):
        process = runs.start(runs.command(killed, **fields), env)
        runs.wait_for_checkpoint(killed, process)
        process.send_signal(number)
        output = runs.finish(process, code)
        assert "Traceback" not in output
    assert ": 10,857 parameters, step 0" not in output  # it began where the killed one had been
    assert "the same command continues" in output
    assert not (killed / "checkpoints" / "200").exists()
    runs.finish(runs.start(runs.command(killed, **fields), env))
    arrays, expected = saved_arrays(killed, 200), saved_arrays(whole, 200)
    assert {name.split("/")[0] for name in arrays} >= {"params", "params_ema", "opt_state", "step"}
    for name in arrays | expected:
        np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)
    losses = runs.scalars(whole, "training_loss")
    assert len(losses) == 10
    assert runs.scalars(killed, "training_loss") == losses
