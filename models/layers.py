"""Building blocks of the networks: convolution, norm, attention, noise-level embedding.

Images are NHWC. Parameters are float32, and `dtype` is the type of the activations; statistics,
softmax and embeddings are always computed in float32. The initialisers follow score_sde (Song et
al. 2021, appendix H; Ho et al. 2020).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scorax.models import resampling
from scorax.models.convolution import conv2d
from scorax.utils.tables import check_name, lookup

Dtype = Any


def uniform_init(bound: float) -> nn.initializers.Initializer:
    """Uniform in [-bound, bound]."""

    def init(rng: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
        n = math.prod(shape)
        # Compiling a draw takes 0.1 s for every new length, so lengths are rounded up to powers of
        # two: the hundred shapes of a network have only a dozen such lengths.
        u = jax.random.uniform(rng, (2 ** (n - 1).bit_length(),), dtype, -1.0, 1.0)
        return u[:n].reshape(shape) * bound

    return init


def default_init(scale: float = 1.0) -> nn.initializers.Initializer:
    """Uniform with variance scale / fan_avg; a scale of 0 stands for 1e-10, as in score_sde."""

    def init(rng: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
        fan_avg = math.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 2
        return uniform_init(math.sqrt(3 * (scale or 1e-10) / fan_avg))(rng, shape, dtype)

    return init


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds bias: (C,) to x: (..., C), in the type of x."""
    return x + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class Conv(nn.Module):
    """Convolution with SAME padding; for even sizes and `stride` 2, windows start at pixel 0.

    Attributes:
      init_scale: scale of the kernel's `default_init`; ignored if `kernel_init` is given.
      periodic: whether opposite edges are neighbours, instead of being padded with zeros; with
        `stride` 2, the windows are then centred on the pixels 0, 2, ....
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    init_scale: float = 1.0
    dtype: Dtype = jnp.float32
    dilation: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    periodic: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> (B, H / stride, W / stride, features)."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init or default_init(self.init_scale), shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.periodic:
            edge, (rows, columns) = self.kernel_size // 2, (n // self.stride for n in x.shape[1:3])
            x = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)), mode="wrap")
            h = conv2d(x, kernel, self.stride, self.dilation)
            first = edge if self.stride == 1 else 0
            h = h[:, first : first + rows, first : first + columns]
        else:
            h = conv2d(x, kernel, self.stride, self.dilation)
        if not self.use_bias:
            return h
        return add_bias(h, self.param("bias", self.bias_init, (self.features,)))


class FIRConv(nn.Module):
    """3x3 convolution fused with FIR up- or downsampling by 2."""

    features: int
    up: bool = False
    fir_kernel: Sequence[float] = (1, 3, 3, 1)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> (B, 2 H, 2 W, features), or (B, H / 2, W / 2, features)."""
        kernel = self.param("kernel", default_init(), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        resample = resampling.upsample_conv_2d if self.up else resampling.conv_downsample_2d
        return add_bias(
            resample(x.astype(self.dtype), kernel.astype(self.dtype), self.fir_kernel), bias
        )


class Dense(nn.Module):
    """Matrix product over the channels of vectors or images (a 1x1 convolution)."""

    features: int
    init_scale: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (..., C) -> (..., features)."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", default_init(self.init_scale), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        flat = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        return add_bias(flat @ kernel.astype(self.dtype), bias).reshape(*x.shape[:-1], -1)


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018), statistics in float32.

    Attributes:
      groups: number of groups; 0 stands for min(C // 4, 32).
    """

    epsilon: float = 1e-6
    dtype: Dtype = jnp.float32
    groups: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> the same shape."""
        c = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        groups = self.groups or min(c // 4, 32)
        if groups == 0 or c % groups:
            raise ValueError(
                f"GroupNorm: {c} channels do not split into {groups} groups; "
                "change model.nf or model.ch_mult"
            )
        return group_norm(x.astype(jnp.float32), scale, bias, groups, self.epsilon).astype(
            self.dtype
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, epsilon: float
) -> jax.Array:
    """Normalises x: (B, H, W, C) over space and the channels of each group; applies scale and bias.

    The backward pass is written by hand. It takes two sums over space and one pass over the image,
    where automatic differentiation takes six sums and three passes.
    """
    return _group_norm_forward(x, scale, bias, groups, epsilon)[0]


def _group_mean(sums: jax.Array, x: jax.Array, groups: int) -> jax.Array:
    """Turns sums over space (B, C) into means over space and group (B, C), equal within a group."""
    b, h, w, c = x.shape
    mean = jnp.sum(sums.reshape(b, groups, -1), 2, keepdims=True) / (h * w * c // groups)
    return jnp.broadcast_to(mean, (b, groups, c // groups)).reshape(b, c)


def _group_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, epsilon: float
) -> tuple[jax.Array, tuple]:
    mean = _group_mean(jnp.sum(x, (1, 2)), x, groups)
    var = _group_mean(jnp.sum(jnp.square(x), (1, 2)), x, groups) - jnp.square(mean)
    rstd = lax.rsqrt(jnp.maximum(var, 0.0) + epsilon)
    a = rstd * scale[None]
    y = x * a[:, None, None, :] + (bias[None] - mean * a)[:, None, None, :]
    return y, (x, scale, mean, rstd)


def _group_norm_backward(
    groups: int, epsilon: float, residuals: tuple, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, rstd = residuals
    g_sum = jnp.sum(g, (1, 2))
    g_xhat_sum = rstd * (jnp.sum(g * x, (1, 2)) - mean * g_sum)  # xhat = (x - mean) rstd
    # dx = rstd (scale g - group_mean(scale g) - xhat group_mean(scale g xhat)), as one affine map.
    m_1 = _group_mean(scale[None] * g_sum, x, groups)
    m_2 = _group_mean(scale[None] * g_xhat_sum, x, groups)
    of_g, of_x = rstd * scale[None], -(rstd**2) * m_2
    shift = -rstd * m_1 - mean * of_x
    dx = g * of_g[:, None, None, :] + x * of_x[:, None, None, :] + shift[:, None, None, :]
    return dx, jnp.sum(g_xhat_sum, 0), jnp.sum(g_sum, 0)


group_norm.defvjp(_group_norm_forward, _group_norm_backward)


class InstanceNorm(nn.Module):
    """Normalises each channel over space, then applies scale and bias (Ulyanov et al. 2016).

    Attributes:
      affine: whether the layer has scale and bias.
    """

    affine: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> the same shape."""
        h = _standardise(x.astype(jnp.float32), (1, 2))
        if self.affine:
            c = x.shape[-1]
            h = _per_channel(self.param("scale", nn.initializers.ones, (c,))) * h
            h = h + _per_channel(self.param("bias", nn.initializers.zeros, (c,)))
        return h.astype(self.dtype)


class VarianceNorm(nn.Module):
    """Divides each channel by its standard deviation over space; the mean is not subtracted.

    Attributes:
      ddof: the divisor of the variance is the number of pixels minus ddof.
    """

    ddof: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> the same shape."""
        x = x.astype(jnp.float32)
        scale = self.param("scale", _near_one, (x.shape[-1],))
        var = jnp.var(x, (1, 2), ddof=self.ddof, keepdims=True)
        return (_per_channel(scale) * x * lax.rsqrt(var + 1e-5)).astype(self.dtype)


class InstanceNormPlus(nn.Module):
    """InstanceNorm++ (Song & Ermon 2019, appendix A), which keeps information about the means.

    The result is gamma (xhat + alpha mhat) + beta, where xhat is the image normalised over space
    and mhat are the means of the channels, normalised over the channels. In the conditional form of
    NCSN, gamma, alpha and beta come, in this order, from one embedding of 3 C features.

    Attributes:
      ddof: the divisor of the variance of the means is C - ddof.
      num_classes: number of noise levels of the conditional form; 0 for the unconditional form.
    """

    ddof: int = 0
    num_classes: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """x: (B, H, W, C), labels: (B,) integers, for the conditional form only -> shape of x."""
        x = x.astype(jnp.float32)
        c = x.shape[-1]
        if self.num_classes:
            table = self.param("embedding", _embedding_init, (self.num_classes, 3 * c))
            gamma, alpha, beta = (a[:, None, None, :] for a in jnp.split(table[labels], 3, -1))
        else:
            gamma = _per_channel(self.param("gamma", _near_one, (c,)))
            alpha = _per_channel(self.param("alpha", _near_one, (c,)))
            beta = _per_channel(self.param("beta", nn.initializers.zeros, (c,)))
        means = _standardise(jnp.mean(x, (1, 2), keepdims=True), -1, self.ddof)
        return (gamma * (_standardise(x, (1, 2)) + alpha * means) + beta).astype(self.dtype)


def _per_channel(a: jax.Array) -> jax.Array:
    """a: (C,) -> (1, 1, 1, C)."""
    return a[None, None, None]


def _standardise(x: jax.Array, axes: int | tuple[int, ...], ddof: int = 0) -> jax.Array:
    var = jnp.var(x, axes, ddof=ddof, keepdims=True)
    return (x - jnp.mean(x, axes, keepdims=True)) * lax.rsqrt(var + 1e-5)


def _near_one(rng: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
    return 1 + 0.02 * jax.random.normal(rng, shape, dtype)


def _embedding_init(rng: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
    c = shape[1] // 3
    return jnp.concatenate(
        [_near_one(rng, (shape[0], 2 * c), dtype), jnp.zeros((shape[0], c), dtype)], 1
    )


def get_normalization(name: str, original: str) -> Callable[..., nn.Module]:
    """Returns the constructor `norm(dtype=..., name=...)` of a norm as in one of the originals.

    Args:
      name: a row of `NORMALIZATIONS`.
      original: "pytorch" or "jax".

    Raises:
      ValueError: for an unknown name or original.
    """
    row = lookup(NORMALIZATIONS, name, "normalization (model.normalization)")
    return lookup(row, original, "original (model.original)")


def check_normalization(name: str, original: str) -> None:
    """Raises ValueError unless `get_normalization` knows the name and the original."""
    row = lookup(NORMALIZATIONS, name, "normalization (model.normalization)")
    check_name(row, original, "original (model.original)")


class Dropout(nn.Module):
    """Dropout that draws 16 random bits per element, where Flax draws 32.

    Drawing random numbers is most of the cost of dropout. The rate is rounded to a multiple of
    2^-16, and the remaining elements are scaled for the rounded rate, so the mean does not change.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: (*S, C) -> same shape; if `train`, drops elements, which needs the rng "dropout"."""
        if not train or self.rate == 0:
            return x
        channels = x.shape[-1]
        shape = (*x.shape[:-1], (channels + 1) // 2)
        words = jax.random.bits(self.make_rng("dropout"), shape, jnp.uint32)
        bits = jnp.concatenate([words & 0xFFFF, words >> 16], -1)[..., :channels]
        kept = round((1 - self.rate) * 2**16)  # how many of the 2^16 possible values are kept
        return jnp.where(bits < kept, x * (2**16 / kept), 0)


class Attention(nn.Module):
    """Single-head self-attention over all pixels, with a residual connection."""

    skip_rescale: bool = True
    init_scale: float = 0.0
    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = GroupNorm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> the same shape."""
        b, height, width, c = x.shape
        h = self.norm(dtype=self.dtype, name="norm")(x).reshape(b, height * width, c)
        # score_sde initialises these three with scale 0.1.
        q, k, v = (Dense(c, 0.1, self.dtype, name=name)(h) for name in "qkv")
        logits = jnp.einsum("bic,bjc->bij", q, k).astype(jnp.float32) * c**-0.5
        h = jnp.einsum("bij,bjc->bic", nn.softmax(logits).astype(self.dtype), v)
        h = Dense(c, self.init_scale, self.dtype, name="out")(h).reshape(x.shape)
        return residual_sum(x, h, self.skip_rescale)


def residual_sum(x: jax.Array, h: jax.Array, rescale: bool) -> jax.Array:
    """Returns x + h, times 1/sqrt(2) if `rescale`, which keeps the variance."""
    return (x + h) * math.sqrt(0.5) if rescale else x + h


class GaussianFourier(nn.Module):
    """Random Fourier features of a scalar (Tancik et al. 2020), with fixed frequencies.

    The frequencies are stored as a parameter, so that they are saved with the network, but they are
    not trained.
    """

    features: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B,) -> (B, 2 features): sines, then cosines."""
        w = self.param("W", nn.initializers.normal(self.scale), (self.features,))
        phase = x[:, None] * lax.stop_gradient(w)[None, :] * 2 * jnp.pi
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], -1)


def positional_embedding(t: jax.Array, features: int, max_period: float = 10_000.0) -> jax.Array:
    """Sinusoidal embedding of t: (B,) -> (B, features): sines, then cosines (Ho et al. 2020)."""
    half = features // 2
    frequencies = jnp.exp(-math.log(max_period) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    phase = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    embedding = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], -1)
    return jnp.pad(embedding, ((0, 0), (0, features % 2)))


def sigmas_at(sigmas: Sequence[float], labels: jax.Array) -> jax.Array:
    """Returns the noise levels (B,) at the indices labels: (B,)."""
    return jnp.asarray(np.asarray(sigmas, np.float32))[labels.astype(jnp.int32)]


def get_nonlinearity(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation function of that name.

    Raises:
      ValueError: for an unknown name.
    """
    return lookup(NONLINEARITIES, name.lower(), "nonlinearity (model.nonlinearity)")


def check_nonlinearity(name: str) -> None:
    """Raises ValueError unless `get_nonlinearity` knows the name."""
    check_name(NONLINEARITIES, name.lower(), "nonlinearity (model.nonlinearity)")


NONLINEARITIES = {
    "elu": nn.elu,
    "relu": nn.relu,
    "lrelu": lambda x: nn.leaky_relu(x, 0.2),
    "swish": nn.swish,
}
# The norms of score_sde's PyTorch and JAX versions differ: in PyTorch, InstanceNorm has no
# parameters, and variances divide by n - 1.
NORMALIZATIONS = {
    "GroupNorm": dict.fromkeys(("pytorch", "jax"), functools.partial(GroupNorm, groups=32)),
    "InstanceNorm": {
        "pytorch": functools.partial(InstanceNorm, affine=False),
        "jax": InstanceNorm,
    },
    "VarianceNorm": {"pytorch": functools.partial(VarianceNorm, ddof=1), "jax": VarianceNorm},
    "InstanceNorm++": {
        "pytorch": functools.partial(InstanceNormPlus, ddof=1),
        "jax": InstanceNormPlus,
    },
}
