"""Log file, TensorBoard files, progress bar, JSON, versions."""

import importlib.metadata
import json
import logging
import re
import struct
import subprocess
import sys

import absl.logging
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from scorax.utils import checkpoints, parallel
from scorax.utils import logging as run_logging


@pytest.fixture(autouse=True)
def root_logger():
    """Puts the handlers and levels back as they were."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in set(handlers) - set(root.handlers):
        root.addHandler(handler)
    root.setLevel(level)


@pytest.fixture
def secondary(monkeypatch):
    monkeypatch.setattr(parallel, "is_primary", lambda: False)


def test_messages_go_to_the_console_and_the_file(tmp_path, capsys):
    run_logging.setup(tmp_path / "run")
    logging.getLogger("run_lib").info("step %d", 5)
    logging.getLogger("utils.other").debug("too fine")
    err = capsys.readouterr().err
    text = (tmp_path / "run" / "stdout.txt").read_text()
    assert err == "step 5\n"  # a person watches; only the file needs the time
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO step 5\n", text)


def test_a_second_setup_appends_and_leaves_the_former_file(tmp_path, capsys):
    for name in ("a", "b", "a"):
        run_logging.setup(tmp_path / name)
        logging.getLogger("run_lib").info("in %s", name)
    assert (tmp_path / "a" / "stdout.txt").read_text().count("in a\n") == 2
    assert (tmp_path / "b" / "stdout.txt").read_text().count("in ") == 1
    assert capsys.readouterr().err.count("\n") == 3


def test_nothing_is_printed_twice(tmp_path, capsys, root_logger):
    root_logger.addHandler(logging.StreamHandler(sys.stderr))  # as logging.basicConfig does
    run_logging.setup(tmp_path)
    logging.getLogger("run_lib").warning("once")
    assert capsys.readouterr().err.count("once") == 1


def test_libraries_and_absl_are_quiet(tmp_path, capsys, root_logger):
    absl.logging.use_absl_handler()
    absl.logging.set_verbosity(absl.logging.INFO)
    run_logging.setup(tmp_path)
    c = checkpoints.Checkpoints(tmp_path / "checkpoints", keep_period=1)
    c._manager.save(1, args=checkpoints.ocp.args.Composite(x=checkpoints.ocp.args.JsonSave({})))
    c.close()
    failed = "Failed to json parse Metadata file: %s, file content: , error: Expecting value"
    absl.logging.error(failed, "1.orbax-checkpoint-tmp/_CHECKPOINT_METADATA")
    assert capsys.readouterr().err == (tmp_path / "stdout.txt").read_text() == ""
    absl.logging.warning("heard")
    absl.logging.error(failed, "checkpoints/1/_CHECKPOINT_METADATA")
    err = capsys.readouterr().err
    assert err.count("heard") == 1
    assert err.count("checkpoints/1/_CHECKPOINT_METADATA") == 1
    assert absl.logging.get_absl_handler() not in root_logger.handlers


def test_other_processes_write_nothing(tmp_path, capsys, secondary):
    run_logging.setup(tmp_path / "log")
    logging.getLogger("run_lib").warning("not here")
    writer = run_logging.MetricWriter(tmp_path / "tb")
    writer.scalars(1, {"loss": 1.0})
    writer.images(1, "samples", np.zeros((2, 2), np.uint8))
    writer.flush()
    writer.close()
    with run_logging.progress_bar(10) as bar:
        bar.update(10)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def read_events(path):
    """Event protos of a file of records: length, its checksum, data, its checksum."""
    content, start = path.read_bytes(), 0
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        yield event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
        start += length + 16


def test_tensorboard_files_hold_what_was_written(tmp_path):
    writer = run_logging.MetricWriter(tmp_path)
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
        writer = run_logging.MetricWriter(tmp_path, start_step)
        writer.scalars(start_step + 1, {"loss": 1.0})
        writer.close()
    first, second = sorted(tmp_path.iterdir())  # the order in which TensorBoard reads them
    starts = [e for e in read_events(second) if e.session_log.status == e.session_log.START]
    assert [e.step for e in starts if e.HasField("session_log")] == [hidden_from]
    assert [e.step for e in read_events(first) if e.summary.value] == [1]


def test_progress_bar_in_a_file(capsys):
    with run_logging.progress_bar(total=100, initial=40, desc="train") as bar:
        for _ in range(60):
            bar.set_postfix(loss=0.125, refresh=False)
            bar.update(1)
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert len(re.findall("train", err)) == 2  # at the start and at the end, not 60 times
    assert "train: 40/100" in err
    assert re.search(r"train: 100/100 .* steps/s, 00:00 left, loss=0\.125", err)


def test_write_json_is_atomic(tmp_path):
    path = tmp_path / "new" / "a.json"
    run_logging.write_json(path, {"a": [1, 2]})
    with pytest.raises(TypeError):
        run_logging.write_json(path, {"a": object()})

    def fail_half_way(file):
        file.write(b"half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run_logging.write_atomically(path, fail_half_way)
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_versions(monkeypatch):
    found = run_logging.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections"):
        assert found[name] == importlib.metadata.version(name)
    assert found["device_count"] == parallel.device_count()
    assert found["device_kind"] and found["platform"] and found["process_count"] == 1
    json.dumps(found)
    monkeypatch.setattr(run_logging, "_PACKAGES", ("no-such-package",))
    assert run_logging.versions()["no-such-package"] is None


def test_commit_of_a_checkout(tmp_path):
    assert run_logging._commit(tmp_path) is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert run_logging._commit(tmp_path) == head.strip()
    (tmp_path / "file").write_text("two")
    assert run_logging._commit(tmp_path) == head.strip() + "-dirty"
    (tmp_path / "inner").mkdir()
    assert run_logging._commit(tmp_path / "inner") is None
