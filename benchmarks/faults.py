"""Kills a training at random moments, and compares what it becomes with one left alone.

python -m benchmarks.faults --kills 50

Both runs are the tiny `ve/mnist:smoke` with a checkpoint every 20 steps. A life lasts up to
`--longest` seconds, imports, compiling and saves included; after the last kill the run goes on to
its end. Prints how many steps each restart lost (since the newest checkpoint, by the log), and
whether all arrays of the last checkpoint are the same, bit for bit.
"""

import argparse
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile

import numpy as np
import orbax.checkpoint as ocp

FIELDS = {
    "training.log_freq": 1,
    "training.eval_freq": 1000,
    "training.snapshot_freq": 1000,
    "training.snapshot_freq_for_preemption": 20,
    "training.snapshot_sampling": False,
}


def main() -> None:
    """Prints a line for each life, and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--longest", type=float, default=40.0, help="seconds of a life")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = pathlib.Path(folder, "whole"), pathlib.Path(folder, "killed")
        live(whole, args.steps)
        for k in range(args.kills):
            before = newest(killed)
            said = live(killed, args.steps, draw.uniform(0, args.longest))
            began = re.search(r"parameters, step (\d+) of", said)
            lost = int(began[1]) - before if began else "died before it began"
            print(f"life {k + 1}: step {before} -> {newest(killed)}, began elsewhere by: {lost}",
                  flush=True)  # fmt: skip
        live(killed, args.steps)
        a, b = (read(path / "checkpoints" / str(args.steps)) for path in (whole, killed))
        differ = [name for name in a | b if not np.array_equal(a.get(name), b.get(name))]
        print(f"{args.kills} kills: {len(differ)} of {len(a)} arrays differ")


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
