"""The times at which the few-step solvers evaluate the score.

A row of TIME_GRIDS is a function (sde, n, t_start, eps, rho) -> (n + 1,) descending times from
t_start to eps, in NumPy and double precision. Most grids are rules for the level sigma / mu, the
noise on x / mu, which is EDM's sigma and e^(-lambda); the SDE translates levels into times.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorax.sde_lib import SDE, iddpm_sigmas
from scorax.utils.tables import lookup


def in_double(f: Callable, t: np.ndarray) -> Any:
    """Evaluates an elementwise f on an array in double precision, immediately even under a trace.

    The array is padded, so that a few shapes are compiled instead of one for every number of steps.
    """
    padded = np.resize(t, -(-t.size // 64) * 64)
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        values = f(jnp.asarray(padded, jnp.float64))
    return jax.tree.map(lambda a: np.array(a)[: t.size].reshape(t.shape), values)


def levels_of(sde: SDE, t: np.ndarray) -> np.ndarray:
    """sigma / mu at the given times: the noise on x / mu, which is EDM's sigma."""
    mu, sigma = in_double(sde.marginal_coeffs, t)
    return sigma / mu


def times_of(sde: SDE, levels: np.ndarray) -> np.ndarray:
    """The times at which sigma / mu has the given values: the inverse of `levels_of`."""
    return in_double(sde.time_of_log_snr, -2 * np.log(levels))


def as_seen(t: np.ndarray) -> np.ndarray:
    """Times as the score will see them: rounded to float32 unless JAX's double precision is on."""
    return t.astype(jax.dtypes.canonicalize_dtype(np.float64)).astype(np.float64)


def uniform_times(sde: SDE, n: int, t_start: float, eps: float, rho: float = 7.0) -> np.ndarray:
    """Equal steps in t."""
    return np.linspace(t_start, eps, n + 1)


def log_snr_times(sde: SDE, n: int, t_start: float, eps: float, rho: float = 7.0) -> np.ndarray:
    """Equal steps in log-SNR."""
    return _between(sde, t_start, eps, lambda first, last: np.geomspace(first, last, n + 1))


def edm_times(sde: SDE, n: int, t_start: float, eps: float, rho: float = 7.0) -> np.ndarray:
    """Equal steps in (sigma / mu)^(1 / rho) (Karras et al. 2022, eq. 5)."""

    def levels(first: float, last: float) -> np.ndarray:
        return np.linspace(first ** (1 / rho), last ** (1 / rho), n + 1) ** rho

    return _between(sde, t_start, eps, levels)


def iddpm_times(sde: SDE, n: int, t_start: float, eps: float, rho: float = 7.0) -> np.ndarray:
    """Equal steps in the index of iDDPM's noise levels (Karras et al. 2022, table 1)."""

    def levels(first: float, last: float) -> np.ndarray:
        slack = 1 + 1e-6  # an end that is a level was rounded on the way to a time and back
        u = iddpm_sigmas()
        u = u[(u <= first * slack) & (u >= last / slack)]
        if n == 0 or len(u) == 0:
            return np.geomspace(first, last, n + 1)
        return u[np.round((len(u) - 1) / n * np.arange(n + 1)).astype(int)]

    return _between(sde, t_start, eps, levels)


def _between(
    sde: SDE, t_start: float, eps: float, levels: Callable[[float, float], np.ndarray]
) -> np.ndarray:
    """The times of the levels from t_start to eps, with exactly t_start and eps as the ends."""
    times = times_of(sde, levels(*levels_of(sde, np.array([t_start, eps]))))
    times[-1] = eps
    times[0] = t_start
    return times


def solver_times(
    sde: SDE,
    steps: int,
    grid: str,
    rho: float,
    denoise: bool,
    eps: float | None,
    t_start: float | None,
) -> np.ndarray:
    """The times of a solver: (steps + 1,), in double precision; with `denoise` the last one is 0.

    The times are rounded as the score will see them, so that coefficients computed from them
    belong to exactly the times at which the score is evaluated.

    Raises:
      ValueError: for a number out of range or an unknown grid.
    """
    if steps < 1:
        raise ValueError(f"sampling.steps={steps} must be at least 1")
    if not rho > 0:
        raise ValueError(f"sampling.rho={rho} must be positive")
    t_start, eps = sde.sampling_interval(eps, t_start)
    row = lookup(TIME_GRIDS, grid, "time grid (sampling.grid)")
    times = row(sde, steps - 1 if denoise else steps, t_start, eps, rho)
    times = as_seen(times)
    if not (np.diff(times) < 0).all():
        raise ValueError(
            f"sampling.grid={grid!r} with sampling.steps={steps} repeats times between "
            f"{t_start} and {eps}; take fewer steps"
        )
    return np.append(times, 0.0) if denoise else times


TIME_GRIDS = {
    "uniform": uniform_times,
    "log_snr": log_snr_times,
    "edm": edm_times,
    "iddpm": iddpm_times,
}
