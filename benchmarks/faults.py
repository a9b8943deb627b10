"""Kills a training at random moments, and compares what it becomes with one left alone.

python -m benchmarks.faults --kills 50

The run is the tiny `ve/mnist:smoke` with a checkpoint every 20 steps. Each life ends at a random
moment between the first import and `--longest` seconds after the first checkpoint that a life has
reached on this machine: while it starts, restores, trains or saves. Prints how many steps each
restart lost (since the newest checkpoint), and how many arrays of the last checkpoint differ from
those of a run that was never killed.
"""

import argparse
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import orbax.checkpoint as ocp

FIELDS = {
    "optim.schedule": "constant",  # so that the steps do not depend on n_iters
    "training.log_freq": 1,
    "training.eval_freq": 10**6,
    "training.snapshot_freq": 10**6,
    "training.snapshot_freq_for_preemption": 20,
    "training.snapshot_sampling": False,
}


def main() -> None:
    """Prints a line for each life, and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--longest", type=float, default=5.0, help="seconds after a checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = pathlib.Path(folder, "whole"), pathlib.Path(folder, "killed")
        live(whole, 20)  # fills the cache of compiled programs
        began = time.monotonic()
        live(whole, 40)
        longest = time.monotonic() - began + args.longest
        print(f"a start, 20 steps and their checkpoint: {longest - args.longest:.1f} s")
        restarts = 0
        for k in range(args.kills):
            before = newest(killed)
            said = live(killed, 10**6, draw.uniform(0, longest))
            start = re.search(r"parameters, step (\d+) of", said)
            restarts += bool(start) and before > 0
            lost = f"lost {before - int(start[1])} steps" if start else "died while it started"
            print(f"life {k + 1}: step {before} -> {newest(killed)}, {lost}", flush=True)
        last = newest(killed)
        live(whole, last)
        a, b = (read(path / "checkpoints" / str(last)) for path in (whole, killed))
        differ = [name for name in a | b if not np.array_equal(a.get(name), b.get(name))]
        print(
            f"{args.kills} kills, {restarts} restarts from a checkpoint: after {last} steps "
            f"{len(differ)} of {len(a)} arrays differ"
        )


def live(workdir: pathlib.Path, steps: int, seconds: float | None = None) -> str:
    """Trains, and kills the training after some seconds; returns what it said."""
    fields = [f"--config.{k}={v}" for k, v in (FIELDS | {"training.n_iters": steps}).items()]
    command = [sys.executable, "main.py", "--config", "ve/mnist:smoke", "--mode", "train"]
    command += ["--workdir", str(workdir), *fields]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(said)
    return said


def newest(workdir: pathlib.Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def read(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(checkpoint / "state")


if __name__ == "__main__":
    main()
