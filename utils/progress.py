"""Reports the progress of a compiled loop to the host."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# Called on the host while a sampler runs: (steps done, total number of steps, x)
Observer = Callable[[int, int, jax.Array], None]


def observe(observer: Observer | None, i: jax.Array, n: int, x: jax.Array) -> None:
    """Calls the observer about 50 times in n steps, after the last step, and if x is not finite.

    Args:
      observer: the function to call; None to do nothing.
      i: index of the step just made, 0 ... n - 1.
      n: total number of steps.
      x: result of the step, of any shape.
    """
    if observer is None:
        return
    due = (i % max(n // 50, 1) == 0) | (i == n - 1) | ~jnp.isfinite(x).all()

    def call() -> None:
        jax.debug.callback(lambda i, x: observer(int(i) + 1, n, x), i, x)

    lax.cond(due, call, lambda: None)
