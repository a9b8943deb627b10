"""The convolution of the layers in `models.layers`, with gradients that are fast on CPUs.

XLA's CPU backend computes the weight gradient of a convolution as a convolution with a window as
large as the image, after transposing both arguments. For wide layers and large images this runs at
a quarter of the rate of a matrix product. It computes the image gradient with a kernel that it
first transposes, which for wide layers and small images can cost more than the convolution itself.
In these cases this module computes the gradients as matrix products with shifted images
(benchmarks/RESULTS.md). The image gradient of narrow layers is slow only inside compiled loops, and
fast there too if it is written as a convolution.
"""

import jax
import jax.numpy as jnp
from jax import lax

NHWC = ("NHWC", "HWIO", "NHWC")  # layouts of the input, the kernel and the output
WIDE = 128  # from this many input and output channels on, matrix products are faster
SMALL, LARGE = 8 * 8, 32 * 32  # pixels: in between, XLA's own weight gradient is as fast


def conv2d(x: jax.Array, w: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolves x: (B, H, W, C) with w: (n, n, C, O), padded to keep H and W before striding."""
    plain = stride == dilation == 1 and w.shape[0] == 3
    return _conv3x3(x, w) if plain else _conv(x, w, stride, dilation)


def _conv(x: jax.Array, w: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x, w, (stride,) * 2, "SAME", rhs_dilation=(dilation,) * 2, dimension_numbers=NHWC
    )


@jax.custom_vjp
def _conv3x3(x: jax.Array, w: jax.Array) -> jax.Array:
    return _conv(x, w)


def _forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple]:
    return _conv(x, w), (x, w)


def _backward(residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    pixels, wide = x.shape[1] * x.shape[2], min(w.shape[2:]) >= WIDE
    cpu_dx = _shifted_sum if wide and pixels < LARGE else _turned_conv
    cpu_dw = _patch_product if pixels <= SMALL else _row_products
    if not wide or SMALL < pixels < LARGE:
        cpu_dw = _weight_gradient
    dx = lax.platform_dependent(g, w, cpu=cpu_dx, default=_turned_conv)
    dw = lax.platform_dependent(x, g, cpu=cpu_dw, default=_weight_gradient)
    return dx, dw


def _turned_conv(g: jax.Array, w: jax.Array) -> jax.Array:
    """The image gradient: the transpose of a SAME convolution, which uses the flipped kernel."""
    return _conv(g, w[::-1, ::-1].swapaxes(2, 3))


def _shifted_sum(g: jax.Array, w: jax.Array) -> jax.Array:
    """The image gradient dx[p + (i, j) - 1] += w[i, j] g[p], all nine terms in one matrix product.

    The product reads the kernel in its memory layout, so the kernel is not transposed.
    """
    (b, h, width, o), c = g.shape, w.shape[2]
    parts = (g.reshape(-1, o) @ w.reshape(-1, o).T).reshape(b, h, width, 3, 3, c)
    padded = sum(
        jnp.pad(parts[..., i, j, :], ((0, 0), (i, 2 - i), (j, 2 - j), (0, 0)))
        for i in range(3)
        for j in range(3)
    )
    return padded[:, 1:-1, 1:-1]


def _weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """The weight gradient that automatic differentiation gives."""
    like = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda w: _conv(x, w), like)(g)[0]


def _patch_product(x: jax.Array, g: jax.Array) -> jax.Array:
    """dw[i, j] = sum over pixels p of x[p + (i, j) - 1] g[p], with one matrix product for all."""
    (_, h, w, c), o = x.shape, g.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    patches = jnp.concatenate(shifted, -1).reshape(-1, 9 * c)
    return (patches.T @ g.reshape(-1, o)).reshape(3, 3, c, o)


def _row_products(x: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient of `_patch_product` by one matrix product for each (i, j), in a loop over i.

    Nine copies of a large image do not fit the cache. The loop keeps only three shifted copies
    alive, whereas XLA would otherwise make all nine at once.
    """
    (b, h, w, c), o = x.shape, g.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def row(i: jax.Array) -> jax.Array:
        rows = lax.dynamic_slice(padded, (0, i, 0, 0), (b, h, w + 2, c))
        shifted = [rows[:, :, j : j + w].reshape(-1, c) for j in range(3)]
        return jnp.stack([s.T @ g.reshape(-1, o) for s in shifted])

    return lax.map(row, jnp.arange(3))


_conv3x3.defvjp(_forward, _backward)
