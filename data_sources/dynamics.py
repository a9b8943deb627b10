"""Dynamical systems: chains of states x_1, x_2, ... with Gaussian transitions.

    x_1 ~ N(first_mean, first_covariance),   x_{i+1} ~ N(transition(x_i), diag(std)^2)

States are (..., D), and paths (..., L, D), in the units of the system. Systems of differential
equations take a step of the classical Runge-Kutta rule of fourth order between two states. The
systems and their numbers are those of Rozet & Louppe 2023 (arXiv 2306.10574) and of their code;
`rk4_steps` and a noise of one's own are options.
"""

import abc
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scorax.utils.tables import lookup

Vector = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Chain(abc.ABC):
    """A chain of states.

    Attributes:
      dt: time between two states.
    """

    dt: float = 0.01

    def __post_init__(self) -> None:
        if not self.dt > 0:
            raise ValueError(f"{type(self).__name__}: dt={self.dt} must be positive")

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """D, the number of components of a state."""

    @property
    @abc.abstractmethod
    def std(self) -> np.ndarray:
        """The standard deviation of each component of a transition: (D,)."""

    @property
    def first_mean(self) -> np.ndarray:
        """Mean of the first state: (D,)."""
        return np.zeros(self.dimension)

    @property
    def first_covariance(self) -> np.ndarray:
        """Covariance of the first state: (D, D)."""
        return np.eye(self.dimension)

    @abc.abstractmethod
    def transition(self, x: jax.Array) -> jax.Array:
        """The mean of the state after x: (..., D) -> (..., D)."""

    def log_prob(self, x: jax.Array, x_next: jax.Array) -> jax.Array:
        """Log density of states x_next given the states x before them: (..., D) -> (...)."""
        std = jnp.asarray(self.std, x.dtype)
        z = (x_next - self.transition(x)) / jnp.expand_dims(std, range(x.ndim - 1))
        constant = np.log(self.std).sum() + self.dimension * math.log(2 * math.pi) / 2
        return -jnp.sum(z**2, -1) / 2 - constant

    def log_prior(self, path: jax.Array) -> jax.Array:
        """Log density of paths (..., L, D) given their first states: (...)."""
        return self.log_prob(path[..., :-1, :], path[..., 1:, :]).sum(-1)

    def first(self, rng: jax.Array, n: int) -> jax.Array:
        """Draws first states: (n, D)."""
        factor = jnp.asarray(np.linalg.cholesky(self.first_covariance), jnp.float32)
        z = jax.random.normal(rng, (n, self.dimension))
        return jnp.asarray(self.first_mean, jnp.float32)[None] + jnp.matmul(z, factor.T)

    def step(self, rng: jax.Array, x: jax.Array) -> jax.Array:
        """Draws the states after x: (..., D)."""
        z = jax.random.normal(rng, x.shape, x.dtype)
        std = jnp.expand_dims(jnp.asarray(self.std, x.dtype), range(x.ndim - 1))
        return self.transition(x) + std * z

    @functools.partial(jax.jit, static_argnames=("self", "length"))
    def simulate(self, rng: jax.Array, x: jax.Array, length: int) -> jax.Array:
        """Draws what follows the states x: (N, D), without these: (N, length, D)."""

        def advance(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = self.step(key, x)
            return x, x

        _, path = lax.scan(advance, x, jax.random.split(rng, length))
        return jnp.moveaxis(path, 0, 1)


@dataclasses.dataclass(frozen=True)
class ODE(Chain):
    """An ordinary differential equation dx = drift(x) dt, with noise added to its states.

    Attributes:
      noise: standard deviation of that noise over a time of 1, so that a transition has
        noise sqrt(dt).
      rk4_steps: number of Runge-Kutta steps between two states.
    """

    noise: float = 0.0
    rk4_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rk4_steps < 1 or self.noise < 0:
            raise ValueError(
                f"{type(self).__name__}: rk4_steps={self.rk4_steps} must be at least 1, and "
                f"noise={self.noise} at least 0"
            )

    @abc.abstractmethod
    def drift(self, x: jax.Array) -> jax.Array:
        """dx / dt: (..., D) -> (..., D)."""

    @property
    def std(self) -> np.ndarray:
        return np.full(self.dimension, self.noise * math.sqrt(self.dt))

    def transition(self, x: jax.Array) -> jax.Array:
        h = self.dt / self.rk4_steps
        for _ in range(self.rk4_steps):
            k1 = self.drift(x)
            k2 = self.drift(x + h / 2 * k1)
            k3 = self.drift(x + h / 2 * k2)
            k4 = self.drift(x + h * k3)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x


@dataclasses.dataclass(frozen=True)
class Lorenz63(ODE):
    """The system of Lorenz (1963), with the noise that makes its smoothing well posed."""

    dt: float = 0.025
    noise: float = 1.0
    sigma: float = 10.0
    rho: float = 28.0
    beta: float = 8 / 3

    dimension = 3
    mean, scale = (0.0, 0.0, 25.0), (8.0, 9.0, 8.6)  # of preprocessed states
    first_mean = np.array([0.0, 0.0, 25.0])
    first_covariance = np.array([[64.0, 50.0, 0.0], [50.0, 81.0, 0.0], [0.0, 0.0, 75.0]])

    def drift(self, x: jax.Array) -> jax.Array:
        a, b, c = jnp.moveaxis(x, -1, 0)
        d = self.sigma * (b - a), a * (self.rho - c) - b, a * b - self.beta * c
        return jnp.stack(d, -1)


@dataclasses.dataclass(frozen=True)
class Lorenz96(ODE):
    """The system of Lorenz (1996): dx_i = (x_{i-1} - x_{i+2}) x_{i+1} - x_i + F, periodic in i.

    This is the mirrored order of the published code; in Lorenz's own, i counts the other way.
    """

    n: int = 32
    forcing: float = 16.0

    @property
    def dimension(self) -> int:
        return self.n

    def drift(self, x: jax.Array) -> jax.Array:
        before, after, second = (jnp.roll(x, k, -1) for k in (1, -1, -2))
        return (before - second) * after - x + self.forcing


@dataclasses.dataclass(frozen=True)
class LotkaVolterra(ODE):
    """Logarithms of prey and predators: dx = (alpha - beta e^y) dt, dy = (delta e^x - gamma) dt."""

    alpha: float = 1.1
    beta: float = 0.4
    delta: float = 0.1
    gamma: float = 0.4

    dimension = 2

    def drift(self, x: jax.Array) -> jax.Array:
        prey, predators = jnp.moveaxis(x, -1, 0)
        d = self.alpha - self.beta * jnp.exp(predators), self.delta * jnp.exp(prey) - self.gamma
        return jnp.stack(d, -1)


@dataclasses.dataclass(frozen=True)
class Linear(Chain):
    """A chain whose transition is a matrix: x_{i+1} ~ N(matrix x_i, diag(std)^2)."""

    @property
    @abc.abstractmethod
    def matrix(self) -> np.ndarray:
        """The matrix (D, D) of a transition."""

    @property
    def dimension(self) -> int:
        return len(self.matrix)

    def transition(self, x: jax.Array) -> jax.Array:
        return jnp.matmul(x, jnp.asarray(self.matrix.T, x.dtype), precision="highest")


@dataclasses.dataclass(frozen=True)
class DampedSpring(Linear):
    """A damped mass on a spring in the wind: position, velocity, acceleration and wind.

    The acceleration is -0.5 position - 0.1 velocity + 0.2 wind, and the wind forgets 1 % in a step.
    """

    @property
    def matrix(self) -> np.ndarray:
        rows = [1.0, self.dt, 0.0, 0.0], [0.0, 1.0, self.dt, 0.0]
        return np.array([*rows, [-0.5, -0.1, 0.0, 0.2], [0.0, 0.0, 0.0, 0.99]])

    @property
    def first_mean(self) -> np.ndarray:
        return np.array([1.0, 0.0, 0.0, 0.0])

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(np.array([0.1, 0.1, 0.1, 1.0]) * self.dt)


def get_chain(name: str, **options: Any) -> Chain:
    """The system of that name, with fields of its class as options.

    Raises:
      ValueError: for an unknown name or a value out of range.
    """
    return lookup(CHAINS, name, "system")(**options)


CHAINS: dict[str, type[Chain]] = {
    "lorenz63": Lorenz63,
    "lorenz96": Lorenz96,
    "lotka_volterra": LotkaVolterra,
    "damped_spring": DampedSpring,
}
