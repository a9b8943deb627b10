"""Scalars and pictures of a run, for TensorBoard and for Weights & Biases.

`MetricWriter` passes everything on to each of its writers, on the primary process. A writer has the
methods of `TensorBoard`.
"""

import importlib.util
import os
import time
from typing import Any

import numpy as np
import tensorboardX

from scorax.utils import parallel
from scorax.utils.logging import read_json, write_json


class TensorBoard:
    """Writes event files to a folder."""

    def __init__(self, directory: str | os.PathLike, start_step: int = 0) -> None:
        """Opens a new event file in `directory`; see `MetricWriter` for `start_step`."""
        self._writer = tensorboardX.SummaryWriter(
            os.fspath(directory),
            purge_step=start_step + 1 if start_step else 0,
            flush_secs=10,
            # Names of event files have a resolution of one second; the suffix makes them unique.
            filename_suffix=f".{time.time_ns()}",
        )

    def scalars(self, step: int, values: dict[str, Any]) -> None:
        """Writes numbers, or arrays that hold a single number, under their names."""
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)

    def images(self, step: int, name: str, grid: np.ndarray) -> None:
        """Writes one picture, uint8 (H, W) or (H, W, 3)."""
        axes = "HW" if grid.ndim == 2 else "HWC"
        self._writer.add_image(name, grid, step, dataformats=axes)

    def flush(self) -> None:
        """Writes everything to disk now; otherwise this happens every 10 seconds."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes, and ends the thread that writes."""
        self._writer.close()


class WeightsAndBiases:
    """Logs to a project of Weights & Biases; a run that is continued is continued there too.

    Its axis is the training step, because what an interrupted run has logged for later steps cannot
    be taken back there.
    """

    def __init__(self, project: str, workdir: str, config: dict[str, Any]) -> None:
        """Starts, or continues, the run whose name there is kept in `workdir/wandb.json`.

        Raises:
          ValueError: if that fails.
        """
        import wandb  # optional, and slow to import

        self._wandb, path = wandb, os.path.join(workdir, "wandb.json")
        known = read_json(path) if os.path.exists(path) else {}
        try:
            self._run = wandb.init(
                project=project,
                id=known.get("id"),
                resume="allow",
                dir=workdir,
                name=os.path.relpath(workdir),
                config=config,
            )
        except wandb.Error as e:
            raise ValueError(
                f"Weights & Biases: {str(e).rstrip('.')}; log in with `wandb login`, set "
                "WANDB_MODE=offline, or set training.wandb=''"
            ) from e
        write_json(path, {"id": self._run.id})
        self._run.define_metric("training_step")
        self._run.define_metric("*", step_metric="training_step")

    def scalars(self, step: int, values: dict[str, Any]) -> None:
        """As `TensorBoard.scalars`."""
        numbers = {name: float(value) for name, value in values.items()}
        self._run.log({"training_step": step} | numbers)

    def images(self, step: int, name: str, grid: np.ndarray) -> None:
        """As `TensorBoard.images`."""
        self._run.log({"training_step": step, name: self._wandb.Image(grid)})

    def flush(self) -> None:
        """Does nothing: a process of Weights & Biases keeps what has been logged."""

    def close(self) -> None:
        """Waits until everything has been sent."""
        self._run.finish()


class MetricWriter:
    """Writes scalars and pictures to all writers; does nothing on non-primary processes."""

    def __init__(
        self,
        workdir: str,
        start_step: int = 0,
        project: str = "",
        config: dict[str, Any] | None = None,
    ) -> None:
        """Opens `workdir/tensorboard`.

        Args:
          workdir: directory of the run.
          start_step: number of steps done when the run starts or resumes. TensorBoard then hides
            values that an interrupted run has written for later steps.
          project: project of Weights & Biases; "" for TensorBoard alone.
          config: what Weights & Biases shows as the config.
        """
        self._writers: list[TensorBoard | WeightsAndBiases] = []
        if parallel.is_primary():
            self._writers.append(TensorBoard(os.path.join(workdir, "tensorboard"), start_step))
            if project:
                self._writers.append(WeightsAndBiases(project, workdir, config or {}))

    def scalars(self, step: int, values: dict[str, Any]) -> None:
        """Writes numbers, or arrays that hold a single number, under their names."""
        for writer in self._writers:
            writer.scalars(step, values)

    def images(self, step: int, name: str, grid: np.ndarray) -> None:
        """Writes one picture, uint8 (H, W) or (H, W, 3)."""
        for writer in self._writers:
            writer.images(step, name, grid)

    def flush(self) -> None:
        """Writes everything to disk now."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Flushes, and ends the threads that write."""
        for writer in self._writers:
            writer.close()


def check_project(project: str) -> None:
    """Raises ValueError if Weights & Biases is asked for but not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            f"training.wandb={project!r} logs to Weights & Biases, whose package is not installed; "
            "run: pip install wandb, or set training.wandb=''"
        )
