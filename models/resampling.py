"""Up- and downsampling with FIR filters, after StyleGAN2 (Karras et al. 2020, appendix B).

Images are NHWC. A filter is a tuple of 1-D taps that are normalised to sum 1 and applied along
height and along width; pixels outside the image count as 0. The operation along one axis is

    upfirdn:  insert up - 1 zeros after each sample, pad, convolve with the taps, keep every down-th

Here it is a few shifted, strided additions (`_fir_axis`), which is much cheaper than a convolution
with a diagonal kernel. The transpose of an upfirdn is again an upfirdn, with up and down exchanged
and the taps reversed. `_fir` defines its gradient that way, because automatic differentiation would
scatter every slice back separately. `upfirdn2d` is the general operation with any 2-D kernel; it
serves as a reference and for filters that are not separable.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scorax.models.convolution import NHWC

Taps = tuple[float, ...]


def _normalised(k: Sequence[float] | None, factor: int, gain: float) -> Taps:
    """1-D taps whose outer product sums to `gain`; the default filter is `factor` ones."""
    taps = np.asarray([1.0] * factor if k is None else k, np.float64)
    return tuple((taps / taps.sum() * np.sqrt(gain)).tolist())


def _fir_axis(x: jax.Array, taps: Taps, up: int, down: int, pad: tuple[int, int], axis: int):
    """upfirdn along one axis; `pad` is the padding before and after, once zeros are inserted."""
    n_in, n_taps = x.shape[axis], len(taps)
    n_out = (n_in * up + pad[0] + pad[1] - n_taps) // down + 1
    h = taps[::-1]  # a convolution in the mathematical sense, not a correlation
    if up == 1:
        return _weighted_slices(x, h, [j - pad[0] for j in range(n_taps)], down, n_out, axis)
    if down > 1:  # rare, so compute all samples and drop some
        full = _fir_axis(x, taps, up, 1, pad, axis)
        return lax.slice_in_dim(full, 0, (n_out - 1) * down + 1, down, axis)
    phases = []
    n_phase = -(-n_out // up)
    for r in range(up):
        # Tap j of output q up + r reads input (q up + r + j - pad) / up, if that is a whole number.
        js = [j for j in range(n_taps) if (r + j - pad[0]) % up == 0]
        offsets = [(r + j - pad[0]) // up for j in js]
        phases.append(_weighted_slices(x, [h[j] for j in js], offsets, 1, n_phase, axis))
    y = jnp.stack(phases, axis + 1)
    y = y.reshape(*x.shape[:axis], n_phase * up, *x.shape[axis + 1 :])
    return lax.slice_in_dim(y, 0, n_out, 1, axis)


def _weighted_slices(
    x: jax.Array, weights: Sequence[float], offsets: list[int], stride: int, n_out: int, axis: int
) -> jax.Array:
    """y[n] = sum_j weights[j] x[n stride + offsets[j]], with zeros outside x."""
    if not weights:
        shape = (*x.shape[:axis], n_out, *x.shape[axis + 1 :])
        return jnp.zeros(shape, x.dtype)
    low, span = min(offsets), (n_out - 1) * stride + 1
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (-low, max(offsets) + span - x.shape[axis], 0)  # negative numbers crop
    padded = lax.pad(x, jnp.zeros((), x.dtype), edges)
    return sum(
        lax.slice_in_dim(padded, o - low, o - low + span, stride, axis) * jnp.asarray(w, x.dtype)
        for w, o in zip(weights, offsets, strict=True)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _fir(x: jax.Array, taps: Taps, up: int, down: int, pad: tuple[int, int]) -> jax.Array:
    """Applies the same upfirdn along height and along width of NHWC images."""
    for axis in (1, 2):
        x = _fir_axis(x, taps, up, down, pad, axis)
    return x


def _fir_forward(
    x: jax.Array, taps: Taps, up: int, down: int, pad: tuple[int, int]
) -> tuple[jax.Array, tuple[int, ...]]:
    return _fir(x, taps, up, down, pad), x.shape[1:3]


def _fir_backward(
    taps: Taps, up: int, down: int, pad: tuple[int, int], shape: tuple[int, ...], g: jax.Array
) -> tuple[jax.Array]:
    for axis, n_in in zip((1, 2), shape, strict=True):
        # Tap j of output n read sample n down + j - pad[0] of the upsampled input. The transpose
        # therefore starts len(taps) - 1 - pad[0] samples early, and must return n_in samples.
        before = len(taps) - 1 - pad[0]
        after = (n_in - 1) * up + len(taps) - g.shape[axis] * down - before
        g = _fir_axis(g, taps[::-1], down, up, (before, after), axis)
    return (g,)


_fir.defvjp(_fir_forward, _fir_backward)


def upsample_2d(
    x: jax.Array, k: Sequence[float] | None = None, factor: int = 2, gain: float = 1.0
) -> jax.Array:
    """Upsamples x: (B, H, W, C) to (B, factor H, factor W, C) with the taps k."""
    taps = _normalised(k, factor, gain * factor**2)
    p = len(taps) - factor
    return _fir(x, taps, factor, 1, ((p + 1) // 2 + factor - 1, p // 2))


def downsample_2d(
    x: jax.Array, k: Sequence[float] | None = None, factor: int = 2, gain: float = 1.0
) -> jax.Array:
    """Downsamples x: (B, H, W, C) to (B, H / factor, W / factor, C) with the taps k."""
    taps = _normalised(k, factor, gain)
    p = len(taps) - factor
    return _fir(x, taps, 1, factor, ((p + 1) // 2, p // 2))


def naive_upsample_2d(x: jax.Array, factor: int = 2) -> jax.Array:
    """Repeats each pixel factor x factor times."""
    return _fir(x, (1.0,) * factor, factor, 1, (factor - 1, 0))


def naive_downsample_2d(x: jax.Array, factor: int = 2) -> jax.Array:
    """Mean over blocks of factor x factor pixels."""
    return _fir(x, (1 / factor,) * factor, 1, factor, (0, 0))


def upsample_conv_2d(
    x: jax.Array,
    w: jax.Array,
    k: Sequence[float] | None = None,
    factor: int = 2,
    gain: float = 1.0,
) -> jax.Array:
    """`upsample_2d` followed by a SAME convolution with w: (n, n, C, O), padding only once."""
    taps = _normalised(k, factor, gain * factor**2)
    n = w.shape[0]
    x = lax.conv_general_dilated(
        x, w, (1, 1), [(n - 1, n - 1)] * 2, lhs_dilation=(factor, factor), dimension_numbers=NHWC
    )
    p = (len(taps) - factor) - (n - 1)
    return _fir(x, taps, 1, 1, ((p + 1) // 2 + factor - 1, p // 2 + 1))


def conv_downsample_2d(
    x: jax.Array,
    w: jax.Array,
    k: Sequence[float] | None = None,
    factor: int = 2,
    gain: float = 1.0,
) -> jax.Array:
    """A SAME convolution with w: (n, n, C, O), followed by `downsample_2d`, padding only once."""
    taps = _normalised(k, factor, gain)
    p = (len(taps) - factor) + (w.shape[0] - 1)
    x = _fir(x, taps, 1, 1, ((p + 1) // 2, p // 2))
    return lax.conv_general_dilated(x, w, (factor, factor), "VALID", dimension_numbers=NHWC)


def upfirdn2d(
    x: jax.Array, kernel: jax.Array, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)
) -> jax.Array:
    """The general upfirdn: inserts zeros, pads, convolves and keeps every `down`-th sample.

    Args:
      x: (B, H, W, C).
      kernel: (kh, kw), any 2-D filter, which is not normalised.
      up, down: factors along both axes.
      pad: padding before and after, on both axes, applied once the zeros are inserted; negative
        values crop.
    """
    b, h, w, c = x.shape
    images = x.transpose(0, 3, 1, 2).reshape(b * c, h, w, 1)
    # An lhs-dilated convolution inserts zeros between samples, not after the last one.
    y = lax.conv_general_dilated(
        images,
        kernel[::-1, ::-1, None, None].astype(x.dtype),
        (down, down),
        [(pad[0], pad[1] + up - 1)] * 2,
        lhs_dilation=(up, up),
        dimension_numbers=NHWC,
    )
    return y.reshape(b, c, *y.shape[1:3]).transpose(0, 2, 3, 1)
