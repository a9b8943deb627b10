"""What training takes on devices that need not be there, and that it compiles for a TPU."""

import os
import subprocess
import sys

import jax
import pytest

import runs
from scorax import planning
from scorax.utils import parallel
from scorax.utils.hardware import CHIPS, get_chip

TPU = planning.Target("TPU v5 lite", 4, 16 * 2**30, 197e12)


def has_compiler():
    """Whether the compiler can be loaded from where conftest.py has kept its path."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tpu_library().items():
            patch.setenv(name, value)
        try:
            planning.check_compiler()
        except ValueError:
            return False
    return True


def tpu_library():
    """The environment variable that names the compiler, if there is one."""
    path = os.environ.get("TPU_LIBRARY_PATH_OF_TESTS")
    return {"TPU_LIBRARY_PATH": path} if path else {}


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="the TPU compiler, libtpu, is not installed")
@pytest.mark.parametrize("arguments", [[], ["--config.parallel.strategy=sharded"]])
def test_training_and_sampling_compile_for_a_tpu(arguments):
    """So that no change breaks the pod unseen; in a process that does not look for a TPU."""
    flags = ["--config.training.accumulate=2", "--config.model.remat=True", *arguments]
    topology = ["--config", "ve/mnist:smoke", "--topology", "v5e:2x2"]
    said = plan(*topology, *flags, env=tpu_library())
    assert said.startswith("4 x TPU v5 lite, 16.00 GiB each")
    rows = [line.split()[0] for line in said.splitlines()[2:] if line]
    assert rows[1:4] == ["train", "eval", "sample"]


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="the TPU compiler, libtpu, is not installed")
def test_a_v4_has_one_device_for_the_two_cores_of_a_chip():
    arguments = ["--config", "vp/points:smoke", "--topology", "v4:2x2x1", "--programs", "eval"]
    assert plan(*arguments, env=tpu_library()).startswith("4 x TPU v4, 32.00 GiB each")


def plan(*arguments, code=0, env=()):
    left = {name: x for name, x in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    command = [sys.executable, "-m", "tools.plan", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=runs.ROOT, env=left | dict(env)
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--config", "ve/minst"], "did you mean ve/mnist or"),
        (["--config", "ve/mnist", "--programs", "train,evil"], "choose from: train, eval, sample"),
        (["--config", "ve/mnist", "--utilization", "40"], "--utilization 40.0 must lie in (0, 1]"),
        (["--config", "ve/mnist", "--config.model.nf=0"], "model.nf=0 must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said):
    error = plan(*arguments, code=2)
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_missing_compiler_and_another_version_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu" / "libtpu.so"))
    with pytest.raises(ValueError, match="is no file; install it apart.*'libtpu=="):
        planning.check_compiler()
    info = tmp_path / "libtpu-0.0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: libtpu\nVersion: 0.0.1\n")
    (tmp_path / "libtpu").mkdir()
    (tmp_path / "libtpu" / "libtpu.so").touch()
    with pytest.raises(ValueError, match=f"libtpu 0.0.1 does not fit JAX {jax.__version__}"):
        planning.check_compiler()


@pytest.mark.parametrize("strategy, share", [("pmap", 1), ("sharded", 8)])
def test_a_sharded_state_takes_a_share_of_the_memory(strategy, share):
    experiment = planning.vary(runs.get_config(), parallel__strategy=strategy, model__nf=64)
    sizes = planning.state_memory(experiment)
    number = sum(x.size for x in jax.tree.leaves(experiment.state_shapes.params))
    # Adam keeps two moments, and the average is a third copy; small arrays are not split.
    assert sizes["parameters"] == pytest.approx(4 * number / share, rel=0.15)
    assert sizes["optimizer and average"] == pytest.approx(12 * number / share, rel=0.15)


@pytest.mark.slow
def test_accumulation_and_operations_are_those_of_the_batch():
    """One device: the operations of a step do not depend on the parts, and the memory falls."""
    with parallel.on(jax.devices()[:1]):
        whole, parts = (
            next(planning.compile_programs(planning.vary(config, **changes), ("train",)))
            for config in [runs.get_config(training={"batch_size": 64})]
            for changes in ({}, {"training__accumulate": 4})
        )
    assert parts.flops == pytest.approx(whole.flops, rel=0.1)
    assert 0 < parts.temporaries < whole.temporaries
    assert whole.traffic == 0 and whole.arguments > 4 * 4000


def test_collective_operations_are_counted_by_their_results():
    program = """
  %all-reduce.1 = (f32[256,512]{0,1:T(8,128)}, bf16[3]{0}) all-reduce(%a, %b), channel_id=1
  %get-tuple-element.1 = f32[256,512]{0,1} get-tuple-element(%all-reduce.1), index=0
  %all-gather.1 = bf16[10,10]{1,0:T(8,128)(2,1)} all-gather(%p), dimensions={0}
  %all-gather-start.2 = (f32[4]{0}, f32[16]{0}) all-gather-start(%p), dimensions={0}
  %all-gather-done.2 = f32[16]{0} all-gather-done(%all-gather-start.2)
  %all-reduce-start.3 = f32[7]{0} all-reduce-start(%x)
  %collective-permute-start.4 = (bf16[8]{0}, bf16[8]{0}, u32[], u32[]) collective-permute-start(%y)
"""
    expected = 256 * 512 * 4 + 3 * 2 + 100 * 2 + 16 * 4 + 7 * 4 + 8 * 2
    assert planning.count_traffic(program) == expected


@pytest.mark.parametrize("largest", [0, 8, 80, 104, 2048])
def test_the_largest_batch_is_found(largest, monkeypatch):
    """Memory that grows with the batch; batches are multiples of eight devices."""
    tried = []

    def compile_programs(experiment, names):
        size = experiment.config.training.batch_size
        yield (
            planning.Program("train", temporaries=size)
            if size < 512
            else (planning.Program("train", too_large="" if size <= largest else "2G of 1G"))
        )

    monkeypatch.setattr(planning, "compile_programs", compile_programs)
    target = planning.Target("TPU v5 lite", 8, largest + 7 if largest else 0.5, 1.0)
    found = planning.largest_batch(
        runs.get_config(), target, lambda size, program: tried.append(size)
    )
    assert found == largest and len(tried) == len(set(tried)) <= 18


def test_the_largest_batch_needs_a_memory():
    with pytest.raises(ValueError, match="the memory of cpu is not known; give a --topology"):
        planning.largest_batch(runs.get_config(), planning.get_target(), print)


def test_hours_follow_from_operations_and_the_peak():
    experiment = planning.vary(runs.get_config(), training__n_iters=36_000)
    assert planning.training_hours(experiment, 197e12, TPU, 0.5) == pytest.approx(20)
    assert planning.training_hours(experiment, 1.0, planning.get_target(), 0.5) == 0


def test_saved_plans_become_a_table(tmp_path):
    path, config = tmp_path / "plans.json", runs.get_config(model={"remat": True})
    for traffic in (2**28, 2**29):  # the second replaces the first
        program = planning.Program("train", 60.0, 2e12, 2**30, 2**31, 0, traffic)
        record = {"target": vars(TPU), "state": {}, "programs": [vars(program)]}
        planning.add_record(str(path), "ve/mnist.py", config, record)
    header, _, row = planning.table(str(path)).splitlines()
    assert row == (
        "| ve/mnist.py | 4 x TPU v5 lite | 8 | pmap, float32, remat "
        "| 1.000 | 2.000 | 0.000 | 3.000 | 19% | 2 | 0.500 |"
    )
    assert header.count("|") == row.count("|")
    with pytest.raises(ValueError, match="none.json does not exist; --save writes"):
        planning.table(str(tmp_path / "none.json"))


def test_the_page_shows_the_plans_that_were_saved():
    page = (runs.ROOT / "docs" / "scaling.md").read_text()
    assert planning.table(str(runs.ROOT / "benchmarks" / "plans.json")) in page


@pytest.mark.parametrize(
    "kind, name",
    [
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100"),
        ("NVIDIA L4", "NVIDIA L4"),
        ("TPU v5", "TPU v5"),
        ("TPU v5 lite", "TPU v5 lite"),
    ],
)
def test_chips_are_known_by_the_names_of_jax(kind, name):
    assert get_chip(kind) is CHIPS[name]


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L40S", "NVIDIA GeForce RTX 4090"])
def test_other_chips_are_not_taken_for_them(kind):
    assert get_chip(kind) is None
