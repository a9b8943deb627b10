"""Checkpoints: what comes back, what is kept, what happens to damaged ones."""

import json
import logging
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scorax.configs import base
from scorax.utils import checkpoints
from scorax.utils.checkpoints import Checkpoints, DamagedError, check_config


@flax.struct.dataclass
class State:
    """The fields of a training state."""

    step: Any
    params: Any
    opt_state: Any
    model_state: Any
    params_ema: Any


def make_state(step, seed=0, width=3):
    rng = np.random.default_rng(seed)
    params = {
        "Dense_0": {
            "kernel": rng.standard_normal((width, 4000)).astype(np.float32),
            "bias": np.array([np.nan, -0.0, np.inf], np.float32),
        },
        "half": rng.standard_normal(5).astype(jnp.bfloat16),
        "bits": np.array([0, 2**32 - 1], np.uint32),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lambda step: 1e-3))
    opt_state = optimizer.init(jax.tree.map(jnp.asarray, params["Dense_0"]))
    return State(np.int32(step), params, opt_state, {}, jax.tree.map(np.copy, params))


def assert_same(a, b):
    """Same structure, dtypes, shapes and bits (those of NaN and -0 included)."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == y.tobytes()


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def run(directory):
    """Opens the same directory once more, as a resumed run does."""
    opened = []

    def open_run(keep_period=10):
        opened.append(Checkpoints(directory, keep_period))
        return opened[-1]

    yield open_run
    for c in opened:
        c.close()


def save(c, *steps):
    for step in steps:
        c.save(step, make_state(step, seed=step), {"position": 128 * step}, base.get_config())
    c.wait()


def largest_file(directory):
    """The file with the arrays."""
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_everything_comes_back_bit_for_bit(run):
    config, state = base.get_config(), make_state(7)
    c = run()
    c.save(7, state, {"position": 896, "epochs": [1, 2]}, config)
    c.wait()
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_state(0))
    got, data_state, saved_config, step = run().restore(template)
    assert_same(got, state)
    assert isinstance(got, State) and got.step.dtype == np.int32 and got.step.shape == ()
    assert (data_state, step) == ({"position": 896, "epochs": [1, 2]}, 7)
    assert saved_config == json.loads(json.dumps(config.to_dict()))


def change(host):
    for x in jax.tree.leaves(host.params):
        x[...] = 5


def donate(device):
    erase = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)
    jax.block_until_ready(erase(device))


@pytest.mark.parametrize(("place", "destroy"), [(np.copy, change), (jnp.array, donate)])
def test_what_is_saved_is_what_was_there_at_the_call(run, place, destroy):
    wanted = make_state(1)
    state = jax.tree.map(place, wanted)
    c = run()
    c.save(1, state, {}, base.get_config())
    destroy(state)
    assert_same(c.restore(make_state(0))[0], wanted)


def test_the_newest_two_and_the_multiples_of_keep_period_stay(run, directory):
    c = run(keep_period=4)
    save(c, 2, 4, 5, 7, 8, 9, 10)
    assert c.all_steps() == run().all_steps() == [4, 8, 9, 10]
    assert c.latest_step() == 10
    assert sorted(p.name for p in directory.iterdir()) == ["10", "4", "8", "9"]
    assert_same(c.restore(make_state(0), step=4)[0], make_state(4, seed=4))


def test_an_empty_directory_has_no_steps(run, directory):
    c = run()
    assert (c.latest_step(), c.all_steps()) == (None, [])
    with pytest.raises(ValueError, match=rf"no readable checkpoint in {directory} \(none there\)"):
        c.restore(make_state(0))


def test_a_saved_step_is_left_as_it_is(run, caplog):
    c = run()
    save(c, 3)
    with caplog.at_level(logging.INFO):
        c.save(3, make_state(3, seed=99), {}, base.get_config())
    assert "step 3 is already saved" in caplog.text
    assert_same(c.restore(make_state(0))[0], make_state(3, seed=3))


def test_an_earlier_step_is_not_saved_beside_a_later_one(run):
    c = run()
    save(c, 10, 12)
    with pytest.raises(ValueError, match="cannot save step 11: .* already has step 12"):
        save(c, 11)


# Orbax leaves an event loop behind when it fails on a truncated file.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [truncate, flip_bit])
@pytest.mark.parametrize(
    "file", ["arrays", "state/manifest.ocdbt", "state/_METADATA", "meta/metadata", "data/metadata"]
)
def test_a_damaged_newest_step_is_moved_aside(run, directory, caplog, damage, file):
    save(run(), 10, 20)
    newest = directory / "20"
    damage(largest_file(newest) if file == "arrays" else newest / file)
    content = {p.name: p.read_bytes() for p in newest.rglob("*") if p.is_file()}
    c = run()
    state, data_state, _, step = c.restore(make_state(0))
    assert (step, data_state) == (10, {"position": 1280})
    assert_same(state, make_state(10, seed=10))
    warnings = [r.getMessage() for r in caplog.records if r.name == checkpoints.__name__]
    moved = directory / "20.damaged"
    assert len(warnings) == 2 and f"{newest} is damaged (" in warnings[0]
    assert warnings[1] == f"moved the damaged checkpoint {newest} to {moved}"
    assert {p.name: p.read_bytes() for p in moved.rglob("*") if p.is_file()} == content
    assert c.all_steps() == run().all_steps() == [10]
    save(c, 20)  # the resumed run comes there again
    assert_same(run().restore(make_state(0))[0], make_state(20, seed=20))


@pytest.mark.parametrize("file", ["_CHECKPOINT_METADATA", "meta/metadata", "state/_METADATA"])
def test_a_missing_file_is_damage_or_harmless(run, directory, file):
    save(run(), 10, 20)
    (directory / "20" / file).unlink()
    state, _, _, step = run().restore(make_state(0))
    assert_same(state, make_state(step, seed=step))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_damaged_versions_of_one_step_are_both_kept(run, directory):
    save(run(), 10)
    for _ in range(2):
        save(run(), 20)
        truncate(largest_file(directory / "20"))
        assert run().restore(make_state(0))[3] == 10
    assert (directory / "20.damaged").is_dir() and (directory / "20.damaged-2").is_dir()


def test_nothing_readable_is_an_error_each_time(run, directory):
    save(run(), 10, 20)
    for step in (10, 20):
        flip_bit(largest_file(directory / str(step)))
    for _ in range(2):  # the second start must not take the directory for an empty one
        with pytest.raises(ValueError, match=r"no readable .* \(2 found, all damaged\)"):
            run().restore(make_state(0))
    assert run().all_steps() == [10, 20]


def test_a_step_asked_for_is_not_replaced_by_another(run, directory):
    save(run(), 10, 20)
    with pytest.raises(ValueError, match="no checkpoint of step 15 in .* choose from: 10, 20"):
        run().restore(make_state(0), step=15)
    flip_bit(largest_file(directory / "20"))
    with pytest.raises(DamagedError, match="20 is damaged .*checksum of state/params"):
        run().restore(make_state(0), step=20)
    assert (directory / "20").is_dir()


def test_an_interrupted_save_is_ignored(run, directory):
    save(run(), 10, 20)
    (directory / "20").rename(directory / "20.orbax-checkpoint-tmp")
    c = run()
    assert c.all_steps() == [10]
    assert c.restore(make_state(0))[3] == 10
    save(c, 20)
    assert_same(run().restore(make_state(0))[0], make_state(20, seed=20))


def test_another_network_is_an_error_and_not_damage(run, directory):
    save(run(), 10)
    with pytest.raises(ValueError, match=r"params/Dense_0/kernel is float32\[2, 4000\], saved"):
        run().restore(make_state(0, width=2))
    smaller = make_state(0)
    del smaller.params["half"]
    with pytest.raises(ValueError, match="params/half is absent, saved bfloat16"):
        run().restore(smaller)
    assert run().all_steps() == [10]


def test_parts_of_the_state_can_be_left_out(run):
    save(run(), 10)
    state = run().restore(make_state(0).replace(opt_state=()))[0]
    assert_same(state, make_state(10, seed=10).replace(opt_state=()))


def test_another_format_is_an_error_and_not_damage(run, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    save(run(), 10)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format 2 and this code reads format 1"):
        run().restore(make_state(0))
    assert run().all_steps() == [10]


def test_keep_period_is_positive(directory):
    with pytest.raises(ValueError, match="every 0 steps"):
        Checkpoints(directory, keep_period=0)


def pair():
    """A config as a checkpoint has it, and the same config now."""
    config = base.get_config()
    return json.loads(json.dumps(config.to_dict())), config


def test_equal_configs_have_no_differences():
    saved, config = pair()
    assert isinstance(saved["model"]["ch_mult"], list)
    assert check_config(saved, config.to_dict()) == []


def test_clipping_can_be_changed_but_not_turned_off_within_a_run():
    saved, config = pair()
    for value in (0.5, -1.0):
        config.optim.grad_clip = value
        assert len(check_config(saved, config.to_dict(), training=False)) == 1
    with pytest.raises(ValueError, match="optim.grad_clip is -1.0, the checkpoint has 1.0"):
        check_config(saved, config.to_dict())
    config.optim.grad_clip = 0.5
    assert check_config(saved, config.to_dict()) == ["optim.grad_clip: 1.0 -> 0.5"]
    del saved["optim"]["grad_clip"]
    config.optim.grad_clip = -1.0
    assert check_config(saved, config.to_dict()) == ["optim.grad_clip: (not there) -> -1.0"]


@pytest.mark.parametrize(
    ("key", "value", "for_evaluation"),
    [
        ("model.nf", 64, True),
        ("model.ch_mult", (1, 2), True),
        ("model.sigma_max", 90.0, True),
        ("data.image_size", 64, True),
        ("data.centered", True, True),
        ("training.sde", "vpsde", True),
        ("training.continuous", False, True),
        ("training.objective", "edm", False),
        ("optim.optimizer", "SGD", False),
    ],
)
def test_fields_that_must_agree(key, value, for_evaluation):
    saved, config = pair()
    config.update_from_flattened_dict({key: value})
    old = saved[key.split(".")[0]][key.split(".")[1]]
    with pytest.raises(ValueError) as error:
        check_config(saved, config.to_dict())
    now = list(value) if isinstance(value, tuple) else value
    assert f"{key} is {now!r}, the checkpoint has {old!r}" in str(error.value)
    assert "--workdir" in str(error.value)
    if for_evaluation:
        with pytest.raises(ValueError, match=key):
            check_config(saved, config.to_dict(), training=False)
    else:
        assert len(check_config(saved, config.to_dict(), training=False)) == 1


def test_fields_that_may_change_are_listed():
    saved, config = pair()
    config.training.n_iters = 20
    config.model.dropout = 0.2
    config.model.ema_rate = 0.9
    assert sorted(check_config(saved, config.to_dict())) == [
        "model.dropout: 0.1 -> 0.2",
        "model.ema_rate: 0.999 -> 0.9",
        "training.n_iters: 1300000 -> 20",
    ]


def test_keys_of_other_versions_are_listed():
    saved, config = pair()
    del saved["model"]["fir"]
    saved["model"]["gone"] = 3
    del saved["sampling"]
    found = check_config(saved, config.to_dict())
    assert {"model.fir: (not there) -> True", "model.gone: 3 -> (not there)"} <= set(found)
    assert "sampling.method: (not there) -> pc" in found
