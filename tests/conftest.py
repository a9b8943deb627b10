"""What every test runs under: eight virtual CPU devices, strict shapes, fixed seeds.

The environment has to be set before anything imports jax, which is why it is set here and not in a
fixture.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from golden import nhwc  # noqa: E402

# A shape that broadcasts only by luck, (B,) against (B, H, W, C), must fail and not compute.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def fixed_numpy_seed():
    """Whatever draws from NumPy's global generator draws the same in every order of the tests."""
    np.random.seed(0)


@pytest.fixture(scope="module")
def compile_fast():
    """For modules that compile many functions and run each of them once or twice."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
