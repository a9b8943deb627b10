"""What every test runs under: eight virtual CPU devices, strict shapes, fixed seeds, one cache.

Most of the suite's time goes into compiling programs that run once, so XLA is told to compile fast
rather than well, and no program is compiled twice: the workers share a folder of compiled programs.
It is removed at the end; set JAX_COMPILATION_CACHE_DIR to keep one from run to run.

The environment has to be set before anything imports jax, which is why it is set here and not in a
fixture.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
for flag in (
    "--xla_force_host_platform_device_count=8",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
):
    if flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the workers inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # a tenth of the time goes into tracebacks
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# JAX looks for a TPU where its compiler is named. Only test_planning.py shall, in processes of its
# own, so the workers inherit another name.
if "TPU_LIBRARY_PATH" in os.environ:
    os.environ["TPU_LIBRARY_PATH_OF_TESTS"] = os.environ.pop("TPU_LIBRARY_PATH")
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from golden import nhwc  # noqa: E402

# A shape that broadcasts only by luck, (B,) against (B, H, W, C), must fail and not compute.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)


SLOW_CASES = set(Path(__file__).with_name("slow_cases.txt").read_text().splitlines())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the cases that were slow when all were last timed; see slow.py."""
    for item in items:
        if item.nodeid in SLOW_CASES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def fixed_numpy_seed():
    """Whatever draws from NumPy's global generator draws the same in every order of the tests."""
    np.random.seed(0)


@pytest.fixture
def strict_dtypes():
    """For modules in which nothing may be promoted silently: float32 with float64, or integers."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def cache():
    """The folder of compiled programs, for processes that a test starts."""
    return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture
def stored_noise(monkeypatch):
    """Makes `jax.random.normal` return given arrays in their order; returns what is left."""

    def use(noises):
        queue = [jnp.asarray(nhwc(z)) for z in noises]

        def normal(key, shape=(), dtype=jnp.float32):
            z = queue.pop(0)
            assert z.shape == tuple(shape)
            return z

        monkeypatch.setattr(jax.random, "normal", normal)
        return queue

    return use
