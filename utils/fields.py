"""Fields on a torus, (..., H, W, C): velocities (u, v) along the axes H and W, and their vorticity.

All functions take NumPy arrays, or JAX arrays inside `jit`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any


def vorticity(x: Array) -> Array:
    """d u / d W - d v / d H by central differences of unit spacing: (..., H, W, 2) -> (..., H, W).

    As in the code of Rozet & Louppe 2023; it is minus the usual sign.

    Raises:
      ValueError: unless there are two channels.
    """
    if x.shape[-1] != 2:
        raise ValueError(f"vorticity is that of velocities (u, v), not of {x.shape[-1]} channels")
    u, v = x[..., 0], x[..., 1]
    roll = (jnp if isinstance(x, jax.Array) else np).roll
    d = lambda a, axis: (roll(a, -1, axis) - roll(a, 1, axis)) / 2  # noqa: E731
    return d(u, -1) - d(v, -2)


def coarsen(x: Array, factor: int) -> Array:
    """Means over blocks of factor x factor pixels: (..., H, W, C) -> (..., H / f, W / f, C).

    Raises:
      ValueError: if the blocks do not divide the field.
    """
    *rest, height, width, channels = x.shape
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"blocks of {factor} pixels do not divide fields of {height}x{width}")
    shape = (*rest, height // factor, factor, width // factor, factor, channels)
    return x.reshape(shape).mean((-4, -2))


def upsample(x: Array, factor: int) -> Array:
    """Bilinear interpolation on the torus: (..., H, W, C) -> (..., f H, f W, C).

    The middle of a coarse pixel is the middle of its block of fine pixels.
    """
    take = (jnp if isinstance(x, jax.Array) else np).take
    for axis in (-3, -2):
        n = x.shape[axis]
        place = (np.arange(factor * n) + 0.5) / factor - 0.5
        low = np.floor(place).astype(int)
        weight = (place - low).astype(x.dtype)
        weight = weight.reshape(*(1,) * (x.ndim + axis), -1, *(1,) * (-axis - 1))
        below, above = (take(x, (low + k) % n, axis) for k in range(2))
        x = (1 - weight) * below + weight * above
    return x


def random_symmetry(x: np.ndarray, rng: np.random.Generator, wavenumber: int) -> np.ndarray:
    """Applies a random symmetry of Kolmogorov flow to velocities (..., H, W, 2).

    The equation with the force sin(k y) along x, where x is the axis H and y the axis W, does not
    change under shifts along x, nor under shifts by pi / k along y with a reflection of x.

    Raises:
      ValueError: unless half a period of the force is a whole number of pixels.
    """
    height, width = x.shape[-3:-1]
    if width % (2 * wavenumber):
        raise ValueError(
            f"half a period of a force of wavenumber {wavenumber} is no whole number of the "
            f"{width} pixels of a field"
        )
    right, up = int(rng.integers(height)), int(rng.integers(2 * wavenumber))
    if up % 2:
        x = x[..., ::-1, :, :] * np.array([-1, 1], x.dtype)
    return np.roll(x, (right, up * (width // (2 * wavenumber))), (-3, -2))


def energy_spectrum(x: np.ndarray) -> np.ndarray:
    """Kinetic energy in shells of integer wavenumber k = 1, 2, ..., H / 2: (..., H / 2), float64.

    The sum over all shells is half the mean square of velocities x: (..., H, W, 2) with H = W, but
    for the mean flow and the corners of the spectrum beyond H / 2.
    """
    n = x.shape[-3]
    modes = np.fft.fftn(np.asarray(x, np.float64), axes=(-3, -2)) / n**2
    energy = (np.abs(modes) ** 2).sum(-1) / 2
    k = np.fft.fftfreq(n, 1 / n)
    shell = np.rint(np.hypot(k[:, None], k[None])).astype(int).ravel()
    flat = energy.reshape(*energy.shape[:-2], -1)
    return np.stack([flat[..., shell == s].sum(-1) for s in range(1, n // 2 + 1)], -1)
