"""Parts of the RefineNets of NCSN and NCSNv2 (Lin et al. 2017; Song & Ermon 2019, 2020).

Images are NHWC. NCSN has a norm that is conditional on the noise level before each convolution, and
uses average pools. NCSNv2 has no norm in these parts, and uses max pools. The same classes serve
both: `norm` is a constructor of conditional norms, or None.

Kernels and biases are initialised as in PyTorch, uniform in +-1 / sqrt(fan_in).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scorax.models.layers import Conv, Dtype, uniform_init
from scorax.models.resampling import naive_downsample_2d
from scorax.utils.tables import check_name, lookup

Labels = jax.Array | None


def resize_aligned(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Resizes x: (B, h, w, C) to (B, *shape, C), bilinearly with aligned corner pixels.

    Along an axis that grows from n to m pixels, output pixel i reads position i (n - 1) / (m - 1).
    """
    rows, columns = (
        np.maximum(0, 1 - np.abs(np.linspace(0, n - 1, m)[:, None] - np.arange(n)))
        for n, m in zip(x.shape[1:3], shape, strict=True)
    )
    weights = jnp.asarray(rows, x.dtype), jnp.asarray(columns, x.dtype)
    return jnp.einsum("ih,jw,bhwc->bijc", *weights, x, precision="highest")


def _resize(method: str) -> Callable[[jax.Array, Sequence[int]], jax.Array]:
    """Returns a function that resizes, with pixel centres at i + 1/2."""
    return lambda x, shape: jax.image.resize(x, (x.shape[0], *shape, x.shape[3]), method)


def get_interpolation(name: str, original: str) -> Callable[[jax.Array, Sequence[int]], jax.Array]:
    """Returns the function that upsamples feature maps: x: (B, h, w, C), (H, W) -> (B, H, W, C).

    Args:
      name: a row of `INTERPOLATIONS`.
      original: "pytorch" or "jax".

    Raises:
      ValueError: for an unknown name or original.
    """
    row = lookup(INTERPOLATIONS, name, "interpolation (model.interpolation)")
    return lookup(row, original, "original (model.original)")


def check_interpolation(name: str, original: str) -> None:
    """Raises ValueError unless `get_interpolation` knows the name and the original."""
    row = lookup(INTERPOLATIONS, name, "interpolation (model.interpolation)")
    check_name(row, original, "original (model.original)")


class _Part(nn.Module):
    """The fields that all parts have: activation, norm (or None), type of the activations."""

    act: Callable[[jax.Array], jax.Array]
    norm: Callable[..., nn.Module] | None
    dtype: Dtype

    def _conv(self, x: jax.Array, features: int, name: str, **fields: Any) -> jax.Array:
        init = uniform_init(1 / math.sqrt(fields.get("kernel_size", 3) ** 2 * x.shape[-1]))
        fields = {"kernel_init": init, "bias_init": init, "dtype": self.dtype} | fields
        return Conv(features, name=name, **fields)(x)

    def _normalise(self, x: jax.Array, labels: Labels, name: str) -> jax.Array:
        if self.norm is None:
            return x
        norm = self.norm(dtype=self.dtype, name=name)
        return norm(x) if labels is None else norm(x, labels)


class ResidualBlock(_Part):
    """Norm, activation and convolution, twice, with a shortcut around them.

    Attributes:
      features: channels of the output.
      down: whether the shortcut has a convolution; if so, `dilation` 1 halves both branches.
      pooled_init: initialiser for the kernels before a pool, together with zero biases; None for
        the initialisers of all other convolutions.
    """

    features: int
    down: bool = False
    dilation: int = 1
    pooled_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array, labels: Labels) -> jax.Array:
        """x: (B, H, W, C) -> (B, H', W', features)."""
        pool = self.down and self.dilation == 1
        fields = {"dilation": self.dilation}
        pooled = fields
        if pool and self.pooled_init is not None:
            pooled = {"kernel_init": self.pooled_init, "bias_init": nn.initializers.zeros}
        h = self.act(self._normalise(x, labels, "norm_0"))
        h = self._conv(h, x.shape[-1] if self.down else self.features, "conv_0", **fields)
        h = self.act(self._normalise(h, labels, "norm_1"))
        h = self._conv(h, self.features, "conv_1", **pooled)
        if pool:
            # A mean commutes with a 1x1 convolution, and pooling first is four times cheaper.
            h, x = naive_downsample_2d(h), naive_downsample_2d(x)
        if self.down:
            size = 1 if pool else 3
            x = self._conv(x, self.features, "shortcut", kernel_size=size, **pooled)
        return x + h


class ConvUnits(_Part):
    """Residual convolution units (RCU), each with two pairs of activation and convolution."""

    units: int

    @nn.compact
    def __call__(self, x: jax.Array, labels: Labels) -> jax.Array:
        """x: (B, H, W, C) -> the same shape."""
        for i in range(self.units):
            h = x
            for j in (2 * i, 2 * i + 1):
                h = self.act(self._normalise(h, labels, f"norm_{j}"))
                h = self._conv(h, x.shape[-1], f"conv_{j}", use_bias=False)
            x = x + h
        return x


class ChainedPooling(_Part):
    """Chained residual pooling (CRP): a pool over 5x5 pixels and a convolution, twice."""

    @nn.compact
    def __call__(self, x: jax.Array, labels: Labels) -> jax.Array:
        """x: (B, H, W, C) -> the same shape."""
        pool = nn.max_pool if self.norm is None else nn.avg_pool
        h = x = self.act(x)
        for i in range(2):
            h = pool(self._normalise(h, labels, f"norm_{i}"), (5, 5), padding="SAME")
            h = self._conv(h, x.shape[-1], f"conv_{i}", use_bias=False)
            x = x + h
        return x


class Fusion(_Part):
    """Multi-scale fusion (MSF): convolves all inputs, resizes them to the first and adds them.

    Attributes:
      features: channels of the output.
      resize: (x, (H, W)) -> x resized to (H, W).
    """

    features: int
    resize: Callable[[jax.Array, Sequence[int]], jax.Array]

    @nn.compact
    def __call__(self, xs: Sequence[jax.Array], labels: Labels) -> jax.Array:
        """Inputs (B, h, w, C) of different sizes -> (B, H, W, features), as large as the first."""
        hs = [
            self._conv(self._normalise(x, labels, f"norm_{i}"), self.features, f"conv_{i}")
            for i, x in enumerate(xs)
        ]
        shape = xs[0].shape[1:3]
        return sum(h if h.shape[1:3] == shape else self.resize(h, shape) for h in hs)


class RefineBlock(_Part):
    """Refines the features of a stage with the refined features of the next deeper stage.

    Attributes:
      features: channels of the output.
      resize: (x, (H, W)) -> x resized to (H, W).
      units: number of convolution units at the end.
    """

    features: int
    resize: Callable[[jax.Array, Sequence[int]], jax.Array]
    units: int = 1

    @nn.compact
    def __call__(self, xs: Sequence[jax.Array], labels: Labels) -> jax.Array:
        """One or two inputs (B, h, w, C) -> (B, H, W, features), of the first one's size."""
        common = (self.act, self.norm, self.dtype)
        hs = [ConvUnits(*common, 2, name=f"adapt_{i}")(x, labels) for i, x in enumerate(xs)]
        if len(hs) > 1:
            h = Fusion(*common, self.features, self.resize, name="fusion")(hs, labels)
        else:
            h = hs[0]
        h = ChainedPooling(*common, name="pooling")(h, labels)
        return ConvUnits(*common, self.units, name="output")(h, labels)


INTERPOLATIONS = {
    "bilinear": {"pytorch": resize_aligned, "jax": _resize("bilinear")},
    "nearest_neighbor": dict.fromkeys(("pytorch", "jax"), _resize("nearest")),
}
