"""Measurement operators: what an instrument, or a loss of information, does to an image.

A measurement is y = A(x) + std z with z standard normal. An operator A is any JAX function of the
global batch, x: (B, *S) -> (B, *Y), linear or not. `posterior` only requires it to be
differentiable. The builders below make the common operators; an operator that needs an image takes
x: (B, H, W, C). They are all linear, work in any data range, and, except for the mask and the
random projection, keep a constant image constant.

An orthonormal color basis is a 3x3 matrix whose first column is proportional to the weights of a
luma: channel 0 of `x @ basis` is a multiple of the luma, the other channels are pure color, and
white noise stays white.
"""

import functools
import math
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from scorax.conditioning.masks import get_mask
from scorax.utils.options import Option
from scorax.utils.shapes import Size, height_and_width
from scorax.utils.tables import lookup

# x: (B, *S) -> (B, *Y)
Operator = Callable[[jax.Array], jax.Array]


def measure(rng: jax.Array, operator: Operator, x: jax.Array, std: float) -> jax.Array:
    """Measures each example of x once, A(x) + std z: (B, *S) -> (B, *Y)."""
    y = operator(x)
    return y + std * jax.random.normal(rng, y.shape, y.dtype)


def color_basis(name: str) -> np.ndarray:
    """The orthonormal color basis of the given name: (3, 3), float64.

    Raises:
      ValueError: for an unknown name.
    """
    return lookup(COLOR_BASES, name, "color basis")


def check_color_basis(name: str) -> None:
    """Raises ValueError for an unknown color basis."""
    color_basis(name)


def luma_weights(basis: str) -> np.ndarray:
    """Weights of R, G and B in the luma of a color basis: (3,), with sum 1."""
    first = color_basis(basis)[:, 0]
    return first / first.sum()


def luma(x: jax.Array, basis: str = "rgb_mean") -> jax.Array:
    """The gray image (B, H, W, 1) of x: (B, H, W, 3), with the weights of a color basis."""
    if x.shape[-1] != 3:
        raise ValueError(f"a luma takes colour images (B, H, W, 3), not {x.shape}")
    weights = jnp.asarray(luma_weights(basis)[:, None], x.dtype)
    return jnp.matmul(x, weights, precision="highest")


def _reflected(weights: tuple[float, float, float]) -> np.ndarray:
    """The Householder reflection that swaps (1, 0, 0) and the normalised weights."""
    v = np.array(weights) / np.linalg.norm(weights)
    v[0] -= 1
    return np.eye(3) - 2 * np.outer(v, v) / (v @ v)


def get_identity() -> Operator:
    """A(x) = x: denoising."""
    return lambda x: x


def get_masking(
    mask: Annotated[
        jax.Array,
        Option("eval.mask", "data.image_size", "eval.mask_amount", "seed", read=get_mask),
    ],
) -> Operator:
    """A(x) = mask x, for a mask that broadcasts against one example of x and is 0 in the hole."""

    def operator(x: jax.Array) -> jax.Array:
        return jnp.asarray(mask, x.dtype)[None] * x

    return operator


def get_grayscale(basis: Annotated[str, Option("eval.color_basis")] = "rgb_mean") -> Operator:
    """The luma (B, H, W, 1) of x: (B, H, W, 3).

    Raises:
      ValueError: for an unknown basis.
    """
    check_color_basis(basis)
    return functools.partial(luma, basis=basis)


def get_block_mean(factor: Annotated[int, Option("eval.operator_factor")]) -> Operator:
    """Means over blocks of factor x factor pixels: (B, H, W, C) -> (B, H/factor, W/factor, C)."""

    def operator(x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        if h % factor or w % factor:
            raise ValueError(f"blocks of {factor} pixels do not divide images of {h}x{w}")
        return x.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))

    return operator


def get_gaussian_blur(width: Annotated[float, Option("eval.operator_width")]) -> Operator:
    """Gaussian blur with standard deviation `width`, in pixels, truncated at 3 `width`.

    Raises:
      ValueError: for a width that is not positive.
    """
    if not width > 0:
        raise ValueError(f"the width {width} of a Gaussian blur must be positive")
    radius = math.ceil(3 * width)
    profile = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    return functools.partial(_filtered, kernel=np.outer(profile, profile))


def get_motion_blur(
    length: Annotated[float, Option("eval.operator_length")],
    angle: Annotated[float, Option("eval.operator_angle")] = 0.0,
) -> Operator:
    """Mean along a line of `length` pixels at `angle` degrees, anticlockwise from horizontal.

    Raises:
      ValueError: for a length below one pixel.
    """
    if not length >= 1:
        raise ValueError(f"the length {length} of a motion blur must be at least one pixel")
    radius = math.ceil((length - 1) / 2)
    # The line is sampled finely, and each point is shared among its four nearest pixels.
    s = np.linspace(-(length - 1) / 2, (length - 1) / 2, 16 * radius + 1)[:, None]
    pixel = np.arange(-radius, radius + 1)[None]
    down = np.maximum(1 - np.abs(pixel + s * math.sin(math.radians(angle))), 0)
    along = np.maximum(1 - np.abs(pixel - s * math.cos(math.radians(angle))), 0)
    return functools.partial(_filtered, kernel=down.T @ along)


def _filtered(x: jax.Array, kernel: np.ndarray) -> jax.Array:
    """Correlates each channel of x with the normalised kernel (2r+1, 2r+1); mirrors at borders."""
    radius, c = len(kernel) // 2, x.shape[-1]
    if radius >= min(x.shape[1:3]):
        raise ValueError(f"a blur over {len(kernel)} pixels is too wide for images of {x.shape}")
    x = jnp.pad(x, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="reflect")
    taps = jnp.asarray(kernel / kernel.sum(), x.dtype)[:, :, None, None]
    return jax.lax.conv_general_dilated(
        x,
        jnp.broadcast_to(taps, (*taps.shape[:3], c)),
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=c,
        precision="highest",
    )


def _image_shape(size: Size, channels: int) -> tuple[int, int, int]:
    return *height_and_width(size), channels


def _part_of_image(fraction: float, size: Size, channels: int) -> int:
    return round(fraction * math.prod(_image_shape(size, channels)))


def get_random_projection(
    shape: Annotated[
        tuple[int, ...], Option("data.image_size", "data.num_channels", read=_image_shape)
    ],
    n: Annotated[
        int,
        Option(
            "eval.operator_fraction", "data.image_size", "data.num_channels", read=_part_of_image
        ),
    ],
    seed: Annotated[int, Option("seed")] = 0,
) -> Operator:
    """n random projections of each example, as in compressed sensing: (B, *shape) -> (B, n).

    The directions are normal with variance 1 / D in D = prod(shape) dimensions. Their length is
    about 1, so std means the same as for pixels. The matrix is kept in memory.

    Raises:
      ValueError: unless 1 <= n <= D.
    """
    d = math.prod(shape)
    if not 1 <= n <= d:
        raise ValueError(f"{n} projections of {d} values: the number must lie between 1 and {d}")
    matrix = np.random.default_rng(seed).normal(0, d**-0.5, (d, n)).astype(np.float32)

    def operator(x: jax.Array) -> jax.Array:
        flat = x.reshape(x.shape[0], d)
        return jnp.matmul(flat, jnp.asarray(matrix, x.dtype), precision="highest")

    return operator


COLOR_BASES = {
    # The basis of score_sde; its luma is the mean of R, G and B.
    "rgb_mean": np.array([[1, -2, 0], [1, 1, 1], [1, 1, -1]]) / np.sqrt([3, 6, 2]),
    "rec709": _reflected((0.2126, 0.7152, 0.0722)),
    "rec601": _reflected((0.299, 0.587, 0.114)),
}
OPERATORS = {
    "identity": get_identity,
    "mask": get_masking,
    "grayscale": get_grayscale,
    "block_mean": get_block_mean,
    "gaussian_blur": get_gaussian_blur,
    "motion_blur": get_motion_blur,
    "random_projection": get_random_projection,
}
