"""Splits long work into rounds whose results are saved, so that an interruption costs one round.

`<folder>/00000.npz` holds the arrays of the first round; `<folder>/settings.json` holds the
settings that they depend on.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from scorax.utils import parallel
from scorax.utils.images import load_npz, save_npz
from scorax.utils.logging import read_json, write_json
from scorax.utils.signals import Stopped, StopSignal

_log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


def run_rounds(
    folder: str | os.PathLike,
    size: int,
    batch_size: int,
    settings: dict[str, Any],
    compute: Callable[[int], Arrays],
) -> Arrays:
    """Computes the rounds that `folder` does not have yet. All processes must call it.

    Args:
      folder: folder of the files. The caller should remove it once the final result is saved.
      size: total number of items.
      batch_size: items in a round; surplus items of the last round are dropped.
      settings: everything that a round depends on, of JSON types. Rounds that were made with other
        settings are removed.
      compute: index of a round -> its arrays, the same on every process.

    Returns:
      The arrays of all rounds, concatenated along their first axes and cut to `size` rows.

    Raises:
      Stopped: in or after the round in which SIGINT or SIGTERM arrived; says which.
    """
    rounds = -(-size // batch_size)
    paths = [os.path.join(folder, f"{i:05d}.npz") for i in range(rounds)]
    if parallel.keeps_files():
        _open(folder, settings)
    with StopSignal() as stop:
        for i in _missing(paths):
            try:
                arrays = compute(i)
            except Stopped as e:
                raise Stopped(f"in round {i + 1} of {rounds}") from e
            if parallel.keeps_files():
                save_npz(paths[i], **arrays)
            if parallel.any_process(stop.received is not None):
                raise Stopped(f"after round {i + 1} of {rounds}")
    parallel.any_process(False)  # all processes wait until the primary one has written
    parts = [load_npz(path) for path in paths]
    return {name: np.concatenate([p[name] for p in parts])[:size] for name in parts[0]}


def _open(folder: str | os.PathLike, settings: dict[str, Any]) -> None:
    """Removes rounds that were made with other settings, and writes the settings."""
    path, settings = os.path.join(folder, "settings.json"), json.loads(json.dumps(settings))
    if os.path.exists(path):
        if read_json(path) == settings:
            return
        _log.info("%s: made with other settings, so its rounds are computed again", folder)
    shutil.rmtree(folder, ignore_errors=True)
    write_json(path, settings)


def _missing(paths: list[str]) -> Iterator[int]:
    """Yields the indices of the rounds for which the primary process finds no file."""
    kept = 0
    for i, path in enumerate(paths):
        if parallel.any_process(parallel.is_primary() and os.path.exists(path)):
            kept += 1
            continue
        if kept:
            _log.info("continuing at round %d of %d", i + 1, len(paths))
            kept = 0
        yield i
