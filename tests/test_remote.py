"""Runs in a store of objects: nothing is lost between machines, and only one training writes."""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

import runs
import store
from scorax import run_lib
from scorax.utils import parallel, remote
from scorax.utils.checkpoints import Checkpoints
from scorax.utils.programs import shown
from scorax.utils.remote import mirrored

URL = "gs://bucket/runs/one"
HOLD = """
import store, time
from scorax.utils.remote import mirrored
store.install()
with mirrored("{}", exclusive=True):
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder of URL in the stand-in."""
    for name in ("INTERVAL", "_PAUSE"):
        monkeypatch.setattr(remote, name, getattr(remote, name))  # put back after the test
    monkeypatch.setenv("STORE", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))
    (tmp_path / "store").mkdir()
    store.install(interval=0.05)
    return tmp_path / "store" / "bucket" / "runs" / "one"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Call it to go on on another machine."""
    return lambda name="other": monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))


def write(folder, **files):
    for name, text in files.items():
        path = os.path.join(folder, name.replace("__", "/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)


def content(folder):
    """name -> text of all files but the record."""
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_text() for name, path in found.items() if name != ".mirror.json"}


def die(mirror):
    """Ends a mirror as a kill does: without a last upload, and without a word."""
    mirror._stop.set()
    mirror._thread.join()


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_local_folder_is_its_own(tmp_path):
    with mirrored(tmp_path / "run", exclusive=True) as folder:
        assert folder == str(tmp_path / "run") and parallel.keeps_files()
    assert not list(tmp_path.iterdir())


def test_what_one_machine_wrote_another_finds(bucket, elsewhere):
    with mirrored(URL, exclusive=True) as folder:
        write(folder, a="1", b__c="2", checkpoints__30__x="3", checkpoints__31__x="4")
        write(folder, checkpoints__32__x="5", tensorboard__e="6", half__x__tmp="no")
        os.rename(f"{folder}/half/x/tmp", f"{folder}/half/x.tmp")
        wait_until(lambda: (bucket / "a").exists())
        write(folder, a="1, and more")
        os.remove(f"{folder}/b/c")
    kept = {"a": "1, and more", "tensorboard/e": "6"}
    kept |= {f"checkpoints/{30 + i}/x": f"{3 + i}" for i in range(3)}
    assert content(bucket) == kept
    elsewhere()
    with mirrored(URL, exclusive=True) as folder:
        found = {str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file()}
        assert found == {"a", "checkpoints/31/x", "checkpoints/32/x"}
        write(folder, a="2")
    assert content(bucket) == kept | {"a": "2"}
    with mirrored(URL, exclusive=False, step=30) as folder:
        assert os.listdir(f"{folder}/checkpoints") == ["30"]
        write(folder, eval__report="7")
    assert content(bucket) == kept | {"a": "2", "eval/report": "7"}
    assert not os.path.exists(folder)


def test_a_crash_loses_nothing_on_the_same_machine(bucket):
    mirror = remote._Mirror(URL, exclusive=True)
    mirror.open(None)
    die(mirror)
    write(mirror.folder, late="not uploaded")
    with mirrored(URL, exclusive=True) as folder:
        assert os.listdir(folder) == ["late"]
        assert (bucket / "late").exists()


def test_a_checkpoint_that_was_not_uploaded_in_full_is_not_there(bucket, elsewhere):
    with mirrored(URL, exclusive=True):
        pass
    write(bucket, checkpoints__30__x="half of it", samples__a="1")
    elsewhere()
    with mirrored(URL, exclusive=True) as folder:
        assert os.listdir(folder) == ["samples"]
    (bucket / ".mirror.json").unlink()  # copied there by hand, so taken as it is
    elsewhere("third")
    with mirrored(URL, exclusive=True) as folder:
        assert os.path.exists(f"{folder}/checkpoints/30/x")


def test_another_machine_waits_for_a_sign_of_life_and_takes_over(bucket, elsewhere, caplog):
    mirror = remote._Mirror(URL, exclusive=True)
    mirror.open(None)
    elsewhere()
    with pytest.raises(ValueError, match="one is in use by another training .on .*; wait for its"):
        with mirrored(URL, exclusive=True):
            raise AssertionError
    die(mirror)
    with mirrored(URL, exclusive=True):
        assert "waiting 0 s for a sign of it" in caplog.text
        with pytest.raises(ValueError, match="another training, on another machine, has taken"):
            mirror.close()
    assert json.loads((bucket / ".mirror.json").read_text())["ended"]


def test_two_trainings_on_one_machine_are_told_apart_by_the_lock(bucket, tmp_path):
    code = HOLD.format(URL)
    environment = os.environ | {"PYTHONPATH": str(runs.ROOT / "tests")}
    other = runs.start([sys.executable, "-c", code], environment)
    try:
        while "there" not in other.stdout.readline():
            assert other.poll() is None
        with pytest.raises(ValueError, match=f"in use by another training .process {other.pid} on"):
            with mirrored(URL, exclusive=True):
                raise AssertionError
    finally:
        other.kill()


def test_an_outage_is_survived_and_one_at_the_end_is_told(bucket, tmp_path):
    down = tmp_path / "store" / "down"
    with mirrored(URL, exclusive=True) as folder:
        down.touch()
        write(folder, a="1")
        time.sleep(0.2)
        down.unlink()
        wait_until(lambda: (bucket / "a").exists())
    said = "cannot be written to .ConnectionError: the stand-in is down.; all files are in"
    with pytest.raises(ValueError, match=f"^{URL} {said}") as failed:
        with mirrored(URL, exclusive=True) as folder:
            write(folder, b="2")
            down.touch()
    # The console shows the local folder here, and its remote name everywhere else.
    assert f"files are in {os.path.dirname(folder)}, and the same" in shown(str(failed.value))
    assert shown(f"{folder}/samples") == f"{URL}/samples"
    with pytest.raises(ValueError, match=f"^{URL} cannot be used .ConnectionError: .*; check its"):
        with mirrored(URL, exclusive=True):
            raise AssertionError
    down.unlink()
    with mirrored(URL, exclusive=True):
        assert content(bucket) == {"a": "1", "b": "2"}


def test_folders_that_cannot_be_used_are_refused(bucket):
    for url, said in {
        "hdfs://x/y": "^hdfs://x/y is no folder that can be used; remote ones are gs://",
        "gs://": "^gs:// is no folder",
        "s3://bucket/run": "^s3://bucket/run: s3:// needs another package .*; pip install s3fs",
    }.items():
        with pytest.raises(ValueError, match=said):
            with mirrored(url, exclusive=True):
                raise AssertionError


def test_a_training_is_continued_and_loaded_from_a_store(bucket, elsewhere):
    run_lib.train(runs.get_config(), URL)
    elsewhere()
    config = runs.get_config(training={"n_iters": 12}, eval={"num_samples": 8})
    assert run_lib.train(config, URL).step == 12
    assert run_lib.evaluate(config, URL)["samples"]["num_samples"] == 8
    assert (bucket / "eval" / "step_12" / "samples.png").exists()
    report = (bucket / "stdout.txt").read_text()
    assert f"samples of step 12: {URL}/samples/step_12.png" in report
    with contextlib.closing(Checkpoints(bucket / "checkpoints", 1)) as checkpoints:
        assert checkpoints.all_steps() == [8, 12]


@pytest.mark.slow
def test_a_killed_training_in_a_store_goes_on_with_two_processes(bucket, tmp_path):
    """kill -9 on one machine, then two processes with a folder each, which also evaluate."""
    environment = runs.environment(tmp_path / "cache", 4, XDG_CACHE_HOME=str(tmp_path / "first"))
    fields = {"training__n_iters": 4000, "training__snapshot_freq_for_preemption": 2}
    fields |= {"training__eval_freq": 2, "training__snapshot_freq": 4000}
    started = runs.start(runs.command(URL, program="tests/store.py", **fields), environment)
    runs.wait_for_checkpoint(bucket, started)
    time.sleep(2)
    started.send_signal(signal.SIGKILL)
    started.wait()
    step = max(json.loads((bucket / ".mirror.json").read_text())["checkpoints"])
    fields["training__n_iters"] = step + 2
    machines = [{"XDG_CACHE_HOME": str(tmp_path / name)} for name in ("second", "third")]
    for mode in ("train", "eval"):
        command = runs.command(URL, mode, program="tests/store.py", **fields)
        with runs.processes(command, tmp_path / "cache", 2, 2, machines) as (first, second):
            output = runs.finish(first)
            runs.finish(second)
        assert f"{URL}: " in output or "report: " in output
    assert (bucket / "samples" / f"step_{step + 2}.png").exists()
    assert (bucket / "eval" / f"step_{step + 2}" / "report.json").exists()
