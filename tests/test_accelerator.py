"""The benchmark for accelerators runs on the CPU in its smoke form."""

import subprocess
import sys

import pytest

import runs


@pytest.mark.slow
def test_one_network_and_precision(cache):
    command = [sys.executable, "-m", "benchmarks.accelerator", "--smoke", "--seconds", "600"]
    command += ["--only", "configs/ve/cifar10_ncsnpp_continuous.py", "bfloat16"]
    env = runs.environment(cache)
    done = subprocess.run(command, cwd=runs.ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in done.stdout.splitlines()]
    names = ("train", "one evaluation")
    label = "cifar10_ncsnpp_continuous, bfloat16, 8"
    assert [row[0] for row in rows] == [f"{name} {label}" for name in names]
    assert all(float(x) > 0 for row in rows for x in row[1:4])
    assert all(row[4:] == ["", ""] for row in rows)  # neither is known of a CPU


def test_layouts_are_compared(cache):
    code = "from benchmarks.accelerator import measure_layouts; measure_layouts(True)"
    command = [sys.executable, "-c", code]
    env = runs.environment(cache)
    done = subprocess.run(command, cwd=runs.ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.split("\n| ")[2:]
    assert len(rows) == 4 and sum("NCHW" in row for row in rows) == 2
