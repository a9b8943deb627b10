"""Speed, what training waits for, and traces."""

import types

import pytest

import runs
from scorax import run_lib
from scorax.utils import meter, parallel
from scorax.utils.meter import Meter, Trace


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(meter.time, "monotonic", lambda: now.seconds)
    return now


def test_speed_is_that_of_the_time_since_the_last_line(clock):
    m = Meter(100, 8)
    with m.waiting():
        clock.seconds = 1.0
    clock.seconds = 4.0
    assert m.read(120) == {"steps_per_second": 5, "examples_per_second": 40, "data_wait": 0.25}
    clock.seconds = 10.0  # a picture is drawn
    m.restart(120)
    clock.seconds = 12.0
    assert m.read(124) == {"steps_per_second": 2, "examples_per_second": 16, "data_wait": 0}


def test_utilization_and_memory_where_they_are_known(clock, monkeypatch):
    monkeypatch.setattr(parallel, "device_kind", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(parallel, "peak_memory", lambda: 3 * 2**30)
    m = Meter(0, 8)
    m.flops = 98.9e12  # a tenth of a second at the peak
    clock.seconds = 10.0
    read = m.read(50)
    assert read["memory_gib"] == 3 and read["utilization"] == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_trace_has_the_steps_asked_for(steps, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(meter.jax.profiler, "start_trace", seen.append)
    monkeypatch.setattr(meter.jax.profiler, "stop_trace", lambda: seen.append("stop"))
    trace = Trace(str(tmp_path), steps)
    for k in range(20):
        trace.step()
        seen.append(k)  # the step itself
    trace.close()
    traced = [str(tmp_path), *range(5, 8), "stop"] if steps else [5, 6, 7]
    assert seen == [*range(5), *traced, *range(8, 20)]


def test_a_trace_ends_with_the_training(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(meter.jax.profiler, "start_trace", seen.append)
    monkeypatch.setattr(meter.jax.profiler, "stop_trace", lambda: seen.append("stop"))
    trace = Trace("trace", 100)
    for _ in range(10):
        trace.step()
    trace.close()
    trace.close()
    assert seen == ["trace", "stop"]


@pytest.mark.slow
def test_training_writes_its_speed_and_a_trace(tmp_path):
    training = {"profile_steps": 2, "accumulate": 1, "snapshot_sampling": False}
    run_lib.train(runs.get_config(training=training), str(tmp_path))
    assert list(tmp_path.glob("profile/**/*.xplane.pb"))
    speed = runs.scalars(tmp_path, "steps_per_second")
    examples = runs.scalars(tmp_path, "examples_per_second")
    assert list(speed) == [2, 4, 6, 8] and all(0 < s for s in speed.values())
    assert all(examples[k] == pytest.approx(8 * s) for k, s in speed.items())
    assert all(0 <= w < 1 for w in runs.scalars(tmp_path, "data_wait").values())
    log = (tmp_path / "stdout.txt").read_text()
    assert "INFO compiling the training step" in log and " s: compiling the training step" in log
