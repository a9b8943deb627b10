"""Points in the plane that flow through a score field, which is known exactly.

The data are a mixture of Gaussians around some centres: the eight of the ring, or each of some
points of the other data sets. Perturbed by an SDE, they stay one, and so the score at every time is
a formula (docs/points.md).
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax.configs import base
from scorax.data_sources.points import CENTRES, SPREAD, load
from scorax.sampling import get_sampling_fn
from scorax.sde_lib import SDE, ScoreFn, get_sde
from scorax.tools.playground.studio import How, Moment, Run, Runs, whole
from scorax.utils.plots import COLORS, plot

MOST = 5000  # points at a time
SDES = ("vesde", "vpsde", "subvpsde")
_KERNELS = 1000  # centres for data that are no mixture themselves
_WIDTH = 0.04  # standard deviation around each of them
_ARROWS = 17  # along each axis


def centres_of(name: str) -> tuple[np.ndarray, float]:
    """The centres (K, 2) of a row of `POINTS`, and the standard deviation around each.

    Raises:
      ValueError: for a name that the table does not have.
    """
    if name == "gaussians":
        return CENTRES, SPREAD
    source = load(name, "train")
    return np.stack([source[i]["image"] for i in range(_KERNELS)]), _WIDTH


def mixture_score(sde: SDE, centres: np.ndarray, spread: float) -> ScoreFn:
    """The score of Gaussians N(c_k, spread^2) with equal weights under an SDE."""
    means = jnp.asarray(centres, jnp.float32)

    def score_fn(x: jax.Array, t: jax.Array) -> jax.Array:
        mu, sigma = (a[:, None] for a in sde.marginal_coeffs(t))
        variance = (mu * spread) ** 2 + sigma**2
        offsets = x[:, None] - mu[..., None] * means[None]
        weights = jax.nn.softmax(-(offsets**2).sum(-1) / (2 * variance))
        return -(weights[..., None] * offsets).sum(1) / variance

    return score_fn


class Plane:
    """Draws points, and pictures of how they move."""

    def __init__(self) -> None:
        self._runs = Runs()

    def flow(self, how: How, data: str, sde_name: str) -> Iterator[Moment]:
        """Draws points: moments whose states are (t, points (N, 2)), or (points,) at the end.

        Raises:
          ValueError: for an unknown data set, an unknown SDE, or too many points.
        """
        whole("the number of points", how.n, 1, MOST)
        config = _config(how, sde_name)
        sde = get_sde(config)
        score_fn = mixture_score(sde, *centres_of(data))

        def build(tell: Any) -> Any:
            def watched(x: jax.Array, t: jax.Array) -> jax.Array:
                jax.debug.callback(tell, t[0], x)
                return score_fn(x, t)

            sampler = get_sampling_fn(config, sde)
            return lambda rng: sampler(rng, watched, (how.n, 2))

        key = repr((data, sde_name, how.n, how.method, how.steps))
        yield from self._runs.get(key, lambda: Run(build))(jax.random.key(how.seed))

    def draw(self, points: np.ndarray, t: float, data: str, sde_name: str) -> np.ndarray:
        """Points (N, 2) at time t, over the score at that time as arrows: uint8 (H, W, 3).

        Arrows show the direction in which the density grows; a longer one, a steeper slope of its
        logarithm, in units of the noise.
        """
        sde = get_sde(_config(How("ddim", 1, 1, 0), sde_name))
        mu, sigma = (float(a) for a in sde.marginal_coeffs(jnp.float32(t)))
        reach = 2.2 * mu + 2.5 * sigma
        grid = np.linspace(-reach, reach, _ARROWS, dtype=np.float32)
        where = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
        arrows = np.asarray(_field(sde, data)(where, jnp.full(len(where), t, jnp.float32)))
        length = np.linalg.norm(arrows, axis=1, keepdims=True)
        arrows = arrows / np.maximum(length, 1e-9) * np.tanh(sigma * length)

        def draw(axes: Sequence[Any]) -> None:
            ax = axes[0]
            ax.quiver(*where.T, *arrows.T, color=COLORS[1], alpha=0.7, width=0.004)
            ax.scatter(*points.T, s=4, color=COLORS[0], linewidths=0)
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="$x_1$", ylabel="$x_2$")
            ax.set_title(f"t = {t:.3f}, noise of standard deviation {sigma:.2f}")
            ax.set_aspect("equal")

        return plot(1, 1, draw, (5.0, 5.0))


def _config(how: How, sde_name: str) -> ml_collections.ConfigDict:
    if sde_name not in SDES:
        raise ValueError(f"{sde_name!r} is no SDE of this page; choose from: {', '.join(SDES)}")
    config = base.get_config()
    config.training.sde = sde_name
    config.model.sigma_max = 10.0  # of VE: a few times the size of the data
    config.sampling.update({"method": how.method, "steps": how.steps, "snr": 0.1})
    return config


@functools.lru_cache(maxsize=16)
def _field(sde: SDE, data: str) -> ScoreFn:
    return jax.jit(mixture_score(sde, *centres_of(data)))
