"""Trajectories, cut into windows: simulated chains, and fields from HDF5 files.

An example is a window of `data.length` states, at any place of any trajectory. Consecutive examples
come from different trajectories. The files are those of Rozet & Louppe 2023: DIR/train.h5 and
DIR/test.h5 (DIR/valid.h5 is not used), each with a data set "x" of shape (N, L, C) or, for fields,
(N, L, C, H, W); `python -m tools.make_trajectories` writes them.
"""

from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np

from scorax.data_sources.dynamics import get_chain
from scorax.data_sources.source import Source, check_split

CHAINS, WARM_UP, KEPT = 1024, 1024, 1024  # trajectories, and states of each
SHARES = (0.8, 0.9)  # of the trajectories: the end of "train", and the beginning of "test"
KEY = "x"


class Windows(Source):
    """All windows of trajectories.

    Attributes:
      trajectories: (N, L, *S), or (N, L, C, H, W) with `channels_first`.
      length: number of states in a window.
    """

    levels = 0

    def __init__(self, kind: str, trajectories: Any, length: int, channels_first: bool = False):
        """Cuts trajectories, an array or a data set of an open file, into windows.

        Raises:
          ValueError: for windows longer than the trajectories.
        """
        self.kind, self.trajectories, self.length = kind, trajectories, length
        self._channels_first = channels_first
        if not 1 <= length <= trajectories.shape[1]:
            raise ValueError(
                f"data.length={length} states do not fit into trajectories of "
                f"{trajectories.shape[1]}; take 1 ... {trajectories.shape[1]}"
            )

    def __len__(self) -> int:
        return self.trajectories.shape[0] * (self.trajectories.shape[1] - self.length + 1)

    def __getitem__(self, i: int) -> dict:
        """Returns window i: {"image": float32 (length, *S), "label": int32}."""
        if not 0 <= i < len(self):
            raise IndexError(f"there are {len(self)} windows, and none has the number {i}")
        start, number = divmod(i, self.trajectories.shape[0])
        window = np.asarray(self.trajectories[number, start : start + self.length], np.float32)
        if self._channels_first:
            window = np.moveaxis(window, 1, -1)
        return {"image": window, "label": np.int32(0)}

    def all_labels(self) -> np.ndarray:
        """Returns the labels of all examples, int32 (N,)."""
        return np.zeros(len(self), np.int32)

    def sizes(self) -> tuple[int, ...]:
        """Returns the shape of the trajectories."""
        return self.trajectories.shape


def load_chain(name: str, split: str, length: int) -> Windows:
    """Returns windows of simulated chains: 819 for "train" and 103 for "test", of 1,024 states.

    The states of the first half of each chain are dropped, so that the kept ones are stationary.

    Raises:
      ValueError: for an unknown name or split, or a length out of range.
    """
    check_split(split)
    chain = get_chain(name)
    first, later = jax.random.split(jax.random.key(63))
    path = chain.simulate(later, chain.first(first, CHAINS), WARM_UP + KEPT)[:, WARM_UP:]
    a, b = (int(share * CHAINS) for share in SHARES)
    return Windows("series", np.asarray(path[:a] if split == "train" else path[b:]), length)


def load_files(directory: str, split: str, length: int, kind: str) -> Windows:
    """Returns the windows of trajectories in DIR/train.h5 or DIR/test.h5.

    Args:
      directory: the folder, or a single file that serves both splits.
      split: "train" or "test".
      length: number of states in a window.
      kind: "series" or "fields".

    Raises:
      ValueError: if the file is missing, damaged, or holds something else.
    """
    check_split(split)
    path = Path(directory)
    path = path if path.is_file() else path / f"{split}.h5"
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; make trajectories with python -m tools.make_trajectories, or "
            "name the folder of train.h5 and test.h5 by --config.data.dir"
        )
    try:
        file = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise ValueError(f"{path} is no readable HDF5 file ({error}); make it again") from error
    ndim = 3 if kind == "series" else 5
    if KEY not in file or getattr(file[KEY], "ndim", 0) != ndim:
        found = ", ".join(f"{k} {getattr(v, 'shape', '')}" for k, v in file.items()) or "nothing"
        axes = "(N, L, C)" if kind == "series" else "(N, L, C, H, W)"
        raise ValueError(f"{path} has no data set {KEY!r} of shape {axes}; it holds {found}")
    return Windows(kind, file[KEY], length, channels_first=kind == "fields")
