"""What the benchmarks share: timing in rounds, XLA's operation counts, the machine's own speed."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from utils.logging import versions


def compile_with_time(fn: Callable, *args: Any, **jit_options: Any) -> tuple[Any, float]:
    """The compiled function, and the seconds that tracing and compiling took."""
    begin = time.monotonic()
    compiled = jax.jit(fn, **jit_options).lower(*args).compile()
    return compiled, time.monotonic() - begin


def time_in_rounds(
    calls: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, np.ndarray]:
    """Seconds of each call in each round. All calls take turns, so that a machine which is shared
    and changes its speed changes it for all of them; compare within a round."""
    for call in calls.values():
        jax.block_until_ready(call())
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.monotonic()
            jax.block_until_ready(call())
            seconds[name].append(time.monotonic() - begin)
    return {name: np.array(s) for name, s in seconds.items()}


def matmul_call(size: int = 2048) -> tuple[Callable[[], Any], float]:
    """A large float32 matrix product, and its number of floating-point operations."""
    a = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)
    return lambda: product(a), 2.0 * size**3


def flops(compiled: Any) -> float:
    """Floating-point operations of a compiled function by XLA's own count."""
    return compiled.cost_analysis()["flops"]


def peak_memory_gib() -> float:
    """The largest resident memory of this process so far, or on an accelerator of its device."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"] / 2**30
    scale = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30


def machine() -> str:
    """One line for the head of a table."""
    v = versions()
    return (f"{v['device_count']} x {v['device_kind']}, {v['platform']}, jax {v['jax']}, "
            f"python {v['python']}, commit {v['commit']}")
