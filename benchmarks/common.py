"""Tools of the benchmarks: timing in rounds, XLA's operation counts, the speed of the machine.

A rate is XLA's count of floating-point operations divided by the time. A share is that rate divided
by the rate of a large float32 matrix product in the same round.
"""

import importlib.util
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax.utils.logging import versions


class Row(NamedTuple):
    """Properties of a call, besides its time."""

    flops: float
    images: int = 0
    compile_seconds: float = 0.0


def load_config(path: str) -> ml_collections.ConfigDict:
    """Returns the config of `FILE` or `FILE:variant`."""
    file, _, variant = path.partition(":")
    spec = importlib.util.spec_from_file_location("config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def compile_with_time(fn: Callable, *args: Any, **jit_options: Any) -> tuple[Any, float]:
    """Returns the compiled function, and the seconds that tracing and compiling took."""
    begin = time.monotonic()
    compiled = jax.jit(fn, **jit_options).lower(*args).compile()
    return compiled, time.monotonic() - begin


def time_in_rounds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Returns the seconds of each call in each round.

    Every round runs all calls, so that changes in the speed of a shared machine affect all of them.
    Times should be compared within a round.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.monotonic()
            jax.block_until_ready(call())
            seconds[name].append(time.monotonic() - begin)
    return {name: np.array(s) for name, s in seconds.items()}


def matmul_call(size: int = 4096) -> tuple[Callable[[], Any], float]:
    """Returns a large float32 matrix product, and its number of floating-point operations."""
    a = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)
    return lambda: product(a), 2.0 * size**3


def flops(fn: Callable, *args: Any) -> float:
    """Returns XLA's count of the floating-point operations of a call on an accelerator.

    The count for a CPU would be too small: XLA counts the body of a loop once, and on CPUs the
    weight gradients of large images are a loop. On accelerators every gradient is a convolution.
    """
    lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=("cuda",))
    return lowered.cost_analysis()["flops"]


def peak_memory_gib() -> float:
    """Returns the peak memory so far: of the accelerator or, without one, of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"] / 2**30
    scale = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30


def print_table(title: str, rows: dict[str, Row], seconds: dict[str, np.ndarray]) -> None:
    """Prints medians over the rounds as Markdown; shares refer to the first row."""
    v = versions()
    reference = next(iter(rows))
    print(
        f"\n{title}\n{v['device_count']} x {v['device_kind']}, jax {v['jax']}, "
        f"python {v['python']}, commit {v['commit']}\n"
    )
    print(
        "| | ms | images/s | GFLOP | GFLOP/s | share | compile s |\n|---|---|---|---|---|---|---|"
    )
    for name, row in rows.items():
        rate = row.flops / seconds[name]
        share = np.median(rate / (rows[reference].flops / seconds[reference]))
        images = f"{row.images / np.median(seconds[name]):.2f}" if row.images else ""
        compiling = f"{row.compile_seconds:.1f}" if row.compile_seconds else ""
        print(
            f"| {name} | {1e3 * np.median(seconds[name]):.1f} | {images} | {row.flops / 1e9:.1f} | "
            f"{np.median(rate) / 1e9:.0f} | {share:.0%} | {compiling} |"
        )
    print(f"\npeak memory {peak_memory_gib():.2f} GiB", flush=True)
