"""Tiny runs: the smallest config, main.py in a process of its own, and what a run has left.

A program that is compiled once is read from a cache by all later processes of the same tests.
"""

import contextlib
import importlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import ml_collections
import numpy as np
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "model.ch_mult": (1,),
    "model.attn_resolutions": (),
    "sampling.steps": 5,
    "training.n_iters": 8,
    "training.log_freq": 2,
    "training.eval_freq": 4,
    "training.snapshot_freq": 8,
    "training.snapshot_freq_for_preemption": 4,
    "eval.batch_size": 8,
    "eval.num_samples": 12,
    "eval.frames": 3,
}


def get_config(name: str = "ve/mnist", **sections: dict) -> ml_collections.ConfigDict:
    """`configs/<name>.py:smoke`, smaller still; then `training={"n_iters": 4}` and so on."""
    config = importlib.import_module(f"scorax.configs.{name.replace('/', '.')}").get_config("smoke")
    config.update_from_flattened_dict(TINY)
    config.update(sections)
    return config.lock()


def command(
    workdir: Path | str,
    mode: str = "train",
    config: str = "ve/mnist",
    program: str = "main.py",
    **fields,
) -> list[str]:
    """The command line of such a run; fields with "__" for the dot."""
    values = TINY | {name.replace("__", "."): value for name, value in fields.items()}
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    path = f"configs/{config}.py:smoke"
    run = ["--config", path, "--mode", mode, "--workdir", str(workdir)]
    return [sys.executable, program, *run, *flags]


def environment(cache: Path, devices: int = 1, **more: str) -> dict[str, str]:
    """Of a process with so many virtual devices, which compiles fast and not for speed."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    flags += " --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
    flags += " --xla_cpu_parallel_codegen_split_count=1"
    jax = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return os.environ | jax | more


def start(arguments: list[str], env: dict[str, str]) -> subprocess.Popen:
    """Starts a process in the root of the repository, its two outputs in one pipe."""
    return subprocess.Popen(
        arguments, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@contextlib.contextmanager
def processes(arguments, cache, count, devices, environments=None):
    """The command as so many processes that work together, with so many devices each."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    number = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    own = environments or [{}] * count
    started = [
        start(arguments, environment(cache, devices, **number, JAX_PROCESS_ID=str(i), **own[i]))
        for i in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()


def finish(process: subprocess.Popen, code: int | None = 0) -> str:
    """Waits for the process, checks its exit code (None: any) and returns what it said."""
    output, _ = process.communicate(timeout=300)
    assert code is None or process.returncode == code, output
    return output


def wait_for_checkpoint(workdir, process):
    """Returns as soon as the run has saved a checkpoint that was not there."""
    folder = workdir / "checkpoints"

    def steps():
        return {path.name for path in folder.glob("*") if path.name.isdigit()}

    before, until = steps(), time.monotonic() + 200
    while steps() <= before:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.002)


def scalars(workdir: Path, name: str) -> dict[int, float]:
    """step -> number that TensorBoard shows; a resumed run overwrites what was there."""
    found = {}
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda p: p.suffix):
        data, offset = path.read_bytes(), 0
        while offset < len(data):  # length, its checksum, the event, its checksum
            length = int(np.frombuffer(data, "<u8", 1, offset)[0])
            body = data[offset + 12 : offset + 12 + length]
            if len(body) < length:
                break  # cut off by a kill
            assert masked_crc32c(body) == np.frombuffer(data, "<u4", 1, offset + 12 + length)[0]
            event = Event.FromString(body)
            for value in event.summary.value:
                if value.tag == name:
                    found[event.step] = value.simple_value
            offset += 16 + length
    return found
