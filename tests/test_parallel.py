"""The same run on any number of devices and processes."""

import signal

import jax
import numpy as np
import pytest

import runs
from scorax import losses, run_lib
from scorax.datasets import get_dataset
from scorax.utils import parallel

TRAINING = {"n_iters": 4, "log_freq": 1, "eval_freq": 4, "snapshot_freq_for_preemption": 2}
TRAINING |= {"snapshot_sampling": False}
FIELDS = {f"training__{name}": value for name, value in TRAINING.items()}
FIELDS |= {"model__nf": 24}  # with arrays that are worth splitting
LONG = FIELDS | {"training__batch_size": 12, "eval__batch_size": 12, "training__eval_freq": 2000}
LONG |= {"optim__schedule": "constant"}  # others depend on training.n_iters


def test_split_keeps_the_order_of_examples():
    x = np.arange(2 * 8 * 3).reshape(2 * 8 * 3, 1)
    y = parallel.split_over_devices({"x": x}, 2)["x"]
    assert y.shape == (8, 2, 3, 1)
    np.testing.assert_array_equal(y.swapaxes(0, 1).reshape(x.shape), x)


def test_replicas_are_equal_and_come_back_bit_for_bit():
    tree = {"a": np.float32([[1.5, np.pi]]), "b": np.int32(3)}
    copies = parallel.replicate(tree)
    assert copies["a"].shape == (8, 1, 2) and len(copies["a"].sharding.device_set) == 8
    back = jax.device_get(parallel.unreplicate(copies))
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    assert back["a"].dtype == np.float32 and back["b"].shape == ()


def test_sharded_batch_lies_on_all_devices():
    y = jax.jit(lambda x: parallel.shard_batch(x) + 1)(np.zeros((16, 2), np.float32))
    assert len({s.device for s in y.addressable_shards}) == 8
    assert y.addressable_shards[0].data.shape == (2, 2)
    np.testing.assert_array_equal(parallel.to_host(y), np.ones((16, 2)))


@pytest.mark.parametrize("size", [12, 0, -8])
def test_batch_that_cannot_be_split_is_refused(size):
    with pytest.raises(ValueError, match=f"eval.batch_size={size} .* a positive multiple of 8"):
        parallel.local_batch_size(size, "eval.batch_size")


@pytest.mark.parametrize("name", ["JAX_NUM_PROCESSES", "JAX_PROCESS_ID"])
def test_number_of_processes_has_to_be_one(name, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv(name, "two")
    with pytest.raises(ValueError, match=f"{name}='two' .*a whole number"):
        parallel.initialize()


@pytest.mark.slow
def test_eight_devices_make_the_step_of_one():
    """Loss, gradient norm and parameters of three steps, against the step without a mapped axis."""
    config = runs.get_config()
    experiment, batches = run_lib.build(config), get_dataset(config)
    rest = experiment.loss_fn(train=True), experiment.optimizer, config.seed, config.model.ema_rate
    one = jax.jit(losses.get_step_fn(*rest))
    eight = parallel.map_over_devices(losses.get_step_fn(*rest, axis_name=parallel.AXIS))
    state = jax.device_get(experiment.init_state())
    states = parallel.replicate(state)
    for k in range(3):
        state, expected = one(state, batches[k])
        split = jax.tree.map(lambda x: x[:, 0], parallel.split_over_devices(batches[k]))
        states, metrics = eight(states, split)
        for name, value in parallel.unreplicate(metrics).items():
            np.testing.assert_allclose(value, expected[name], rtol=2e-5, err_msg=name)
    for x in jax.tree.leaves(states):  # all replicas stay the same, bit for bit
        np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape))
    assert int(parallel.unreplicate(states).step) == 3


def test_a_step_gives_away_its_state_and_keeps_the_batch():
    """score_sde donated the batch, so that two copies of the state were alive."""
    step = parallel.map_over_devices(lambda s, b: (s + b, b.sum()), donate_argnums=(0,))
    state, batch = parallel.replicate(np.zeros(4)), parallel.replicate(np.ones(4))
    step(state, batch)
    assert state.is_deleted() and not batch.is_deleted()


@pytest.fixture(scope="module")
def on_one(cache, tmp_path_factory):
    """A run on one device: what all others have to agree with."""
    workdir = tmp_path_factory.mktemp("runs") / "one"
    runs.finish(runs.start(runs.command(workdir, **FIELDS), runs.environment(cache)))
    return workdir


def assert_same_losses(workdir, expected):
    for name in ("training_loss", "eval_loss"):
        found, wanted = runs.scalars(workdir, name), runs.scalars(expected, name)
        assert found.keys() == wanted.keys() != set()
        np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-4)


@pytest.mark.slow
def test_devices_do_not_change_the_run(on_one, cache, tmp_path):
    env = runs.environment(cache, 8)
    runs.finish(runs.start(runs.command(tmp_path, **FIELDS), env))
    assert_same_losses(tmp_path, on_one)


def two_processes(arguments, cache):
    """The command as two processes of two devices each."""
    return runs.processes(arguments, cache, 2, 2)


def run_two_processes(arguments, cache):
    """Runs the command in two processes; returns what each of them said."""
    with two_processes(arguments, cache) as processes:
        return [runs.finish(process) for process in processes]


@pytest.mark.slow
def test_two_processes_train_evaluate_and_are_continued_by_one(on_one, cache, tmp_path):
    first, second = run_two_processes(runs.command(tmp_path, **FIELDS), cache)
    assert "finished: step 4 of 4" in first
    assert "step" not in second  # the primary process speaks
    assert_same_losses(tmp_path, on_one)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1

    first, second = run_two_processes(runs.command(tmp_path, "eval", **FIELDS), cache)
    assert first.count("report.json") == 1 and "report" not in second
    folder = tmp_path / "eval" / "step_4"
    assert {p.name for p in folder.iterdir()} == {"report.json", "samples.npz", "samples.png"}
    assert np.load(folder / "samples.npz")["samples"].shape == (12, 8, 8, 1)

    command = runs.command(tmp_path, **FIELDS | {"training__n_iters": 6})
    output = runs.finish(runs.start(command, runs.environment(cache)))
    assert "step 4 of 6" in output and "finished: step 6 of 6" in output


@pytest.mark.slow
def test_a_sharded_run_is_the_same_run(on_one, cache, tmp_path):
    """Two processes shard the state; one process continues with whole copies, and evaluates."""
    fields = FIELDS | {"parallel__strategy": "sharded"}
    first, _ = run_two_processes(runs.command(tmp_path, **fields), cache)
    assert "finished: step 4 of 4" in first
    assert_same_losses(tmp_path, on_one)
    command = runs.command(tmp_path, **FIELDS | {"training__n_iters": 6})
    output = runs.finish(runs.start(command, runs.environment(cache)))
    assert "parallel.strategy: sharded -> pmap" in output
    assert "finished: step 6 of 6" in output


@pytest.fixture(scope="module")
def uninterrupted(cache, tmp_path_factory):
    """Many steps on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "long"
    command = runs.command(workdir, **LONG | {"training__n_iters": 60})
    runs.finish(runs.start(command, runs.environment(cache)))
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    "end, count, devices",
    [(signal.SIGKILL, 1, 4), (signal.SIGTERM, 1, 3), (signal.SIGKILL, 4, 1)],
)
def test_an_interrupted_run_goes_on_elsewhere(end, count, devices, uninterrupted, cache, tmp_path):
    """One of two processes is killed, or both get SIGTERM; others continue with the same losses."""
    command = runs.command(tmp_path, **LONG | {"training__n_iters": 4000})
    with two_processes(command, cache) as processes:
        runs.wait_for_checkpoint(tmp_path, processes[0])
        for process in processes if end == signal.SIGTERM else processes[1:]:
            process.send_signal(end)
        codes = [runs.finish(process, None) and process.returncode for process in processes]
    assert codes == ([143, 143] if end == signal.SIGTERM else [1, -signal.SIGKILL])
    saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    n_iters = max(saved) + 4
    command = runs.command(tmp_path, **LONG | {"training__n_iters": n_iters})
    with runs.processes(command, cache, count, devices) as processes:
        output = [runs.finish(process) for process in processes][0]
    assert f"step {max(saved)} of {n_iters}" in output and f"finished: step {n_iters}" in output
    wanted, found = (runs.scalars(run, "training_loss") for run in (uninterrupted, tmp_path))
    assert list(found) == list(range(1, n_iters + 1)) and n_iters <= max(wanted)
    np.testing.assert_allclose([wanted[k] for k in found], list(found.values()), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_a_process_ends_the_other_at_once(victim, cache, tmp_path):
    fields = FIELDS | {"training__n_iters": 4000, "training__snapshot_freq_for_preemption": 2}
    with two_processes(runs.command(tmp_path, **fields), cache) as processes:
        runs.wait_for_checkpoint(tmp_path, processes[0])
        processes[victim].send_signal(signal.SIGKILL)
        output, _ = processes[1 - victim].communicate(timeout=20)
        assert processes[1 - victim].returncode == 1
    assert f"error: process {victim} of 2 has ended before its work was done; see" in output
    assert "stack trace" not in output
