"""The network of DDPM (Ho et al. 2020), as in score_sde.

It is a U-Net of residual blocks with attention. On the way up there is one attention layer per
resolution, after its blocks; Ho et al. have one after every block. Parameters are named by their
place in the network, as in `NCSNpp`. Images are NHWC; `models.utils` defines what the labels mean.
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
    check_nonlinearity,
    check_normalization,
    get_nonlinearity,
    get_normalization,
    positional_embedding,
    sigmas_at,
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
      num_res_blocks: residual blocks per resolution on the way down; one more on the way up.
      attn_resolutions: image heights at which attention is used; the middle always uses it.
      nonlinearity: a row of `models.layers.NONLINEARITIES`.
      normalization: a row of `models.layers.NORMALIZATIONS`, in its JAX form (the PyTorch original
        always uses GroupNorm).
      resamp_with_conv: whether the layers that halve and double the resolution have a convolution.
      conditional: whether the network uses the labels.
      num_classes: number of classes of a class-conditional network; 0 for an unconditional one.
      dropout: dropout rate in every residual block.
      init_scale: initial scale of the last convolutions.
      centered: True if the input is in [-1, 1]; False if it is in [0, 1] (it is then mapped to
        [-1, 1] first).
      scale_by_sigma: divide the output by `sigmas[labels]`.
      sigmas: noise levels in the order of the integer labels, for `scale_by_sigma`.
      dtype: type of the activations.
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
        check_nonlinearity(self.nonlinearity)
        check_normalization(self.normalization, "jax")
        check_sizes(self.nf, self.ch_mult, self.num_res_blocks)
        check_classes(self.num_classes, self.conditional)

    def _embed(self, labels: jax.Array, class_labels: jax.Array | None) -> jax.Array | None:
        """Embedding (B, 4 nf) of noise level and class; None for an unconditional network."""
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
          labels: (B,) time steps (not necessarily whole numbers), or indices into `sigmas`.
          train: whether dropout is active (it needs the rng "dropout").
          class_labels: (B,) integers in 0 ... num_classes, where num_classes stands for no class;
            None for no class in all examples.

        Returns:
          (B, H, W, C), float32.

        Raises:
          ValueError: if H or W cannot be halved len(ch_mult) - 1 times, or if class labels are
            given to a network without classes.
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
        return batch_mul(1 / sigmas_at(self.sigmas, labels), h) if self.scale_by_sigma else h
