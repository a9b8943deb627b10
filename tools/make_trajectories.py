"""Simulates the trajectories of fields that a config is trained on.

python -m tools.make_trajectories --config configs/kolmogorov/small.py

The trajectories of `config.simulation` are written to data.dir, as train.h5, valid.h5 and test.h5
(80, 10 and 10 %), each with a data set "x" of shape (N, L, C, H, W). Trajectories are simulated one
by one by several processes, or many at a time on an accelerator. Finished ones are kept in
data.dir/parts until all are done, and the same command continues after an interruption. Single
fields of the config are set with --config.SECTION.FIELD=VALUE.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import shutil
from pathlib import Path

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from scorax.configs import base
from scorax.utils import command_line
from scorax.utils.bars import Bar, elapsing
from scorax.utils.logging import read_json, write_atomically, write_json

SHARES = {"train": 0.8, "valid": 0.9, "test": 1.0}  # where each file ends


def run(argv: list[str]) -> None:
    """Simulates what is missing, and writes the files."""
    parser = command_line.Parser(
        "python -m tools.make_trajectories",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="the experiment, as in main.py")
    parser.add_argument("--workers", type=int, help="number of processes (default: CPU cores)")
    parser.add_argument("--batch", type=int, default=1, help="trajectories at a time in a process")
    arguments, fields = parser.parse_known_args(argv[1:])
    config_flags.DEFINE_config_file("config")
    command_line.parse([argv[0], f"--config={arguments.config}", *fields], base.get_config())
    config = flags.FLAGS.config
    workers = arguments.workers or os.cpu_count() or 1
    if workers < 1 or arguments.batch < 1:
        raise ValueError(f"--workers={workers} and --batch={arguments.batch} must be positive")
    make(config, workers, arguments.batch)


def make(config: ml_collections.ConfigDict, workers: int, batch: int) -> None:
    """Simulates the trajectories of a config, and writes the files.

    Raises:
      ValueError: for numbers out of range, or a folder with trajectories of other settings.
    """
    with elapsing("starting"):
        from scorax.data_sources.kolmogorov import get_flow  # loads JAX; --help does not need it

        get_flow(config)  # raises if something is wrong
    s, folder = config.simulation, Path(config.data.dir)
    if config.data.kind != "fields" or not config.data.dir:
        raise ValueError(
            f"data.kind={config.data.kind!r} and data.dir={config.data.dir!r}: trajectories are "
            "made for fields, and need a folder; take a config such as configs/kolmogorov/small.py"
        )
    if min(s.trajectories, s.states) < 1 or s.warm_up < 0:
        raise ValueError(
            f"simulation.trajectories={s.trajectories} and simulation.states={s.states} must be "
            f"at least 1, and simulation.warm_up={s.warm_up} at least 0"
        )
    parts = folder / "parts"
    _check_settings(config, folder)
    if all((folder / f"{split}.h5").exists() for split in SHARES):
        print(f"{folder} has all trajectories already")
        return
    parts.mkdir(parents=True, exist_ok=True)
    left = [i for i in range(s.trajectories) if not (parts / f"{i:05d}.npy").exists()]
    jobs = [left[i : i + batch] for i in range(0, len(left), batch)]
    settings = config.to_json()
    with Bar(total=s.trajectories, initial=s.trajectories - len(left), unit="traj") as bar:
        if min(workers, len(jobs)) <= 1:
            for job in jobs:
                bar.update(_simulate(settings, job))
        else:
            os.environ["XLA_FLAGS"] = (
                f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
            )
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
                futures = [pool.submit(_simulate, settings, job) for job in jobs]
                for future in concurrent.futures.as_completed(futures):
                    bar.update(future.result())
    with elapsing("writing the files"):
        _write(folder, parts, s.trajectories)
    shutil.rmtree(parts)
    print(f"{s.trajectories} trajectories of {s.states} states in {folder}")


def _check_settings(config: ml_collections.ConfigDict, folder: Path) -> None:
    """Raises ValueError if the folder holds trajectories that were made with other settings."""
    size = config.data.image_size
    settings = {**config.simulation.to_dict(), "size": size, "seed": config.seed}
    path = folder / "simulation.json"
    if path.exists():
        old = read_json(path)
        changed = [f"{k}: {old.get(k)} -> {v}" for k, v in settings.items() if old.get(k) != v]
        if changed:
            raise ValueError(
                f"{folder} holds trajectories made with other settings ({', '.join(changed)}); "
                "move it away, or set another data.dir"
            )
        return
    write_json(path, settings)


def _simulate(settings: str, numbers: list[int]) -> int:
    """Simulates the trajectories of these numbers, and returns how many they are."""
    import jax

    from scorax.data_sources.kolmogorov import get_flow

    config = ml_collections.ConfigDict(json.loads(settings))
    s, flow = config.simulation, get_flow(config)
    # Each trajectory has a key of its own, so that it does not depend on the others of its batch.
    rngs = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(config.seed), np.array(numbers))
    x = flow.simulate(rngs, s.states, s.warm_up)
    for number, trajectory in zip(numbers, np.moveaxis(x, -1, 2), strict=True):
        path = Path(config.data.dir) / "parts" / f"{number:05d}.npy"
        write_atomically(path, lambda file, a=trajectory: np.save(file, a))
    return len(numbers)


def _write(folder: Path, parts: Path, count: int) -> None:
    """Writes the three files."""
    import h5py

    start = 0
    for split, share in SHARES.items():
        stop = int(share * count)
        temporary = folder / f"{split}.h5.tmp"
        with h5py.File(temporary, "w") as file:
            for row, number in enumerate(range(start, stop)):
                x = np.load(parts / f"{number:05d}.npy")
                if not row:
                    shape = (stop - start, *x.shape)
                    data = file.create_dataset("x", shape, np.float32, chunks=(1, 1, *x.shape[1:]))
                data[row] = x
        os.replace(temporary, folder / f"{split}.h5")
        start = stop


def main() -> None:
    """Runs the tool; prints errors that a user can fix as one sentence, without a traceback."""
    command_line.run_tool(run)


if __name__ == "__main__":
    main()
