"""The noise-conditional classifier of score_sde: a wide residual network given the noise level.

It is a WRN-28-10 (Zagoruyko & Komodakis 2016, arXiv 1605.07146) with pre-activation blocks.
Shortcuts pool and pad with zeros instead of convolving. Group normalisation replaces batch
normalisation, whose parameter names are kept. The noise level enters through Fourier features of
its logarithm; each block adds a projection of them between its convolutions (Song et al. 2021,
arXiv 2011.13456, appendix I.1). Parameters have the same paths as the published ones, which load
without conversion.

A noise-conditional classifier is called as `classifier(x, sigma, train) -> logits`, where x: (B, H,
W, C) are images with added noise of standard deviation sigma: (B,).
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from scorax.models.layers import Conv, Dense, Dtype, GaussianFourier, GroupNorm, uniform_init
from scorax.models.unet import check_halvings, check_sizes

CIFAR10_MEAN = (0.49139968, 0.48215841, 0.44653091)  # of R, G and B, in the range [0, 1]
CIFAR10_STD = (0.24703223, 0.24348513, 0.26158784)

_fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def check_num_classes(num_classes: int) -> None:
    """Raises ValueError for fewer than two classes."""
    if num_classes < 2:
        raise ValueError(
            f"model.num_classes={num_classes} of a classifier must be at least 2: the classes of "
            "the data"
        )


def standardise_images(x: jax.Array) -> jax.Array:
    """Scales each image of x: (B, H, W, C) to mean 0 and, unless it is constant, variance 1."""
    axes = tuple(range(1, x.ndim))
    var = jnp.maximum(jnp.var(x, axes, keepdims=True), 1 / x[0].size)
    return (x - jnp.mean(x, axes, keepdims=True)) / jnp.sqrt(var)


class WideResnetBlock(nn.Module):
    """Two convolutions, with the noise level in between, and a shortcut without parameters.

    Attributes:
      features: output channels, at least as many as input channels.
      stride: 1, or 2 to halve height and width.
      activate_shortcut: whether the shortcut starts after the first norm and activation.
    """

    features: int
    stride: int = 1
    activate_shortcut: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array) -> jax.Array:
        """x: (B, H, W, C), temb: (B, E) -> (B, H / stride, W / stride, features)."""
        h = _activate(x, "init_bn", self.dtype)
        shortcut = h if self.activate_shortcut else x
        h = _conv(self.features, "conv1", self.dtype, self.stride)(h)
        h = h + Dense(self.features, name="Dense_0")(nn.swish(temb)).astype(h.dtype)[:, None, None]
        h = _conv(self.features, "conv2", self.dtype)(_activate(h, "bn_2", self.dtype))
        if self.stride > 1:
            shortcut = nn.avg_pool(shortcut, (2, 2), (2, 2))
        missing = self.features - shortcut.shape[-1]
        return h + jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, missing)))


def _conv(features: int, name: str, dtype: Dtype, stride: int = 1) -> Conv:
    init = _fan_out_normal
    return Conv(features, 3, stride, dtype=dtype, use_bias=False, kernel_init=init, name=name)


def _activate(x: jax.Array, name: str, dtype: Dtype) -> jax.Array:
    return nn.relu(GroupNorm(epsilon=1e-5, dtype=dtype, name=name)(x))


class WideResnetGroup(nn.Module):
    """The blocks of one resolution; the first block changes width and resolution.

    Attributes:
      num_blocks: number of blocks.
      features: channels of all blocks.
      stride, activate_shortcut: fields of the first block; see `WideResnetBlock`.
    """

    num_blocks: int
    features: int
    stride: int = 1
    activate_shortcut: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array) -> jax.Array:
        """x: (B, H, W, C), temb: (B, E) -> (B, H / stride, W / stride, features)."""
        for i in range(self.num_blocks):
            first = i == 0
            x = WideResnetBlock(
                self.features,
                stride=self.stride if first else 1,
                activate_shortcut=self.activate_shortcut and first,
                dtype=self.dtype,
                name=f"WideResnetBlock_{i}",
            )(x, temb)
        return x


class WideResnet(nn.Module):
    """The classifier; the defaults are WRN-28-10.

    Attributes:
      num_classes: number of classes.
      nf: channels of the first convolution.
      ch_mult: channels divided by nf at each resolution, fine to coarse; they must not decrease.
      num_res_blocks: residual blocks per resolution.
      embedding_features: number of Fourier frequencies of the noise level; the embedding has four
        times as many numbers.
      fourier_scale: standard deviation of the Fourier frequencies.
      color_mean, color_std: means and standard deviations of the channels of data in [0, 1], used
        to normalise the channels; () for no such step. score_sde uses CIFAR10_MEAN and CIFAR10_STD.
      centered: True if the input is in [-1, 1], False if it is in [0, 1].
      dtype: type of the activations.
    """

    num_classes: int = 10
    nf: int = 16
    ch_mult: Sequence[int] = (10, 20, 40)
    num_res_blocks: int = 4
    embedding_features: int = 128
    fourier_scale: float = 16.0
    color_mean: Sequence[float] = ()
    color_std: Sequence[float] = ()
    centered: bool = False
    dtype: Dtype = jnp.float32

    embedding_type: ClassVar[str] = "fourier"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_num_classes(self.num_classes)
        check_sizes(self.nf, self.ch_mult, self.num_res_blocks)
        if list(self.ch_mult) != sorted(self.ch_mult):
            raise ValueError(
                f"model.ch_mult={tuple(self.ch_mult)} of a wide residual network must not fall, "
                "because its shortcuts can add channels but not remove them"
            )

    def _normalise(self, x: jax.Array) -> jax.Array:
        """Normalises the colour channels, if so configured, and then each image."""
        counts = {len(values) for values in (self.color_mean, self.color_std)}
        if counts not in ({0}, {x.shape[-1]}):
            raise ValueError(
                f"model.color_mean={tuple(self.color_mean)} and color_std={tuple(self.color_std)} "
                f"need a number for each of the {x.shape[-1]} channels of the images, or must both "
                "be empty"
            )
        if self.color_mean:
            x = (x + 1) / 2 if self.centered else x
            mean, std = (
                jnp.asarray(c, x.dtype)[None, None, None] for c in (self.color_mean, self.color_std)
            )
            x = (x - mean) / std
        return standardise_images(x)

    @nn.compact
    def __call__(self, x: jax.Array, sigma: jax.Array, train: bool = False) -> jax.Array:
        """Classifies noisy images.

        Args:
          x: (B, H, W, C), data plus noise.
          sigma: (B,), standard deviation of the noise.
          train: ignored, because there is no dropout.

        Returns:
          (B, num_classes), logits in float32.
        """
        check_halvings(x, len(self.ch_mult) - 1, "model.ch_mult")
        width = 4 * self.embedding_features
        temb = GaussianFourier(
            self.embedding_features, self.fourier_scale, name="GaussianFourierProjection_0"
        )(jnp.log(sigma))
        temb = Dense(width, name="Dense_0")(temb)
        temb = Dense(width, name="Dense_1")(nn.swish(temb))
        h = _conv(self.nf, "init_conv", self.dtype)(self._normalise(x))
        for i, mult in enumerate(self.ch_mult):
            group = WideResnetGroup(
                self.num_res_blocks,
                mult * self.nf,
                stride=2 if i else 1,
                activate_shortcut=i == 0,
                dtype=self.dtype,
                name=f"WideResnetGroup_{i}",
            )
            h = group(h, temb)
        h = _activate(h, "pre-pool-bn", self.dtype)
        h = jnp.mean(h.astype(jnp.float32), (1, 2))
        init = uniform_init(self.num_classes**-0.5)
        return nn.Dense(self.num_classes, kernel_init=init, name="Dense_2")(h)
