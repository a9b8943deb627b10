"""TensorBoard files, and Weights & Biases by a stand-in of the same interface."""

import struct
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

import runs
from scorax import run_lib
from scorax.utils import parallel, writers
from scorax.utils.writers import MetricWriter, TensorBoard, check_project


def read_events(path):
    """Event protos of a file of records: length, its checksum, data, its checksum."""
    content, start = path.read_bytes(), 0
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        yield event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
        start += length + 16


def test_tensorboard_files_hold_what_was_written(tmp_path):
    writer = TensorBoard(tmp_path)
    writer.scalars(3, {"loss": jnp.float32(0.5), "lr": 1e-3})
    writer.scalars(4, {"loss": np.array([0.25])[0]})
    grid = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    writer.images(4, "samples", grid)
    writer.images(4, "gray", grid[..., 0])
    writer.close()
    (path,) = tmp_path.iterdir()
    values = [(e.step, v) for e in read_events(path) for v in e.summary.value]
    scalars = [(s, v.tag, v.simple_value) for s, v in values if not v.HasField("image")]
    assert scalars == [(3, "loss", 0.5), (3, "lr", np.float32(1e-3)), (4, "loss", 0.25)]
    pictures = {v.tag: (s, v.image) for s, v in values if v.HasField("image")}
    assert {k: s for k, (s, _) in pictures.items()} == {"samples": 4, "gray": 4}
    png = tmp_path / "x.png"
    png.write_bytes(pictures["samples"][1].encoded_image_string)
    assert np.array_equal(np.asarray(Image.open(png)), grid)
    png.write_bytes(pictures["gray"][1].encoded_image_string)
    assert np.array_equal(np.asarray(Image.open(png).convert("L")), grid[..., 0])


@pytest.mark.parametrize(("start", "hidden_from"), [(0, 0), (7, 8)])
def test_a_resumed_run_hides_later_points(tmp_path, start, hidden_from):
    for start_step in (0, start):
        writer = TensorBoard(tmp_path, start_step)
        writer.scalars(start_step + 1, {"loss": 1.0})
        writer.close()
    first, second = sorted(tmp_path.iterdir())  # the order in which TensorBoard reads them
    starts = [e for e in read_events(second) if e.session_log.status == e.session_log.START]
    assert [e.step for e in starts if e.HasField("session_log")] == [hidden_from]
    assert [e.step for e in read_events(first) if e.summary.value] == [1]


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in of the package, which notes what it is told."""
    said = []

    class Run:
        def __init__(self, name):
            self.id = name

        def define_metric(self, name, step_metric=None):
            said.append(("axis", name, step_metric))

        def log(self, values):
            said.append(("log", values))

        def finish(self):
            said.append("finish")

    def init(**options):
        said.append(("init", options))
        if options["project"] == "forbidden":
            raise module.Error("permission denied")
        return Run(options["id"] or "3x1")

    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace()
    module.init, module.Image = init, lambda grid: ("image", grid.shape)
    module.Error = type("Error", (Exception,), {})
    monkeypatch.setitem(sys.modules, "wandb", module)
    return said


def test_a_run_is_continued_in_its_project(wandb, tmp_path):
    for start in (0, 10):
        writer = MetricWriter(str(tmp_path), start, "digits", {"seed": 1})
        writer.scalars(start + 1, {"loss": jnp.float32(0.5)})
        writer.images(start + 1, "samples", np.zeros((2, 3), np.uint8))
        writer.flush()
        writer.close()
    options = [told[1] for told in wandb if told[0] == "init"]
    assert [o["id"] for o in options] == [None, "3x1"]
    assert options[0]["project"] == "digits" and options[0]["resume"] == "allow"
    assert options[0]["config"] == {"seed": 1} and options[0]["dir"] == str(tmp_path)
    logged = [told[1] for told in wandb if told[0] == "log"]
    assert logged[2] == {"training_step": 11, "loss": 0.5}
    assert logged[3] == {"training_step": 11, "samples": ("image", (2, 3))}
    assert ("axis", "*", "training_step") in wandb and wandb[-1] == "finish"
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_training_logs_to_both(wandb, tmp_path):
    training = {"wandb": "digits", "n_iters": 4, "snapshot_sampling": False}
    run_lib.train(runs.get_config(training=training), str(tmp_path))
    logged = {name: told[1] for told in wandb if told[0] == "log" for name in told[1]}
    assert logged["training_loss"]["training_step"] == 4
    assert list(runs.scalars(tmp_path, "training_loss").values())[-1] == pytest.approx(
        logged["training_loss"]["training_loss"]
    )
    assert wandb[-1] == "finish"


def test_a_refusal_is_a_sentence(wandb, tmp_path):
    with pytest.raises(ValueError, match="Biases: permission denied; log in with `wandb login`"):
        MetricWriter(str(tmp_path), project="forbidden")


def test_a_package_that_is_not_there_is_told_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="training.wandb='digits' .* run: pip install wandb"):
        run_lib.train(runs.get_config(training={"wandb": "digits"}), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    check_project("")


def test_other_processes_write_nothing(wandb, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "is_primary", lambda: False)
    writer = MetricWriter(str(tmp_path / "run"), project="digits")
    writer.scalars(1, {"loss": 1.0})
    writer.images(1, "samples", np.zeros((2, 2), np.uint8))
    writer.flush()
    writer.close()
    assert list(tmp_path.iterdir()) == [] and wandb == []
