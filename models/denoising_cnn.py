"""A small convolutional network for the score at one fixed noise level, which is not an input.

It is the denoiser of a course project on score-based data assimilation: 3x3 convolutions with ReLU
between them, 3 -> 64 -> 128 -> 3 channels, and PyTorch's default initialisation. Each output pixel
depends on 7x7 input pixels. Images are NHWC, of any size.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from scorax.models.layers import Conv, Dtype, uniform_init


class DenoisingCNN(nn.Module):
    """Convolutions from image to image; `labels` and `train` are ignored.

    Attributes:
      nf, ch_mult: the hidden layers have nf times each number of ch_mult channels.
      dtype: type of the activations.
    """

    embedding_type: ClassVar[str] = "none"

    nf: int = 64
    ch_mult: tuple[int, ...] = (1, 2)
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nf < 1 or not self.ch_mult or min(self.ch_mult) < 1:
            raise ValueError(
                f"model.nf={self.nf} and model.ch_mult={tuple(self.ch_mult)} must be positive, "
                "with at least one number in ch_mult"
            )

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
        """x: (B, H, W, C), labels: (B,) -> (B, H, W, C), float32."""

        def conv(name: str, h: jax.Array, features: int) -> jax.Array:
            init = uniform_init((9 * h.shape[-1]) ** -0.5)
            layer = Conv(features, dtype=self.dtype, kernel_init=init, bias_init=init, name=name)
            return layer(h)

        h = x
        for i, multiple in enumerate(self.ch_mult):
            h = nn.relu(conv(f"conv_{i}", h, self.nf * multiple))
        return conv("conv_out", h, x.shape[-1]).astype(jnp.float32)
