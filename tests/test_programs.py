"""Errors of the system and of libraries become one sentence, and others keep their traceback."""

import errno
import os
import subprocess
import sys
import types

import pytest

import runs
from scorax.utils import peers, programs

SAID = [
    (OSError(errno.EACCES, "Permission denied", "/run/a"), "/run/a: Permission denied"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "b"), "b: Is a directory"),
    (OSError(errno.ENOSPC, "No space left", "c"), "no space left on the device for c; free some"),
    (
        ValueError("Error writing: No space left on device [28]"),
        "no space left on the device;",
    ),
    (MemoryError(), "out of memory; lower training.batch_size"),
    (
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"),
        "out of memory (",
    ),
    (ValueError("model.nf=0 must be at least 1"), "model.nf=0 must be at least 1"),
    (FloatingPointError("diverged"), "diverged"),
]


@pytest.mark.parametrize("error, said", SAID, ids=[type(e).__name__ for e, _ in SAID])
def test_an_error_that_a_user_can_mend_is_a_sentence(error, said):
    assert programs.explain(error).startswith(said)
    assert "\n" not in programs.explain(error)


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyError("x"), OSError("odd"), TypeError()])
def test_other_errors_keep_their_traceback(error):
    assert programs.explain(error) == ""


def test_only_the_known_consequence_of_a_failed_write_is_dropped(monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "__unraisablehook__", printed.append)
    known, other = (
        types.SimpleNamespace(exc_value=RuntimeError(text))
        for text in ("Event loop is closed", "another")
    )
    programs.print_unless_known(known)
    programs.print_unless_known(other)
    assert printed == [other]


@pytest.mark.parametrize("named", [True, False])
def test_compiled_programs_are_kept_in_the_users_cache(named, tmp_path):
    code = "import jax; from scorax.utils.programs import keep_compiled; keep_compiled(); "
    code += "print(jax.config.jax_compilation_cache_dir)"
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    env["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "own")
    if not named:
        del env["JAX_COMPILATION_CACHE_DIR"]
    command = [sys.executable, "-c", code]
    folder = subprocess.run(command, cwd=runs.ROOT, env=env, capture_output=True, text=True).stdout
    if named:
        assert folder.strip() == str(tmp_path / "own") and not (tmp_path / "cache").exists()
    else:
        kept = [str(path) for path in (tmp_path / "cache" / "scorax").iterdir()]
        assert kept == [folder.strip()]


def test_the_programs_used_last_are_kept(tmp_path):
    """The oldest of four files was read last, so the next two go. Other folders are left alone."""
    folders = [tmp_path / "compiled-1", tmp_path / "compiled-2", tmp_path / "statistics"]
    paths = [folders[i % 2] / f"{i}-cache" for i in range(4)] + [folders[2] / "own"]
    for i, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(10))
        os.utime(path, (1000 + i, 1000 + i))
    os.utime(paths[0], (2000, 1000))
    programs._limit(tmp_path, 40)
    assert all(path.exists() for path in paths)
    programs._limit(tmp_path, 39)
    assert [path.exists() for path in paths] == [True, False, False, True, True]


def test_a_primary_process_without_an_address_does_not_let_the_others_wait(monkeypatch, caplog):
    def fail(name):
        raise OSError("no address")

    told = []
    monkeypatch.setattr("socket.gethostbyname", fail)
    peers.watch_peers(0, 2, told.append)
    assert told == [[0] * 5]
    assert "noticed late, because of: no address" in caplog.text
