"""Helpers for arrays and tables that do not depend on diffusion models."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Row = TypeVar("Row")


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


def lookup(table: dict[str, Row], name: Any, what: str) -> Row:
    """Returns `table[name]`.

    Args:
      table: named choices.
      name: one of the names.
      what: what the table holds, for the message.

    Raises:
      ValueError: for an unknown name; the message lists the known ones.
    """
    check_name(table, name, what)
    return table[name]


def check_name(table: Mapping[str, Any], name: Any, what: str) -> None:
    """Raises the ValueError of `lookup` if `table` does not have this name."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; choose from: {', '.join(table)}")
