"""Showing on the host how far a compiled loop has come."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# (steps done, steps in all, x): called on the host while a sampler runs
Observer = Callable[[int, int, jax.Array], None]


def observe(observer: Observer | None, i: jax.Array, n: int, x: jax.Array) -> None:
    """Calls the observer about 50 times in n steps, after the last, and where x is not finite.

    Args:
      observer: None for nobody.
      i: the step just made, 0..n-1.
      n: steps in all.
      x: what it has made, of any shape.
    """
    if observer is None:
        return
    due = (i % max(n // 50, 1) == 0) | (i == n - 1) | ~jnp.isfinite(x).all()

    def call() -> None:
        jax.debug.callback(lambda i, x: observer(int(i) + 1, n, x), i, x)

    lax.cond(due, call, lambda: None)
