"""The convolution of the networks, with a weight gradient that suits CPUs.

XLA's CPU backend computes the weight gradient of a convolution as a convolution with a window as
large as the image, after transposing both arguments. For wide layers on large or very small images
that reaches a fifth to two fifths of the speed of a matrix product; one product with the 3x3
patches of the image reaches two to three fifths (benchmarks/RESULTS.md).
"""

import jax
import jax.numpy as jnp
from jax import lax

NHWC = ("NHWC", "HWIO", "NHWC")  # layouts of images, kernels, images
WIDE = 256  # channels, in and out, from which on the product can be faster


def conv2d(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves x: (B, H, W, C) with w: (n, n, C, O), padded to keep H and W before striding."""
    pixels = x.shape[1] * x.shape[2]
    if stride == 1 and w.shape[0] == 3 and min(w.shape[2:]) >= WIDE and not 64 < pixels < 1024:
        return _conv3x3(x, w)
    return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=NHWC)


@jax.custom_vjp
def _conv3x3(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)


def _forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple]:
    return _conv3x3(x, w), (x, w)


def _backward(residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    # The transpose of a SAME convolution is one with the kernel turned around.
    w_turned = w[::-1, ::-1].swapaxes(2, 3)
    dx = lax.conv_general_dilated(g, w_turned, (1, 1), "SAME", dimension_numbers=NHWC)
    return dx, lax.platform_dependent(x, g, cpu=_patch_product, default=_weight_gradient)


def _weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient as autodiff has it."""
    like = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), x.dtype)

    def conv(w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)

    return jax.linear_transpose(conv, like)(g)[0]


def _patch_product(x: jax.Array, g: jax.Array) -> jax.Array:
    """dw[i, j] = sum over pixels p of x[p + (i, j) - 1] g[p], all nine in one matrix product."""
    (_, h, w, c), o = x.shape, g.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    patches = jnp.concatenate(shifted, -1).reshape(-1, 9 * c)
    return (patches.T @ g.reshape(-1, o)).reshape(3, 3, c, o)


_conv3x3.defvjp(_forward, _backward)
