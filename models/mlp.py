"""A residual multilayer perceptron for small arrays: points, states of a system, short series.

Every block sees all values at once, so the number of parameters grows with the number of values,
and the network knows nothing about neighbours. With nf=256 and num_res_blocks=5 it has the size of
the network that Rozet & Louppe 2023 (arXiv 2306.10574) train on windows of Lorenz 1963; theirs
appends the embedding of the noise level to its input, where this one adds it in every block.
"""

import math
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


class ResidualMLP(nn.Module):
    """Residual blocks of two dense layers, with layer normalisation, on the flattened array.

    Attributes:
      nf: width of all layers.
      num_res_blocks: number of blocks.
      nonlinearity: a row of `models.layers.NONLINEARITIES`.
      embedding_type: "fourier" (of the log of the labels) or "positional".
      fourier_scale: standard deviation of the Fourier frequencies.
      log_labels: whether to take the log of the labels before the Fourier features.
      num_classes: number of classes of a class-conditional network; 0 for an unconditional one.
      dropout: dropout rate in every block.
      init_scale: initial scale of the last layers of the blocks and of the network.
      dtype: type of the activations.
    """

    nf: int = 128
    num_res_blocks: int = 4
    nonlinearity: str = "swish"
    embedding_type: str = "fourier"
    fourier_scale: float = 16.0
    log_labels: bool = True
    num_classes: int = 0
    dropout: float = 0.0
    init_scale: float = 0.0
    dtype: Dtype = jnp.float32

    any_shape: ClassVar[bool] = True  # takes arrays of any shape, not only images

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonlinearity(self.nonlinearity)
        check_embedding(self.embedding_type)
        check_blocks(self.nf, self.num_res_blocks)
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
          x: (B, *S), of any shape.
          labels: (B,), sigma for Fourier embedding, time steps for positional embedding.
          train: whether dropout is active (it needs the rng "dropout").
          class_labels: (B,) integers in 0 ... num_classes, where num_classes stands for no class;
            None for no class in all examples.

        Returns:
          (B, *S), float32.

        Raises:
          ValueError: for class labels that are given to an unconditional network.
        """
        act, dtype = get_nonlinearity(self.nonlinearity), self.dtype
        temb = act(embed_noise_level(labels, class_labels, self, self.nf // 2, self.nf))
        size = math.prod(x.shape[1:])
        h = Dense(self.nf, dtype=dtype, name="dense_in")(x.reshape(len(x), size))
        for i in range(self.num_res_blocks):
            y = nn.LayerNorm(name=f"norm_{i}")(h.astype(jnp.float32)).astype(dtype)
            y = Dense(self.nf, dtype=dtype, name=f"block_{i}_dense_0")(y)
            y = act(y + Dense(self.nf, dtype=dtype, name=f"block_{i}_time")(temb))
            y = Dropout(self.dropout)(y, train)
            h = h + Dense(self.nf, self.init_scale, dtype, name=f"block_{i}_dense_1")(y)
        h = nn.LayerNorm(name="norm_out")(h.astype(jnp.float32)).astype(dtype)
        h = Dense(size, self.init_scale, dtype, name="dense_out")(act(h))
        return h.astype(jnp.float32).reshape(x.shape)
