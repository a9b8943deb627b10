"""Reports the progress of a compiled loop to the host."""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# A callback waits until its arrays are copied, by a thread of JAX's CPU client. With one core there
# is a single one, and that waits for the callback. JAX reads this when it first uses the CPU.
if len(getattr(os, "sched_getaffinity", lambda _: "any")(0)) == 1:
    os.environ.setdefault("PJRT_NPROC", "2")

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
