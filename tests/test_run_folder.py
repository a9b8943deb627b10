"""What is said of a folder that a run cannot use, and that only one training at a time uses it."""

import json
import os
import signal
import subprocess
import sys

import pytest

import runs
from scorax import run_lib
from scorax.utils.run_folder import check_folder, claim, set_aside_if_damaged

HOLD = """
import sys, time
from scorax.utils.run_folder import claim
with claim(sys.argv[1]):
    print("claimed", flush=True)
    time.sleep(600)
"""


def test_a_folder_that_can_be_used_is_left_as_it_is(tmp_path):
    check_folder(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    for name in ("checkpoints", "tensorboard"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.json").write_text("{}")
    check_folder(tmp_path, "eval")
    assert not (tmp_path / "eval").exists()


@pytest.mark.parametrize("name", ["", "checkpoints", "samples", "tensorboard", "eval", "../run"])
def test_a_file_or_a_broken_link_in_place_of_a_folder_is_refused(name, tmp_path):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()
    if path.is_dir():
        path.rmdir()
    path.write_text("")
    with pytest.raises(ValueError, match=f"^{path} is a file, where this run needs a folder; move"):
        check_folder(tmp_path / "run", "eval")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"^{path} is a link to nothing, where"):
        check_folder(tmp_path / "run", "eval")


@pytest.mark.parametrize("name", ["config.json", "versions.json", "stdout.txt"])
def test_a_folder_in_place_of_a_file_is_refused_before_anything_is_written(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{name} is no file; move it away, or use another"):
        run_lib.train(runs.get_config(), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    for workdir in (tmp_path, tmp_path / "new" / "run"):
        with pytest.raises(ValueError, match=f"^{tmp_path} cannot be written to by this user"):
            check_folder(workdir)


def test_a_second_training_is_refused_until_the_first_dies(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    first = subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "claimed\n"
        wanted = rf"{tmp_path} is in use by another training \(process {first.pid} on "
        with pytest.raises(ValueError, match=wanted):
            run_lib.train(runs.get_config(), str(tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with claim(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()


def test_a_folder_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with claim(tmp_path):
        assert "cannot be locked" in caplog.text


@pytest.mark.parametrize("content", ["garbage", "[1]", "", '{"data": '])
def test_a_damaged_file_is_kept(content, tmp_path, caplog):
    path = tmp_path / "config.json"
    set_aside_if_damaged(path)
    path.write_text(content)
    set_aside_if_damaged(path)
    assert not path.exists() and (tmp_path / "config.json.damaged").read_text() == content
    assert "config.json.damaged, and is written anew" in caplog.text
    path.write_text(json.dumps({"seed": 1}))
    set_aside_if_damaged(path)
    assert path.exists()
