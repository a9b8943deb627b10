"""The U-Net of score-based data assimilation, for images whose opposite edges are neighbours.

Source: Rozet & Louppe 2023 (arXiv 2306.10574), appendix D, and their code: residual blocks with
layer normalisation over channels, into which an embedding of the noise level is added; levels
joined by sums; circular padding. Their network for Kolmogorov flow has nf=96, ch_mult=(1, 2, 4) and
num_res_blocks=3. Unlike in theirs, the last convolution of a block starts as set by `init_scale`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from scorax.models.layers import (
    Conv,
    Dense,
    Dropout,
    Dtype,
    check_nonlinearity,
    get_nonlinearity,
)
from scorax.models.resampling import naive_upsample_2d
from scorax.models.unet import (
    check_classes,
    check_embedding,
    check_halvings,
    check_sizes,
    embed_noise_level,
)


class PeriodicUNet(nn.Module):
    """A U-Net on a torus.

    Attributes:
      nf: channels at full resolution, and width of the embedding of the noise level.
      ch_mult: channels / nf at each resolution, fine to coarse.
      num_res_blocks: residual blocks at each resolution, on the way down and on the way up.
      nonlinearity: a row of `models.layers.NONLINEARITIES`.
      embedding_type: "fourier" (of the log of the labels) or "positional".
      fourier_scale: standard deviation of the Fourier frequencies.
      log_labels: whether to take the log of the labels before the Fourier features.
      num_classes: number of classes of a class-conditional network; 0 for an unconditional one.
      dropout: dropout rate in every block.
      init_scale: initial scale of the last convolutions of the blocks and of the network.
      dtype: type of the activations.
    """

    nf: int = 96
    ch_mult: Sequence[int] = (1, 2, 4)
    num_res_blocks: int = 3
    nonlinearity: str = "swish"
    embedding_type: str = "fourier"
    fourier_scale: float = 16.0
    log_labels: bool = True
    num_classes: int = 0
    dropout: float = 0.0
    init_scale: float = 0.0
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonlinearity(self.nonlinearity)
        check_embedding(self.embedding_type)
        check_sizes(self.nf, self.ch_mult, self.num_res_blocks)
        check_classes(self.num_classes, True)

    def _norm(self, x: jax.Array) -> jax.Array:
        norm = nn.LayerNorm(epsilon=1e-5, use_bias=False, use_scale=False)
        return norm(x.astype(jnp.float32)).astype(self.dtype)

    def _conv(self, features: int, name: str, scale: float = 1.0, stride: int = 1) -> Conv:
        return Conv(
            features, stride=stride, init_scale=scale, dtype=self.dtype, periodic=True, name=name
        )

    def _block(self, x: jax.Array, temb: jax.Array, train: bool, name: str) -> jax.Array:
        """x + conv(act(conv(norm(x + dense(temb)))))."""
        features = x.shape[-1]
        shift = Dense(features, dtype=self.dtype, name=f"{name}_time")(temb)
        h = self._norm(x + shift[:, None, None, :])
        h = get_nonlinearity(self.nonlinearity)(self._conv(features, f"{name}_conv_0")(h))
        h = Dropout(self.dropout)(h, train)
        return x + self._conv(features, f"{name}_conv_1", self.init_scale)(h)

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
          x: (B, H, W, C), where H and W can be halved len(ch_mult) - 1 times.
          labels: (B,), sigma for Fourier embedding, time steps for positional embedding.
          train: whether dropout is active (it needs the rng "dropout").
          class_labels: (B,) integers in 0 ... num_classes, where num_classes stands for no class;
            None for no class in all examples.

        Returns:
          (B, H, W, C), float32.

        Raises:
          ValueError: for a size that does not fit, or class labels that are given to an
            unconditional network.
        """
        levels, channels = len(self.ch_mult), x.shape[-1]
        check_halvings(x, levels - 1, f"model.ch_mult={tuple(self.ch_mult)}")
        temb = embed_noise_level(labels, class_labels, self, self.nf // 2, self.nf)
        widths = [self.nf * m for m in self.ch_mult]
        h, skips = x.astype(self.dtype), []
        for i, width in enumerate(widths):
            h = self._conv(width, f"down_{i}_conv", stride=2 if i else 1)(h)
            for j in range(self.num_res_blocks):
                h = self._block(h, temb, train, f"down_{i}_block_{j}")
            skips.append(h)
        skips.pop()
        for i in reversed(range(levels)):
            for j in range(self.num_res_blocks):
                h = self._block(h, temb, train, f"up_{i}_block_{j}")
            if i:
                h = naive_upsample_2d(self._norm(h))
                h = self._conv(widths[i - 1], f"up_{i}_conv")(h) + skips.pop()
        return self._conv(channels, "out_conv", self.init_scale)(h).astype(jnp.float32)
