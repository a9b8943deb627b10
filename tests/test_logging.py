"""Log file, progress bar, JSON, versions."""

import importlib.metadata
import io
import json
import logging
import re
import subprocess
import sys
import time

import absl.logging
import pytest

from scorax.utils import bars, checkpoints, parallel
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
    with run_logging.progress_bar(10) as bar:
        bar.update(10)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_progress_bar_in_a_file(capsys):
    with run_logging.progress_bar(total=100, initial=40, desc="train") as bar:
        for _ in range(60):
            bar.set_postfix(loss=0.125, refresh=False)
            bar.update(1)
            logging.getLogger("x").warning("beside the bar")
    lines = [line for line in capsys.readouterr().err.splitlines() if "beside" not in line]
    assert len(lines) == 2 and not any(c in "".join(lines) for c in "\x1b\r")
    assert lines[0].startswith("train: 40/100")
    assert re.search(
        r"^train: 100/100 .* steps/s, 00:0. passed, 00:00 left, loss=0\.125$", lines[1]
    )


def test_a_line_a_minute_in_a_file(capsys, monkeypatch):
    monkeypatch.setattr(bars, "INTERVAL", 0.05)
    with run_logging.progress_bar(total=1000, desc="train") as bar:
        for _ in range(4):
            time.sleep(0.1)
            bar.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert [re.search(r"train: (\d)/", line)[1] for line in lines] == list("012344")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_the_time_goes_on_while_nothing_is_done(monkeypatch):
    monkeypatch.setattr(bars, "TICK", 0.1)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with run_logging.progress_bar(total=10, desc="train"):
        time.sleep(2.5)
    drawn = re.findall(r"train: 0/10 [^\r]* (00:0\d) passed, \? left", sys.stderr.getvalue())
    assert set(drawn) >= {"00:00", "00:01", "00:02"}


@pytest.mark.parametrize("seconds", [0.3, 1.5])
def test_what_takes_long_is_named_with_a_clock_and_then_taken_away(seconds, monkeypatch):
    monkeypatch.setattr(bars, "TICK", 0.1)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with bars.elapsing("reading"):
        time.sleep(seconds)
    said = sys.stderr.getvalue().replace("\r", "").strip()
    assert ("reading: 00:01" in said) == (seconds > 1)
    end = sys.stderr.getvalue()
    time.sleep(0.3)
    assert sys.stderr.getvalue() == end and (not said or end.endswith("\r"))


def test_the_log_of_a_run_ends_what_was_shown_before(monkeypatch, tmp_path):
    monkeypatch.setattr(bars, "TICK", 0.1)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with bars.elapsing("starting"):
        time.sleep(1.2)
        run_logging.setup(tmp_path)
        end = sys.stderr.getvalue()
        time.sleep(0.3)
        assert "starting: 00:01" in end and sys.stderr.getvalue() == end


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
