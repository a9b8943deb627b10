"""Array helpers that know nothing of diffusion."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Row = TypeVar("Row")


def expand_like(a: jax.Array, x: jax.Array) -> jax.Array:
    """Appends axes of length one to a: (B,) until it broadcasts against x: (B, *S)."""
    return jnp.reshape(a, a.shape + (1,) * (x.ndim - a.ndim))


def batch_mul(a: jax.Array, x: jax.Array) -> jax.Array:
    """Multiplies each example of x: (B, *S) by its number of a: (B,)."""
    return expand_like(a, x) * x


def example_norm(x: jax.Array) -> jax.Array:
    """Euclidean norm of each example: (B, *S) -> (B,)."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim))))


def lookup(table: dict[str, Row], name: Any, what: str) -> Row:
    """Returns `table[name]`.

    Raises:
      ValueError: for an unknown name, naming what was asked for and what there is.
    """
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; choose from: {', '.join(table)}")
    return table[name]
