"""The network of DDPM (Ho et al. 2020), as in score_sde.

A U-Net of residual blocks with attention; on the way up attention comes once a resolution, after
the blocks, where Ho et al. have it after each. Parameters carry names by place, as in `NCSNpp`.
Images are NHWC; what the labels mean is decided by `models.utils`.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from scorax.models.layers import (
    Attention,
    Conv,
    Dense,
    Dtype,
    get_nonlinearity,
    get_normalization,
    noise_levels,
    positional_embedding,
)
from scorax.models.unet import (
    Resample,
    ResnetBlock,
    add_class_embedding,
    check_classes,
    check_halvings,
    check_sizes,
)
from scorax.utils.arrays import batch_mul


class DDPM(nn.Module):
    """The network of DDPM.

    Attributes:
      nf: channels at full resolution.
      ch_mult: channels divided by nf at each resolution, fine to coarse.
      num_res_blocks: residual blocks a resolution on the way down; one more on the way up.
      attn_resolutions: image heights at which attention is used; the middle always has it.
      nonlinearity: a row of `models.layers.NONLINEARITIES`.
      normalization: a row of `models.layers.NORMALIZATIONS`, in its JAX form (the PyTorch original
        always has GroupNorm).
      resamp_with_conv: a convolution in the layers that halve and double the resolution.
      conditional: use the labels at all.
      num_classes: classes that the network is told of; 0: none.
      dropout: rate in every residual block.
      init_scale: initial scale of the last convolutions.
      centered: the input is in [-1, 1]; else it is in [0, 1] and is mapped to [-1, 1] first.
      scale_by_sigma: divide the output by `sigmas[labels]`.
      sigmas: noise levels in the order of the integer labels, for that purpose.
      dtype: of the activations.
      remat: recompute blocks in the backward pass instead of storing their activations.
    """

    embedding_type: ClassVar[str] = "positional"

    nf: int = 128
    ch_mult: Sequence[int] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attn_resolutions: Sequence[int] = (16,)
    nonlinearity: str = "swish"
    normalization: str = "GroupNorm"
    resamp_with_conv: bool = True
    conditional: bool = True
    num_classes: int = 0
    dropout: float = 0.1
    init_scale: float = 0.0
    centered: bool = False
    scale_by_sigma: bool = False
    sigmas: tuple[float, ...] | None = None
    dtype: Dtype = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        get_nonlinearity(self.nonlinearity)
        self._norm()
        check_sizes(self.nf, self.ch_mult, self.num_res_blocks)
        check_classes(self.num_classes, self.conditional)

    def _embed(self, labels: jax.Array, class_labels: jax.Array | None) -> jax.Array | None:
        """Embedding (B, 4 nf) of noise level and class, or None for an unconditional network."""
        if not self.conditional:
            return None
        temb = positional_embedding(labels, self.nf)
        temb = add_class_embedding(temb, class_labels, self.num_classes)
        temb = Dense(4 * self.nf, name="time_dense_0")(temb)
        return Dense(4 * self.nf, name="time_dense_1")(get_nonlinearity(self.nonlinearity)(temb))

    def _norm(self) -> Callable[..., nn.Module]:
        return get_normalization(self.normalization, "jax")

    def _block(self, features: int, name: str) -> Callable:
        cls = nn.remat(ResnetBlock, static_argnums=(3,)) if self.remat else ResnetBlock
        return cls(
            get_nonlinearity(self.nonlinearity),
            features,
            shortcut_scale=0.1,
            dropout=self.dropout,
            skip_rescale=False,
            init_scale=self.init_scale,
            dtype=self.dtype,
            norm=self._norm(),
            name=name,
        )

    def _attend(self, h: jax.Array, name: str) -> jax.Array:
        return Attention(False, self.init_scale, self.dtype, self._norm(), name=name)(h)

    def _resample(self, up: bool, name: str) -> Resample:
        return Resample(up, self.resamp_with_conv, dtype=self.dtype, name=name)

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
          x: (B, H, W, C) images.
          labels: (B,) time steps (not necessarily whole), or indices into `sigmas`.
          train: whether dropout is on (it needs the rng "dropout").
          class_labels: (B,) integers in 0 ... num_classes, the last for no class; None: no class.

        Returns:
          (B, H, W, C), float32.

        Raises:
          ValueError: if H or W cannot be halved len(ch_mult) - 1 times, and for class labels where
            there are no classes.
        """
        levels, channels = len(self.ch_mult), x.shape[-1]
        check_halvings(x, levels - 1, f"model.ch_mult={tuple(self.ch_mult)}")
        widths = [self.nf * m for m in self.ch_mult]
        temb = self._embed(labels, class_labels)
        x = (x if self.centered else 2 * x - 1).astype(self.dtype)

        hs = [h := Conv(self.nf, dtype=self.dtype, name="conv_in")(x)]
        for i, width in enumerate(widths):
            for j in range(self.num_res_blocks):
                h = self._block(width, f"down_{i}_block_{j}")(h, temb, train)
                if h.shape[1] in self.attn_resolutions:
                    h = self._attend(h, f"down_{i}_attn_{j}")
                hs.append(h)
            if i < levels - 1:
                h = self._resample(False, f"down_{i}_downsample")(h)
                hs.append(h)

        h = self._block(width, "mid_block_0")(h, temb, train)
        h = self._attend(h, "mid_attn")
        h = self._block(width, "mid_block_1")(h, temb, train)

        for i, width in reversed(list(enumerate(widths))):
            for j in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, hs.pop()], -1)
                h = self._block(width, f"up_{i}_block_{j}")(h, temb, train)
            if h.shape[1] in self.attn_resolutions:
                h = self._attend(h, f"up_{i}_attn")
            if i > 0:
                h = self._resample(True, f"up_{i}_upsample")(h)

        h = self._norm()(dtype=self.dtype, name="out_norm")(h)
        h = get_nonlinearity(self.nonlinearity)(h)
        h = Conv(channels, init_scale=self.init_scale, dtype=self.dtype, name="out_conv")(h)
        h = h.astype(jnp.float32)
        return batch_mul(1 / noise_levels(self.sigmas, labels), h) if self.scale_by_sigma else h
