"""Long simulations: compiled for speed, unlike everything else in the tests (see conftest.py)."""

from collections.abc import Callable
from typing import Any

import jax


def simulate(draw: Callable, seed: int = 0) -> Any:
    """draw(key), compiled; the key belongs to the generator that is the fastest on a CPU."""
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        return jax.block_until_ready(jax.jit(draw)(jax.random.key(seed, impl="rbg")))
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
