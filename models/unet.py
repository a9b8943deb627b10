"""Parts of the U-Nets: residual blocks, resampling layers, and the embedding of a class.

Images are NHWC; embeddings of the noise level are (B, E). Default values are the ones of NCSN++.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from scorax.models import resampling
from scorax.models.layers import (
    Conv,
    Dense,
    Dropout,
    Dtype,
    FIRConv,
    GaussianFourier,
    GroupNorm,
    get_nonlinearity,
    positional_embedding,
    residual_sum,
)
from scorax.utils.tables import check_name

EMBEDDINGS = ("fourier", "positional")


class Resample(nn.Module):
    """Up- or downsampling by 2, with or without FIR filter and 3x3 convolution.

    Attributes:
      features: output channels of the convolution; 0 for as many as the input has.
    """

    up: bool
    with_conv: bool = False
    features: int = 0
    fir: bool = False
    fir_kernel: Sequence[float] = (1, 3, 3, 1)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> (B, 2 H, 2 W, C') or (B, H / 2, W / 2, C')."""
        features = self.features or x.shape[-1]
        if self.with_conv and self.fir:
            return FIRConv(features, self.up, self.fir_kernel, self.dtype, name="conv")(x)
        if self.with_conv and not self.up:
            return Conv(features, stride=2, dtype=self.dtype, name="conv")(x)
        x = resample(x, self.up, self.fir, self.fir_kernel)
        return Conv(features, dtype=self.dtype, name="conv")(x) if self.with_conv else x


def resample(x: jax.Array, up: bool, fir: bool, fir_kernel: Sequence[float]) -> jax.Array:
    """Doubles (`up`) or halves the resolution of x: (B, H, W, C), without parameters."""
    if fir:
        return (resampling.upsample_2d if up else resampling.downsample_2d)(x, fir_kernel)
    return (resampling.naive_upsample_2d if up else resampling.naive_downsample_2d)(x)


class ResnetBlock(nn.Module):
    """Residual block of BigGAN (Brock et al. 2019) or DDPM, conditioned by an added embedding.

    Attributes:
      features: channels of the output.
      resample: function applied to both branches after the first activation (BigGAN), or None.
      project_shortcut: True for a 1x1 convolution in the shortcut; False for one only if the number
        of channels changes.
      shortcut_scale: initial scale of that 1x1 convolution.
    """

    act: Callable[[jax.Array], jax.Array]
    features: int
    resample: Callable[[jax.Array], jax.Array] | None = None
    project_shortcut: bool = False
    shortcut_scale: float = 1.0
    dropout: float = 0.0
    skip_rescale: bool = True
    init_scale: float = 0.0
    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = GroupNorm

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array | None, train: bool) -> jax.Array:
        """x: (B, H, W, C), temb: (B, E) or None -> (B, H', W', features)."""
        dtype = self.dtype
        h = self.act(self.norm(dtype=dtype, name="norm_0")(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = Conv(self.features, dtype=dtype, name="conv_0")(h)
        if temb is not None:
            shift = Dense(self.features, name="temb")(self.act(temb)).astype(dtype)
            h = h + shift[:, None, None, :]
        h = self.act(self.norm(dtype=dtype, name="norm_1")(h))
        h = Dropout(self.dropout)(h, train)
        h = Conv(self.features, init_scale=self.init_scale, dtype=dtype, name="conv_1")(h)
        if self.project_shortcut or x.shape[-1] != self.features:
            x = Dense(self.features, self.shortcut_scale, dtype, name="shortcut")(x)
        return residual_sum(x, h, self.skip_rescale)


def embed_noise_level(
    labels: jax.Array,
    class_labels: jax.Array | None,
    net: nn.Module,
    frequencies: int,
    width: int,
) -> jax.Array:
    """The embedding of noise level and class, by two dense layers: (B, width).

    The function must be called inside a module, which gets the layers `time_fourier`,
    `time_dense_0`, `time_dense_1` and, if there are classes, `class_dense`.

    Args:
      labels: (B,), sigma for Fourier embedding, time steps for positional embedding.
      class_labels: see `add_class_embedding`.
      net: the network, with fields nf, nonlinearity, embedding_type, fourier_scale, log_labels and
        num_classes.
      frequencies: number of Fourier features; the positional embedding has nf values.
      width: width of the layers.
    """
    if net.embedding_type == "fourier":
        x = jnp.log(labels) if net.log_labels else labels
        temb = GaussianFourier(frequencies, net.fourier_scale, name="time_fourier")(x)
    else:
        temb = positional_embedding(labels, net.nf)
    temb = add_class_embedding(temb, class_labels, net.num_classes)
    temb = Dense(width, name="time_dense_0")(temb)
    return Dense(width, name="time_dense_1")(get_nonlinearity(net.nonlinearity)(temb))


def add_class_embedding(
    temb: jax.Array, class_labels: jax.Array | None, num_classes: int
) -> jax.Array:
    """Adds an embedding of the class to temb: (B, E), the embedding of the noise level.

    As in the networks of Karras et al. 2022, it is a dense layer of one-hot vectors of length
    sqrt(num_classes). No class is the zero vector, for which only the bias is added. The function
    must be called inside a module; if there are classes, that module gets the layer `class_dense`.

    Args:
      temb: (B, E).
      class_labels: (B,) integers in 0 ... num_classes, where num_classes stands for no class; None
        for no class in all examples.
      num_classes: number of classes; 0 for a network without classes.

    Returns:
      (B, E).

    Raises:
      ValueError: if class labels are given to a network without classes.
    """
    if num_classes == 0:
        if class_labels is not None:
            raise ValueError(
                "class labels are given to a network that is told no class; leave them out, or "
                "train a network with model.num_classes"
            )
        return temb
    if class_labels is None:
        class_labels = jnp.full(temb.shape[:1], num_classes)
    one_hot = jax.nn.one_hot(class_labels, num_classes) * math.sqrt(num_classes)
    return temb + Dense(temb.shape[1], name="class_dense")(one_hot)


def check_sizes(nf: int, ch_mult: Sequence[int], num_res_blocks: int) -> None:
    """Raises ValueError unless the numbers describe a possible U-Net."""
    if nf < 4 or not ch_mult or min(ch_mult) < 1 or num_res_blocks < 1:
        raise ValueError(
            f"model.nf={nf}, model.ch_mult={tuple(ch_mult)} and "
            f"model.num_res_blocks={num_res_blocks} must be at least 4, a tuple of positive "
            "numbers and 1"
        )


def check_blocks(nf: int, num_res_blocks: int) -> None:
    """Raises ValueError unless the numbers describe a possible network of residual blocks."""
    if nf < 4 or num_res_blocks < 1:
        raise ValueError(
            f"model.nf={nf} must be at least 4, and "
            f"model.num_res_blocks={num_res_blocks} at least 1"
        )


def check_classes(num_classes: int, conditional: bool) -> None:
    """Raises ValueError unless a network can have that many classes."""
    if num_classes < 0 or (num_classes and not conditional):
        raise ValueError(
            f"model.num_classes={num_classes} must be 0, or positive with model.conditional=True, "
            "because the class joins the embedding of the noise level"
        )


def check_embedding(embedding_type: str) -> None:
    """Raises ValueError unless `embed_noise_level` knows the embedding."""
    known = dict.fromkeys(EMBEDDINGS)
    check_name(known, embedding_type, "embedding (model.embedding_type)")


def check_halvings(x: jax.Array, times: int, asked_by: str) -> None:
    """Raises ValueError unless the images x: (B, H, W, C) can be halved `times` times."""
    height, width = x.shape[1:3]
    if height % 2**times or width % 2**times:
        size = height if height == width else (height, width)
        raise ValueError(
            f"data.image_size={size} cannot be halved {times} times, as {asked_by} asks; use "
            f"a multiple of {2**times}{'' if height == width else ' for both'}, or fewer levels"
        )
