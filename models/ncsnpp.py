"""NCSN++ and, with other settings, DDPM++ (Song et al. 2021, section 4.3 and appendix H).

It is a U-Net of residual blocks over a pyramid of resolutions, with the published settings.
Parameters are named by their place in the network: `down_0_block_1`, `mid_attn`, `up_2_upsample`,
... Images are NHWC. The network does not depend on the SDE: `models.utils` defines what the
conditioning input `labels` means.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from scorax.models.layers import (
    Attention,
    Conv,
    Dense,
    Dtype,
    GroupNorm,
    check_nonlinearity,
    get_nonlinearity,
    residual_sum,
    sigmas_at,
)
from scorax.models.unet import (
    Resample,
    ResnetBlock,
    check_classes,
    check_halvings,
    check_sizes,
    embed_noise_level,
    resample,
)
from scorax.utils.arrays import batch_mul


class NCSNpp(nn.Module):
    """The noise-conditional score network.

    Attributes:
      nf: channels at full resolution.
      ch_mult: channels divided by nf at each resolution, fine to coarse.
      num_res_blocks: residual blocks per resolution on the way down; one more on the way up.
      attn_resolutions: image heights at which attention is used; the middle always uses it.
      nonlinearity: a row of `models.layers.NONLINEARITIES`.
      resblock_type: "biggan" (blocks resample inside) or "ddpm" (separate resampling layers).
      resamp_with_conv: whether the separate resampling layers have a convolution.
      fir, fir_kernel: whether to resample with a FIR filter, and its taps; without it, by means and
        nearest neighbours.
      skip_rescale: whether residual sums are scaled by 1/sqrt(2).
      progressive: output pyramid, "none", "output_skip" or "residual".
      progressive_input: input pyramid, "none", "input_skip" or "residual".
      progressive_combine: how the input pyramid joins the features, "sum" or "cat".
      embedding_type: "fourier" (of the log of the labels) or "positional".
      fourier_scale: standard deviation of the Fourier frequencies.
      log_labels: whether to take the log of the labels before the Fourier features; False if the
        labels are logs already.
      conditional: whether the network uses the labels.
      num_classes: number of classes of a class-conditional network; 0 for an unconditional one.
      dropout: dropout rate in every residual block.
      init_scale: initial scale of the last convolutions.
      centered: True if the input is in [-1, 1]; False if it is in [0, 1] (it is then mapped to
        [-1, 1] first).
      scale_by_sigma: divide the output by the noise level, which is the labels themselves for
        Fourier embedding and `sigmas[labels]` for positional embedding.
      sigmas: noise levels in the order of the integer labels, for `scale_by_sigma`.
      dtype: type of the activations.
      remat: recompute blocks in the backward pass instead of storing their activations.
    """

    nf: int = 128
    ch_mult: Sequence[int] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: Sequence[int] = (16,)
    nonlinearity: str = "swish"
    resblock_type: str = "biggan"
    resamp_with_conv: bool = True
    fir: bool = True
    fir_kernel: Sequence[float] = (1, 3, 3, 1)
    skip_rescale: bool = True
    progressive: str = "none"
    progressive_input: str = "none"
    progressive_combine: str = "sum"
    embedding_type: str = "fourier"
    fourier_scale: float = 16.0
    log_labels: bool = True
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
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"model.{field}={getattr(self, field)!r} is unknown; "
                    f"choose from: {', '.join(choices)}"
                )
        check_sizes(self.nf, self.ch_mult, self.num_res_blocks)
        check_classes(self.num_classes, self.conditional)

    def _embed(self, labels: jax.Array, class_labels: jax.Array | None) -> jax.Array | None:
        """Embedding (B, 4 nf) of noise level and class; None for an unconditional network."""
        if not self.conditional:
            return None
        return embed_noise_level(labels, class_labels, self, self.nf, 4 * self.nf)

    def _resampler(self, up: bool, with_conv: bool, features: int, name: str) -> Resample:
        return Resample(up, with_conv, features, self.fir, self.fir_kernel, self.dtype, name=name)

    def _block(self, features: int, name: str, up: bool | None = None) -> Callable:
        """A residual block; it keeps the resolution, or doubles (`up`) or halves it (`not up`)."""
        biggan = self.resblock_type == "biggan"
        cls = nn.remat(ResnetBlock, static_argnums=(3,)) if self.remat else ResnetBlock
        return cls(
            get_nonlinearity(self.nonlinearity),
            features,
            None if up is None else lambda x: resample(x, up, self.fir, self.fir_kernel),
            project_shortcut=up is not None,
            shortcut_scale=1.0 if biggan else 0.1,
            dropout=self.dropout,
            skip_rescale=self.skip_rescale,
            init_scale=self.init_scale,
            dtype=self.dtype,
            name=name,
        )

    def _change_resolution(
        self, h: jax.Array, temb: jax.Array | None, train: bool, up: bool, name: str
    ) -> jax.Array:
        if self.resblock_type == "ddpm":
            return self._resampler(up, self.resamp_with_conv, h.shape[-1], name)(h)
        return self._block(h.shape[-1], name, up)(h, temb, train)

    def _attend(self, h: jax.Array, name: str) -> jax.Array:
        return Attention(self.skip_rescale, self.init_scale, self.dtype, name=name)(h)

    def _head(self, h: jax.Array, features: int, prefix: str, init_scale: float) -> jax.Array:
        """Norm, activation and 3x3 convolution from the hidden channels to `features` channels."""
        h = GroupNorm(dtype=self.dtype, name=f"{prefix}out_norm")(h)
        conv = Conv(features, init_scale=init_scale, dtype=self.dtype, name=f"{prefix}out_conv")
        return conv(get_nonlinearity(self.nonlinearity)(h))

    def _join_input(self, pyramid: jax.Array, h: jax.Array, level: str) -> tuple:
        """Downsamples the input pyramid and joins it with h; returns both."""
        if self.progressive_input == "none":
            return pyramid, h
        residual = self.progressive_input == "residual"
        shrink = self._resampler(False, residual, h.shape[-1], f"{level}pyramid")
        pyramid = shrink(pyramid)
        if residual:
            pyramid = residual_sum(pyramid, h, self.skip_rescale)
            return pyramid, pyramid
        projected = Dense(h.shape[-1], dtype=self.dtype, name=f"{level}combine")(pyramid)
        cat = self.progressive_combine == "cat"
        return pyramid, jnp.concatenate([projected, h], -1) if cat else projected + h

    def _join_output(
        self, pyramid: jax.Array | None, h: jax.Array, level: str, channels: int
    ) -> tuple:
        """Upsamples the output pyramid and joins it with h; returns both."""
        if self.progressive == "none":
            return None, h
        skip = self.progressive == "output_skip"
        if pyramid is None:
            head = self._head(
                h, channels if skip else h.shape[-1], level, self.init_scale if skip else 1.0
            )
            return head, h
        grow = self._resampler(True, not skip, h.shape[-1], f"{level}pyramid")
        if skip:
            return grow(pyramid) + self._head(h, channels, level, self.init_scale), h
        pyramid = residual_sum(grow(pyramid), h, self.skip_rescale)
        return pyramid, pyramid

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
          labels: (B,), sigma for Fourier embedding; time steps (not necessarily whole numbers) or
            indices into `sigmas` for positional embedding.
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

        pyramid = x
        hs = [h := Conv(self.nf, dtype=self.dtype, name="conv_in")(x)]
        for i, width in enumerate(widths):
            for j in range(self.num_res_blocks):
                h = self._block(width, f"down_{i}_block_{j}")(h, temb, train)
                if h.shape[1] in self.attn_resolutions:
                    h = self._attend(h, f"down_{i}_attn_{j}")
                hs.append(h)
            if i < levels - 1:
                h = self._change_resolution(h, temb, train, False, f"down_{i}_downsample")
                pyramid, h = self._join_input(pyramid, h, f"down_{i}_")
                hs.append(h)

        h = self._block(h.shape[-1], "mid_block_0")(h, temb, train)
        h = self._attend(h, "mid_attn")
        h = self._block(h.shape[-1], "mid_block_1")(h, temb, train)

        pyramid = None
        for i, width in reversed(list(enumerate(widths))):
            for j in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, hs.pop()], -1)
                h = self._block(width, f"up_{i}_block_{j}")(h, temb, train)
            if h.shape[1] in self.attn_resolutions:
                h = self._attend(h, f"up_{i}_attn")
            pyramid, h = self._join_output(pyramid, h, f"up_{i}_", channels)
            if i > 0:
                h = self._change_resolution(h, temb, train, True, f"up_{i}_upsample")

        h = (
            pyramid
            if self.progressive == "output_skip"
            else self._head(h, channels, "", self.init_scale)
        )
        h = h.astype(jnp.float32)
        if not self.scale_by_sigma:
            return h
        fourier = self.embedding_type == "fourier"
        return batch_mul(1 / (labels if fourier else sigmas_at(self.sigmas, labels)), h)


CHOICES = {
    "resblock_type": ("biggan", "ddpm"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "embedding_type": ("fourier", "positional"),
}
