"""Kolmogorov flow: two-dimensional turbulence on a torus, driven by a steady sinusoidal force.

    du/dt + u . grad u = -grad p + viscosity lap u - drag u + sin(k y) e_x,   div u = 0

on [0, 2 pi]^2 with density 1, as in Kochkov et al. 2021 and Rozet & Louppe 2023, who use a finite
volume code. Here exponax integrates the vorticity with its pseudo-spectral exponential Runge-Kutta
rule of fourth order, dealiased by the 2/3 rule. x is the first axis of arrays, y the second.

A trajectory starts from a random field with a maximal speed of 3 and wavenumbers around 4, whose
memory the states of the warm-up lose. Velocities are averaged over blocks of the solver's grid.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import lax

from scorax.utils.fields import coarsen
from scorax.utils.shapes import image_shape

COURANT, FASTEST = 0.5, 5.0  # of the CFL limit: Courant number and largest expected speed
FIRST_SPEED, FIRST_WAVENUMBER = 3.0, 4.0  # of the field from which a trajectory starts


@dataclasses.dataclass(frozen=True)
class KolmogorovFlow:
    """The flow and its solver.

    Attributes:
      resolution: points of the solver along each axis.
      size: pixels of a state along each axis.
      interval: time between two states.
      viscosity: 1 / Reynolds number.
      drag: rate at which the velocity is damped.
      wavenumber: k of the force.
      inner_steps: steps of the solver between two states; 0 for as many as the CFL limit asks.
    """

    resolution: int = 256
    size: int = 64
    interval: float = 0.2
    viscosity: float = 1e-3
    drag: float = 0.1
    wavenumber: int = 4
    inner_steps: int = 0

    def __post_init__(self) -> None:
        if self.resolution < 4 or self.size < 1 or self.resolution % self.size:
            raise ValueError(
                f"simulation.resolution={self.resolution} must be a multiple of "
                f"data.image_size={self.size}"
            )
        positive = {k: getattr(self, k) for k in ("interval", "viscosity", "wavenumber")}
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise ValueError(f"simulation.{name}={value} must be positive")
        if 0 < self.inner_steps < self.fewest_steps or self.inner_steps < 0:
            raise ValueError(
                f"simulation.inner_steps={self.inner_steps} makes steps of "
                f"{self.interval / max(self.inner_steps, 1):.3g}, longer than the CFL limit of "
                f"{self.longest_step:.3g}, so the solver would be unstable; set it to "
                f"{self.fewest_steps} or more, or to 0"
            )

    @property
    def longest_step(self) -> float:
        """The CFL limit of a step: half a cell at a speed of 5."""
        return COURANT * 2 * math.pi / self.resolution / FASTEST

    @property
    def fewest_steps(self) -> int:
        """The smallest number of steps between two states."""
        return math.ceil(self.interval / self.longest_step)

    @property
    def steps(self) -> int:
        """The number of steps between two states."""
        return self.inner_steps or self.fewest_steps

    @functools.cached_property
    def _stepper(self) -> Callable:
        from exponax.stepper import KolmogorovFlowVorticity  # takes a second to import

        return KolmogorovFlowVorticity(
            2,
            2 * math.pi,
            self.resolution,
            self.interval / self.steps,
            diffusivity=self.viscosity,
            drag=-self.drag,
            injection_mode=self.wavenumber,
            order=4,  # rules of second order are unstable without viscosity
            injection_scale=-1.0,  # exponax counts vorticity as du/dy - dv/dx
        ).step_fourier

    @functools.cached_property
    def _wavenumbers(self) -> tuple[np.ndarray, np.ndarray]:
        n = self.resolution
        kx, ky = np.fft.fftfreq(n, 1 / n)[:, None], np.fft.rfftfreq(n, 1 / n)[None]
        return kx.astype(np.float32), ky.astype(np.float32)

    def velocity(self, modes: jax.Array) -> jax.Array:
        """Velocities (..., N, N, 2) of the Fourier modes of vorticity (..., 1, N, N / 2 + 1).

        The vorticity is du/dy - dv/dx, as in exponax: minus the usual one.
        """
        kx, ky = self._wavenumbers
        square = kx**2 + ky**2
        inverse = np.divide(1, square, out=np.zeros_like(square), where=square > 0)
        stream = modes[..., 0, :, :] * jnp.expand_dims(inverse, range(modes.ndim - 3))
        both = [
            jnp.fft.irfft2(
                1j * jnp.expand_dims(k, range(modes.ndim - 3)) * stream, (self.resolution,) * 2
            )
            for k in (-ky, kx)
        ]
        return jnp.stack(both, -1)

    def first(self, rngs: jax.Array) -> jax.Array:
        """Draws the Fourier modes of vorticity from which trajectories start, one for each key."""
        kx, ky = self._wavenumbers
        k = np.maximum(np.hypot(kx, ky), 1e-6)
        amplitude = k * np.exp(-(np.log(k / FIRST_WAVENUMBER) ** 2))  # of vorticity, log-normal
        shape = (1, self.resolution, self.resolution)
        noise = jax.vmap(lambda rng: jax.random.normal(rng, shape))(rngs)
        modes = jnp.fft.rfft2(noise) * np.where(k < 1, 0, amplitude).astype(np.float32)[None, None]
        speed = jnp.sqrt((self.velocity(modes) ** 2).sum(-1)).max((1, 2))
        return modes * (FIRST_SPEED / speed)[:, None, None, None]

    @functools.cached_property
    def advance(self) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        """Modes of vorticity (n, 1, N, N / 2 + 1) -> modes of the next states, and these states.

        States are velocities (n, size, size, 2).
        """

        @jax.jit
        def run(modes: jax.Array) -> tuple[jax.Array, jax.Array]:
            step = jax.vmap(self._stepper)
            modes = lax.fori_loop(0, self.steps, lambda _, m: step(m), modes)
            return modes, coarsen(self.velocity(modes), self.resolution // self.size)

        return run

    def simulate(
        self,
        rngs: jax.Array,
        states: int,
        warm_up: int,
        observe: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Draws n trajectories: float32 (n, states, size, size, 2).

        Args:
          rngs: a key for each trajectory, (n,).
          states: number of states that are kept.
          warm_up: number of states that are dropped before.
          observe: called after each state with the number of states done.

        Raises:
          FloatingPointError: if the solver is unstable.
        """
        modes, kept = self.first(rngs), []
        for i in range(warm_up + states):
            modes, x = self.advance(modes)
            if i >= warm_up:
                kept.append(np.asarray(x))
            if not np.isfinite(np.asarray(x)).all():
                raise FloatingPointError(
                    f"the solver became unstable at state {i}, with steps of "
                    f"{self.interval / self.steps:.3g} (CFL limit {self.longest_step:.3g}); set "
                    f"simulation.inner_steps to {2 * self.steps}"
                )
            observe(i + 1)
        return np.stack(kept, 1)


def get_flow(config: ml_collections.ConfigDict) -> KolmogorovFlow:
    """The flow that `config.simulation` describes.

    Raises:
      ValueError: for a number out of range.
    """
    s, (height, width, _) = config.simulation, image_shape(config)
    if height != width:
        raise ValueError(f"data.image_size={config.data.image_size} of a flow must be a square")
    return KolmogorovFlow(
        s.resolution, height, s.interval, s.viscosity, s.drag, s.wavenumber, s.inner_steps
    )
