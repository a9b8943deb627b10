"""The convolution of the networks: SAME padding, NHWC, kernels HWIO."""

import jax
from jax import lax


def conv2d(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves x: (B, H, W, C) with w: (n, n, C, O), padded to keep H and W before striding."""
    return lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
