"""The task "assimilate": trajectories given observations that are sparse, noisy or not linear.

The network knows windows of `data.length` states; `conditioning.trajectories` composes from it the
score of `eval.states` states. Observations are made in the units of the data. They are those of
trajectories of the split, or of a file of the user's (`eval.measurements`), an npz file with

    y            observations, (*Y) or (N, *Y)
    std          standard deviation of their noise; else `eval.measurement_std`
    observation  a row of `conditioning.observations.OBSERVATIONS`; else `eval.observation`

and, by the names of the keys in `config.eval`, the options of the observation and `states`.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax.conditioning import operators
from scorax.conditioning.observations import OBSERVATIONS
from scorax.conditioning.posterior import LIKELIHOODS
from scorax.conditioning.trajectories import compose
from scorax.configs.ranges import check_ranges
from scorax.data_sources.dynamics import CHAINS, get_chain
from scorax.evaluators.context import Numbers
from scorax.evaluators.problems import Problem
from scorax.experiment import Experiment
from scorax.metrics.series import crps
from scorax.sde_lib import ScoreFn
from scorax.utils.fields import upsample
from scorax.utils.options import check_parameters, configured, keys_of
from scorax.utils.progress import Observer
from scorax.utils.rounds import Arrays
from scorax.utils.tables import lookup

_OF_FILE = ("states", "observation", *(key.split(".")[1] for key in keys_of(OBSERVATIONS)))


class Assimilation(Problem):
    """Trajectories of `eval.states` states, of which `eval.observation` is known."""

    name, misfit = "assimilate", "residual"

    def __init__(self, experiment: Experiment) -> None:
        config = experiment.config.copy_and_resolve_references()
        self._from_file: Arrays = {}
        if config.eval.measurements:
            self._from_file = _read_file(config.eval.measurements)
            _apply(config.eval, self._from_file)
            check_ranges(config)
        e = config.eval
        lookup(LIKELIHOODS, e.likelihood, "likelihood (eval.likelihood)")
        super().__init__(dataclasses.replace(experiment, config=config), e.likelihood)
        window = config.data.length
        if not window % 2:
            raise ValueError(
                f"data.length={window}: the window of the network must be an odd number of states, "
                "so that one of them is in the middle"
            )
        states = e.states or window
        if states < window:
            raise ValueError(
                f"eval.states={states} is shorter than the window of {window} states that the "
                f"network knows (data.length); set it to {window} or more"
            )
        self.shape, self._order = (states, *self.shape[1:]), window // 2
        self._chunk, self.std = e.windows_at_once, e.measurement_std
        if not self.std > 0:
            raise ValueError(f"eval.measurement_std={self.std} must be positive")
        self.operator = self._get_operator(config)
        name = config.data.dataset.lower()
        self._chain = get_chain(name) if name in CHAINS else None
        self.settings |= {
            "observation": e.observation,
            **configured(OBSERVATIONS[e.observation], config),
            "measurement_std": self.std,
            "states": states,
        }

    def _get_operator(self, config: ml_collections.ConfigDict) -> operators.Operator:
        """Builds `eval.observation`, and checks that it can take the trajectories."""
        name = config.eval.observation
        row = lookup(OBSERVATIONS, name, "observation (eval.observation)")
        try:
            check_parameters(row)
            operator = row(**configured(row, config))
            y = jax.eval_shape(operator, jax.ShapeDtypeStruct((1, *self.shape), np.float32))
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"eval.observation={name!r} of trajectories of shape {self.shape}: {error}"
            ) from error
        if not y.size:
            raise ValueError(f"eval.observation={name!r} observes nothing of {self.shape}")
        return operator

    @property
    def width(self) -> float:
        """1, because options count in the model's range."""
        return 1.0

    @property
    def source_config(self) -> ml_collections.ConfigDict:
        config = self.config.copy_and_resolve_references()
        config.data.length = self.shape[0]
        return config

    def measure(self, rng: jax.Array, x: jax.Array) -> jax.Array:
        return operators.measure(rng, self.operator, x, self.std)

    def read(self) -> tuple[np.ndarray, list[str]]:
        path, y = self.config.eval.measurements, self._from_file["y"].astype(np.float32)
        like = jax.ShapeDtypeStruct((1, *self.shape), np.float32)
        shape = jax.eval_shape(self.operator, like).shape[1:]
        y = y[None] if y.shape == shape else y
        if y.shape[1:] != shape:
            raise ValueError(
                f"eval.measurements: y in {path} has the shape {y.shape}, but "
                f"{self.settings['observation']!r} of {self.shape[0]} states has {shape}, or "
                f"(N, {', '.join(map(str, shape))}) for N trajectories"
            )
        stem = os.path.splitext(os.path.basename(path))[0]
        return y, [f"{stem}_{i}" if len(y) > 1 else stem for i in range(len(y))]

    def get_sampler(self, observer: Observer | None = None) -> Callable:
        sampler = super().get_sampler(observer)

        def sample(rng: jax.Array, score_fn: ScoreFn, shape: tuple[int, ...], y: jax.Array) -> Any:
            composed = compose(score_fn, self._order, self._chunk)
            return sampler(rng, composed, (shape[0], *self.shape), y)

        return sample

    def misfits(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Root mean square of A(x) - y; for the true trajectory it is about `std`."""
        residual = np.asarray(self.operator(jnp.asarray(x))) - y
        return np.sqrt((residual**2).reshape(len(y), -1).mean(1))

    def summarize(self, misfits: np.ndarray) -> float:
        """The mean misfit, because misfits include the noise of the observation."""
        return misfits.mean()

    def to_image(self, y: np.ndarray) -> np.ndarray:
        """Shows y at the places that it is about; NaN elsewhere.

        That is A^T y / A^T A 1 for means and selections, with A linearised at 0. Where differences
        are observed, A 1 = 0, and it is A^T y. Coarse fields are interpolated.
        """
        shown = self._interpolate(y)
        if shown is not None:
            return shown
        zero = jnp.zeros((len(y), *self.shape))
        _, push = jax.linearize(self.operator, zero)
        pull = jax.linear_transpose(push, zero)
        back, weight = (np.asarray(pull(v)[0]) for v in (jnp.asarray(y), push(zero + 1)))
        seen = np.abs(weight) > 1e-6
        return np.where(seen, back / np.where(seen, weight, 1), np.nan) if seen.any() else back

    def _interpolate(self, y: np.ndarray) -> np.ndarray | None:
        """Coarse fields, or a patch of them in the middle, at full resolution; None for others."""
        factor, every = (self.settings.get(k) for k in ("factor", "every"))
        y = y[..., None] if y.ndim == 4 else y  # vorticity
        if not factor or len(self.shape) != 4 or y.ndim != 5:
            return None
        states, height, width, _ = self.shape
        h, w = factor * y.shape[2], factor * y.shape[3]
        if (h, w) == (height, width):
            fine = upsample(y, factor)
        else:  # the edges of a patch are no neighbours
            padded = np.pad(y, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), "edge")
            fine = upsample(padded, factor)[:, :, factor:-factor, factor:-factor]
        x = np.full((len(y), states, height, width, y.shape[4]), np.nan, np.float32)
        top, left = (height - h) // 2, (width - w) // 2
        x[:, ::every, top : top + h, left : left + w] = fine
        return x

    def likeness(self, x: np.ndarray, truth: np.ndarray, y: np.ndarray) -> Arrays:
        """Root mean square error of each sample; where the system is known, log densities.

        "log_prior" is the mean log density of a transition of a sample, "log_prior_of_truth" that
        of the truth.
        """
        axes = tuple(range(1, x.ndim))
        found = {"rmse": np.sqrt(((x - truth) ** 2).mean(axes))}
        return found | {f"log_prior{name}": v for name, v in self._log_prior(x, truth).items()}

    def _log_prior(self, x: np.ndarray, truth: np.ndarray) -> Arrays:
        """Mean log density of a transition, of samples and of the truth; {} if unknown."""
        if self._chain is None or not self._chain.std.all():
            return {}
        steps = self.shape[0] - 1
        both = {"": x, "_of_truth": truth}
        return {
            k: np.asarray(self._chain.log_prior(jnp.asarray(v))) / steps for k, v in both.items()
        }

    def describe(self, y: np.ndarray, truth: np.ndarray) -> Numbers:
        return {}

    def judge(self, samples: np.ndarray, truth: np.ndarray, y: np.ndarray) -> Numbers:
        """Error of the mean and CRPS over all states, and coverage of the central 90 %."""
        found = {"rmse_of_mean": float(np.sqrt(((samples.mean(1) - truth) ** 2).mean()))}
        if samples.shape[1] < 2:
            return found
        low, high = np.quantile(samples, (0.05, 0.95), axis=1)
        return found | {
            "crps": float(crps(np.moveaxis(samples, 1, 0), truth).mean()),
            "coverage_90": float(((low <= truth) & (truth <= high)).mean()),
        }

    def write(self, context: Any, y: np.ndarray, samples: np.ndarray, names: list[str]) -> None:
        """Nothing: the samples are in the archive."""


def _read_file(path: str) -> Arrays:
    """The arrays of a file of observations.

    Raises:
      ValueError: if it cannot be read, has no y or one with values that are not finite, or an array
        of an unknown name.
    """
    what = f"eval.measurements={path!r}"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{what} is no npz file of observations ({error})") from error
    known = ("y", "std", *_OF_FILE)
    if "y" not in arrays or not set(arrays) <= set(known):
        raise ValueError(
            f"{what} holds {', '.join(arrays) or 'nothing'}; it needs y, and can have "
            f"{', '.join(known[1:])}"
        )
    y = arrays["y"]
    if y.dtype.kind not in "fiu" or not np.isfinite(y).all():
        bad = "no numbers" if y.dtype.kind not in "fiu" else "values that are not finite"
        raise ValueError(
            f"{what}: y holds {bad}; leave out what was not observed, by another observation "
            "(eval.observation)"
        )
    several = [name for name, x in arrays.items() if name != "y" and x.size != 1]
    if several:
        raise ValueError(f"{what}: {', '.join(several)} must be a single value each")
    return arrays


def _apply(section: ml_collections.ConfigDict, arrays: Arrays) -> None:
    """Sets the keys of `config.eval` that a file of observations sets."""
    names = {"std": "measurement_std"} | {name: name for name in _OF_FILE}
    for name, key in names.items():
        if name in arrays:
            section[key] = type(section[key])(arrays[name].item())
