"""Completing and forecasting series: inpainting in the time domain.

Which points are known is a mask (L, C). Measurements carry their masks: y is (N, L, 2 C), values
and then masks. If series are embedded as images by delays, a known point is known at all its
places, and the projection imposes it there. A Fourier transform mixes all points of a window, so
that only the likelihood acts.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from scorax.conditioning import masks
from scorax.controllable_generation import inpainting_projection
from scorax.data_sources.tables import SUFFIXES, Table, read_table
from scorax.evaluators.context import Numbers, TaskContext
from scorax.evaluators.problems import Problem, exact_likelihood
from scorax.experiment import Experiment
from scorax.metrics.series import crps
from scorax.sde_lib import Projection, ScoreFn
from scorax.utils import parallel
from scorax.utils.embeddings import DelayEmbedding, get_embedding
from scorax.utils.logging import write_atomically
from scorax.utils.pictures import LEVELS
from scorax.utils.rounds import Arrays
from scorax.utils.shapes import model_shape

EXACT = 0.002  # std of a known point for likelihoods, in the model's range


class SeriesInpainting(Problem):
    """The points in a mask are known: `eval.mask`, or all but the gaps of `eval.measurements`."""

    name, misfit = "inpaint", "known_deviation"

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment, exact_likelihood(experiment.config))
        e, (length, channels) = self.config.eval, self.shape
        self._embedding = get_embedding(self.config)
        self._tables: list[Table] = []
        shape = (1, *model_shape(self.config))
        unit = self.to_data(np.ones(shape, np.float32)) - self.to_data(np.zeros(shape, np.float32))
        self.std = np.broadcast_to(EXACT * np.abs(unit).max(1, keepdims=True), unit.shape)
        self.mask = np.ones(self.shape, np.float32)
        if not e.measurements:
            only, seed = tuple(e.mask_channels), self.config.seed
            self.mask = masks.get_series_mask(e.mask, length, channels, e.mask_points, only, seed)
            self.settings |= {"mask": e.mask, "hidden_fraction": float(1 - self.mask.mean())}

    @property
    def width(self) -> float:
        """1, because series are standardised, and options count in the model's range."""
        return 1.0

    def measure(self, rng: jax.Array, x: jax.Array) -> jax.Array:
        mask = jnp.broadcast_to(self.mask, x.shape)
        return jnp.concatenate([mask * x, mask], -1)

    def read(self) -> tuple[np.ndarray, list[str]]:
        """The tables in `eval.measurements`, a file or a folder of files.

        A table that is shorter than the series of the network is continued: what is missing at its
        end is a gap like any other.
        """
        path = self.config.eval.measurements
        self._tables = [self._read_one(each) for each in _files(path)]
        found, names = [], []
        for table in self._tables:
            several = len(table.values) > 1
            for k, values in enumerate(table.values):
                found.append(self._with_mask(table, values, k))
                names.append(f"{table.path.stem}_{k}" if several else table.path.stem)
        y = np.stack(found)
        self.settings["hidden_fraction"] = float(1 - y[..., self.shape[-1] :].mean())
        return y, names

    def _read_one(self, path: Path) -> Table:
        length, channels = self.shape
        table = read_table(path, tuple(self.config.data.columns), channels)
        if table.values.shape[1] > length:
            raise ValueError(
                f"eval.measurements: {path} has {table.values.shape[1]} points in time, but the "
                f"network makes series of {length}; cut out a part of that length around the gap"
            )
        return table

    def _with_mask(self, table: Table, values: np.ndarray, number: int) -> np.ndarray:
        length, channels = self.shape
        full = np.full((length, channels), np.nan, np.float32)
        full[: len(values)] = values
        known = ~np.isnan(full)
        if known.all() or not known.any():
            which = f", series {number}," if len(table.values) > 1 else ""
            raise ValueError(
                f"eval.measurements: {table.path}{which} "
                + ("has no gap to fill" if known.all() else "holds no number")
                + "; leave numbers out where they are wanted, and give the others"
            )
        return np.concatenate([np.where(known, full, 0), known], -1).astype(np.float32)

    def _split(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        channels = self.shape[-1]
        return y[..., :channels], y[..., channels:]

    def projection(self, y: jax.Array) -> Projection | None:
        values, mask = self._split(y)
        if self._embedding is None:
            return inpainting_projection(self.sde, self.to_model(values), mask)
        if not isinstance(self._embedding, DelayEmbedding):
            return None
        places = self._embedding.to_image(mask)
        return inpainting_projection(self.sde, self.to_model(values), places)

    def condition(self, y: jax.Array, score_fn: ScoreFn) -> ScoreFn:
        values, mask = self._split(y)
        return self._condition(lambda x: mask * x, mask * values, score_fn)

    def misfits(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The largest difference at a known point: (N,)."""
        values, mask = self._split(y)
        return np.abs(mask * (x - values)).max((1, 2))

    def arrays(self, y: np.ndarray) -> dict[str, np.ndarray]:
        values, mask = self._split(y)
        return {"measurements": values, "masks": mask}

    def to_image(self, y: np.ndarray) -> np.ndarray:
        """The known points (N, L, C); NaN elsewhere."""
        values, mask = self._split(y)
        return np.where(mask == 1, values, np.nan)

    def likeness(self, x: np.ndarray, truth: np.ndarray, y: np.ndarray) -> Arrays:
        """Root mean square error of each sample at the hidden points: (N,)."""
        hidden = 1 - self._split(y)[1]
        squares = (hidden * (x - truth) ** 2).sum((1, 2)) / hidden.sum((1, 2))
        return {"rmse": np.sqrt(squares)}

    def describe(self, y: np.ndarray, truth: np.ndarray) -> Numbers:
        return {}

    def judge(self, samples: np.ndarray, truth: np.ndarray, y: np.ndarray) -> Numbers:
        """CRPS, error of the mean, and coverage of the central 90 %, over the hidden points."""
        hidden = self._split(y)[1] == 0
        low, high = np.quantile(samples, (0.05, 0.95), axis=1)
        error = samples.mean(1) - truth
        return {
            "rmse_of_mean": float(np.sqrt((error[hidden] ** 2).mean())),
            "crps": float(crps(np.moveaxis(samples, 1, 0), truth)[hidden].mean()),
            "coverage_90": float(((low <= truth) & (truth <= high))[hidden].mean()),
        }

    def write(
        self, context: TaskContext, y: np.ndarray, samples: np.ndarray, names: list[str]
    ) -> None:
        """Writes the quantiles of the samples (I, S, L, C) at each time: `inpaint.csv`."""
        if not names or not parallel.is_primary():
            return
        import pandas  # takes a second to import, so only where it is used

        mask, rows = self._split(y)[1], []
        tables = [table for table in self._tables for _ in table.values]
        for i, (name, table) in enumerate(zip(names, tables, strict=True)):
            columns = table.columns or [str(k) for k in range(self.shape[-1])]
            quantiles = np.quantile(samples[i], LEVELS, axis=0)  # (Q, L, C)
            for t in range(self.shape[0]):
                times = table.times
                time = times[t] if times is not None and t < len(times) else t
                for k, column in enumerate(columns):
                    numbers = dict(zip(_QUANTILES, quantiles[:, t, k].tolist(), strict=True))
                    known = int(mask[i, t, k])
                    row = {"series": name, "time": time, "channel": column, "known": known}
                    rows.append(row | numbers)
        text = pandas.DataFrame(rows).to_csv(index=False, float_format="%.7g")
        write_atomically(context.path("inpaint.csv"), lambda file: file.write(text.encode()))


_QUANTILES = [f"q{round(100 * level):02d}" for level in LEVELS]


def _files(path: str) -> list[Path]:
    """The tables that `eval.measurements` names.

    Raises:
      ValueError: if there are none.
    """
    if os.path.isdir(path):
        found = [p for p in sorted(Path(path).iterdir()) if p.suffix.lower() in SUFFIXES]
    else:
        found = [Path(path)] if os.path.isfile(path) else []
    if not found or found[0].suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"eval.measurements={path!r} is no table, and no folder of tables; name a file "
            f"{', '.join(SUFFIXES)} with gaps"
        )
    return found
