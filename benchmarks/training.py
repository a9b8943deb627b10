"""What a training waits for: data, checkpoints, other devices.

    python -m benchmarks.training data --config configs/ve/mnist.py
    python -m benchmarks.training checkpoints --config configs/ve/mnist.py
    python -m benchmarks.training devices --config configs/ve/mnist.py:smoke

`data` times batches alone, steps alone on one batch, and both as in training, in turns, and prints
the share of the time in which training had no batch. With --step-ms, a step is that many
milliseconds of waiting, as for an accelerator that leaves the processors to the data. `checkpoints`
trains with and without checkpoints, in turns. `devices` runs the same batch per device on 1, 2, 4
and 8 virtual devices of this machine, with a whole and a split state. They share its cores, so
that a step on D devices would take D times as long as on one if nothing else cost time.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import ml_collections
import numpy as np

from benchmarks import common
from benchmarks.data import write_images
from scorax import datasets, planning
from scorax.experiment import Experiment
from scorax.steps import Steps
from scorax.utils.checkpoints import Checkpoints
from scorax.utils.logging import versions
from scorax.utils.meter import Meter


def measure_data(config: ml_collections.ConfigDict, args: argparse.Namespace) -> None:
    """Prints rates of batches, steps and both, and the share of waiting."""
    iterator = datasets.get_iterator(datasets.get_dataset(config), config)
    step = _get_step(planning.vary(config), next(iterator), args.step_ms)
    meter = Meter(0, config.training.batch_size)

    def batches() -> None:
        for _ in range(args.steps):
            next(iterator)

    batch = next(iterator)

    def steps() -> None:
        for _ in range(args.steps):
            step(batch)

    def training() -> None:
        for _ in range(args.steps):
            with meter.waiting():
                found = next(iterator)
            step(found)

    rates, waits = {"batches alone": [], "steps alone": [], "training": []}, []
    for _ in range(args.rounds):
        for name, call in zip(rates, (batches, steps, training), strict=True):
            meter.restart(0)
            call()
            read = meter.read(args.steps)
            rates[name].append(read["examples_per_second"])
        waits.append(read["data_wait"])
    print("| | examples/s, median | slowest to fastest round |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {np.median(rate):.0f} | {min(rate):.0f} to {max(rate):.0f} |")
    print(f"\nwaiting for data: {np.median(waits):.1%} ({min(waits):.1%} to {max(waits):.1%})")


def _get_step(experiment: Experiment, batch: dict, milliseconds: float | None):
    """A training step that is done when it returns, or a wait in its place."""
    if milliseconds is not None:
        return lambda batch: time.sleep(milliseconds / 1e3)
    steps = Steps(experiment, jax.device_get(experiment.init_state()))
    steps.on_host(steps.train(batch))  # compiles
    return lambda batch: steps.on_host(steps.train(batch))


def measure_checkpoints(config: ml_collections.ConfigDict, args: argparse.Namespace) -> None:
    """Prints what one checkpoint costs, and its share between two of the config's checkpoints."""
    experiment = planning.vary(config)
    iterator = datasets.get_iterator(datasets.get_dataset(config), config)
    batch = next(iterator)
    steps = Steps(experiment, jax.device_get(experiment.init_state()))
    steps.on_host(steps.train(batch))
    number, seconds, blocked = 0, {False: [], True: []}, []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder, 10**9)
        for _ in range(args.rounds):
            for saving in (False, True):
                begin = time.monotonic()
                if saving:
                    number += 1
                    checkpoints.save(number, steps.state(), {"next_batch": 0}, config)
                    blocked.append(time.monotonic() - begin)
                for _ in range(args.steps):
                    steps.on_host(steps.train(batch))
                seconds[saving].append(time.monotonic() - begin)
                checkpoints.wait()
        checkpoints.close()
    step = np.median(seconds[False]) / args.steps
    extra = np.median(np.subtract(seconds[True], seconds[False]))
    between = config.training.snapshot_freq_for_preemption
    print(
        f"a step: {1e3 * step:.1f} ms; a checkpoint: {extra:.3f} s more for {args.steps} steps, of "
        f"which training stands still for {np.median(blocked):.3f} s\n"
        f"one every {between} steps: {extra / (between * step):.2%} of the training time"
    )


def measure_devices(args: argparse.Namespace) -> None:
    """Prints times of a step on virtual devices, in processes of their own."""
    print("| devices | strategy | ms | / (devices x ms of one) |\n|---|---|---|---|")
    one = None
    for count in (1, 2, 4, 8):
        for strategy in ("pmap", "sharded"):
            flag = f"--xla_force_host_platform_device_count={count}"
            env = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}
            command = [sys.executable, "-m", "benchmarks.training", "step", "--config", args.config]
            command += ["--strategy", strategy, "--steps", str(args.steps)]
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
            milliseconds = float(done.stdout.split()[-1])
            one = one or milliseconds
            ratio = milliseconds / (count * one)
            print(f"| {count} | {strategy} | {milliseconds:.1f} | {ratio:.2f} |", flush=True)


def measure_step(config: ml_collections.ConfigDict, args: argparse.Namespace) -> None:
    """Prints the median milliseconds of a step whose batch grows with the devices."""
    size = config.training.batch_size * jax.device_count()
    changes = {"training__batch_size": size, "parallel__strategy": args.strategy}
    experiment = planning.vary(config, eval__batch_size=jax.device_count(), **changes)
    shape = next(iter(datasets.get_dataset(config)))["image"].shape[1:]
    images = np.random.default_rng(0).random((size, *shape), np.float32)
    batch = {"image": images, "index": np.arange(size, dtype=np.uint32)}
    step, seconds = _get_step(experiment, batch, None), []
    for _ in range(args.steps):
        begin = time.monotonic()
        step(batch)
        seconds.append(time.monotonic() - begin)
    print(1e3 * np.median(seconds))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["data", "checkpoints", "devices", "step"])
    parser.add_argument("--config", required=True, help="FILE or FILE:variant")
    parser.add_argument("--steps", type=int, default=50, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--step-ms", type=float, help="wait so long in place of a step")
    parser.add_argument("--strategy", default="pmap", help="for `step`")
    parser.add_argument(
        "--synthetic", type=int, metavar="N", help="read N synthetic JPEGs from array_record files"
    )
    args = parser.parse_args()
    if args.what == "devices":
        measure_devices(args)
        return
    config = common.load_config(args.config)
    if args.what == "step":
        measure_step(config, args)
        return
    v = versions()
    print(f"{args.config}, jax {v['jax']}, commit {v['commit']}\n")
    with tempfile.TemporaryDirectory() as folder:
        if args.synthetic:
            write_images(pathlib.Path(folder), args.synthetic, config.data.image_size)
            config.data.update(dataset="array_record", dir=folder)
        (measure_data if args.what == "data" else measure_checkpoints)(config, args)


if __name__ == "__main__":
    main()
