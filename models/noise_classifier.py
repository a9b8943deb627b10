"""A small noise-conditional classifier of digits and other small images.

Under strong noise, classes can be told apart only by sums over the whole image, which local
convolutions and spatial means lose. The last layers therefore see every position: both of the
features of a residual network at a quarter of the resolution, and of the image itself. The network
has 314,000 parameters for images of 28 pixels.

It is called in the same way as the classifier of `models.wideresnet`. The judge (`metrics.judge`)
is another network, a classifier of clean images.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from scorax.models.layers import Conv, Dense, Dropout, Dtype, GaussianFourier, GroupNorm
from scorax.models.resampling import naive_downsample_2d
from scorax.models.unet import ResnetBlock, check_halvings, check_sizes
from scorax.models.wideresnet import check_num_classes, standardise_images


class NoiseClassifier(nn.Module):
    """Residual blocks from half the resolution on, and two dense layers.

    Attributes:
      num_classes: number of classes.
      nf: channels at half the resolution. The embedding of the noise level, and the features that
        are computed directly from the image, have 4 nf numbers each.
      ch_mult: channels divided by nf at each resolution, from half the resolution to the coarsest.
      num_res_blocks: residual blocks per resolution.
      fourier_scale: standard deviation of the Fourier frequencies of the noise level.
      dropout: dropout rate in every residual block and before the last layer.
      centered: True if the input is in [-1, 1], False if it is in [0, 1]. It is not used, because
        each image is standardised.
      dtype: type of the activations.
    """

    num_classes: int = 10
    nf: int = 16
    ch_mult: Sequence[int] = (1, 2)
    num_res_blocks: int = 1
    fourier_scale: float = 1.0
    dropout: float = 0.0
    centered: bool = False
    dtype: Dtype = jnp.float32

    embedding_type: ClassVar[str] = "fourier"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_num_classes(self.num_classes)
        check_sizes(self.nf, self.ch_mult, self.num_res_blocks)

    def _features(self, x: jax.Array, temb: jax.Array, train: bool) -> jax.Array:
        """Features of x: (B, H, W, C) at every position of the coarsest resolution: (B, F)."""
        dtype = self.dtype
        h = Conv(self.nf, stride=2, dtype=dtype, name="conv_in")(x)
        for i, mult in enumerate(self.ch_mult):
            for j in range(self.num_res_blocks):
                down = naive_downsample_2d if i and j == 0 else None
                block = ResnetBlock(
                    nn.swish,
                    mult * self.nf,
                    down,
                    dropout=self.dropout,
                    dtype=dtype,
                    name=f"block_{i}_{j}",
                )
                h = block(h, temb, train)
        h = nn.swish(GroupNorm(dtype=dtype, name="norm_out")(h))
        return h.reshape(len(h), -1)

    @nn.compact
    def __call__(self, x: jax.Array, sigma: jax.Array, train: bool = False) -> jax.Array:
        """Classifies noisy images.

        Args:
          x: (B, H, W, C), data plus noise.
          sigma: (B,), standard deviation of the noise.
          train: whether dropout is active (it needs the rng "dropout").

        Returns:
          (B, num_classes), logits in float32.
        """
        check_halvings(x, len(self.ch_mult), "model.ch_mult")
        width = 4 * self.nf
        temb = GaussianFourier(self.nf, self.fourier_scale, name="time_fourier")(jnp.log(sigma))
        temb = nn.swish(Dense(width, name="time_dense_0")(temb))
        temb = Dense(width, name="time_dense_1")(temb)
        x = standardise_images(x)
        pixels = Dense(width, name="pixels")(x.reshape(len(x), -1))
        pixels = nn.swish(_modulate(pixels, temb, "pixels_temb"))
        h = self._features(x, temb, train).astype(jnp.float32)
        h = Dense(2 * width, name="hidden")(jnp.concatenate([h, pixels], -1))
        h = nn.swish(_modulate(h, temb, "hidden_temb"))
        return Dense(self.num_classes, name="logits")(Dropout(self.dropout)(h, train))


def _modulate(h: jax.Array, temb: jax.Array, name: str) -> jax.Array:
    """Scales and shifts h: (B, F) by projections of temb: (B, E); to be called inside a module."""
    scale, shift = jnp.split(Dense(2 * h.shape[1], name=name)(nn.swish(temb)), 2, -1)
    return h * (1 + scale) + shift
