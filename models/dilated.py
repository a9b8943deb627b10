"""A residual network of dilated convolutions, for series.

Every state of a series is treated in the same way, and sees the others through convolutions whose
taps lie 1, 2, 4, ... states apart, as in DiffWave (Kong et al. 2021, arXiv 2009.09761), here
without gates. The number of parameters does not grow with the length of the series.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from scorax.models.layers import (
    Dense,
    Dropout,
    Dtype,
    check_nonlinearity,
    get_nonlinearity,
)
from scorax.models.unet import check_blocks, check_classes, check_embedding, embed_noise_level


class DilatedNet(nn.Module):
    """Residual blocks of a dilated convolution of three taps and a dense layer.

    Attributes:
      nf: channels of all layers.
      dilations: distance of the taps in each block of a cycle, in states.
      num_res_blocks: number of such cycles.
      nonlinearity: a row of `models.layers.NONLINEARITIES`.
      embedding_type: "fourier" (of the log of the labels) or "positional".
      fourier_scale: standard deviation of the Fourier frequencies.
      log_labels: whether to take the log of the labels before the Fourier features.
      num_classes: number of classes of a class-conditional network; 0 for an unconditional one.
      dropout: dropout rate in every block.
      init_scale: initial scale of the last layers of the blocks and of the network.
      dtype: type of the activations.
    """

    nf: int = 64
    dilations: Sequence[int] = (1, 2, 4, 8, 16)
    num_res_blocks: int = 2
    nonlinearity: str = "swish"
    embedding_type: str = "fourier"
    fourier_scale: float = 1.0
    log_labels: bool = True
    num_classes: int = 0
    dropout: float = 0.0
    init_scale: float = 0.0
    dtype: Dtype = jnp.float32

    any_shape: ClassVar[bool] = True  # takes arrays that are no images

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonlinearity(self.nonlinearity)
        check_embedding(self.embedding_type)
        check_blocks(self.nf, self.num_res_blocks)
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(
                f"model.dilations={tuple(self.dilations)} must be distances of at least 1"
            )
        check_classes(self.num_classes, True)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        labels: jax.Array,
        train: bool = False,
        class_labels: jax.Array | None = None,
    ) -> jax.Array:
        """Runs the network.

        Args:
          x: (B, L, C), series of any length; other arrays (B, ..., C) are read as one series.
          labels: (B,), sigma for Fourier embedding, time steps for positional embedding.
          train: whether dropout is active (it needs the rng "dropout").
          class_labels: (B,) integers in 0 ... num_classes, where num_classes stands for no class;
            None for no class in all examples.

        Returns:
          As x, float32.

        Raises:
          ValueError: for examples of a single axis, or class labels that are given to an
            unconditional network.
        """
        if x.ndim < 3:
            raise ValueError(
                f"model.name='dilated' takes series of shape (L, C), but the examples have the "
                f"shape {x.shape[1:]}"
            )
        shape = x.shape
        x = x.reshape(len(x), -1, shape[-1])
        act, dtype, channels = get_nonlinearity(self.nonlinearity), self.dtype, x.shape[-1]
        temb = act(embed_noise_level(labels, class_labels, self, self.nf // 2, self.nf))
        h = Dense(self.nf, dtype=dtype, name="dense_in")(x)
        for i, dilation in enumerate(tuple(self.dilations) * self.num_res_blocks):
            y = nn.LayerNorm(name=f"norm_{i}")(h.astype(jnp.float32)).astype(dtype)
            y = Dense(self.nf, dtype=dtype, name=f"block_{i}_dense_0")(neighbours(y, dilation))
            y = act(y + Dense(self.nf, dtype=dtype, name=f"block_{i}_time")(temb)[:, None])
            y = Dropout(self.dropout)(y, train)
            h = h + Dense(self.nf, self.init_scale, dtype, name=f"block_{i}_dense_1")(y)
        h = nn.LayerNorm(name="norm_out")(h.astype(jnp.float32)).astype(dtype)
        h = Dense(channels, self.init_scale, dtype, name="dense_out")(act(h))
        return h.astype(jnp.float32).reshape(shape)


def neighbours(x: jax.Array, distance: int) -> jax.Array:
    """(B, L, C) -> (B, L, 3 C): the states `distance` before, here and after, 0 outside."""
    length = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (distance, distance), (0, 0)))
    return jnp.concatenate([padded[:, :length], x, padded[:, 2 * distance :]], -1)
