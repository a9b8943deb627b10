"""Helpers for arrays that do not depend on diffusion models."""

from typing import Any

import jax
import jax.numpy as jnp


def expand_like(a: jax.Array, x: jax.Array) -> jax.Array:
    """Appends axes of length one to a: (B,) until it broadcasts against x: (B, *S)."""
    return jnp.reshape(a, a.shape + (1,) * (x.ndim - a.ndim))


def align(a: Any, x: Any) -> Any:
    """Prepends axes of length one to a: (*S) until it has as many axes as x: (..., *S)."""
    return a.reshape((1,) * (x.ndim - a.ndim) + a.shape)


def batch_mul(a: jax.Array, x: jax.Array) -> jax.Array:
    """Multiplies example i of x: (B, *S) by a[i], for a: (B,)."""
    return expand_like(a, x) * x


def example_norm(x: jax.Array) -> jax.Array:
    """Euclidean norm of each example: (B, *S) -> (B,)."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim))))
