"""NCSN (Song & Ermon 2019) and NCSNv2 (Song & Ermon 2020): RefineNets over residual stages.

Each stage has two residual blocks and halves the image or, in the deeper stages, dilates its
convolutions. Refine blocks then join the stages from the deepest to the first. The labels are
indices into the decreasing noise levels. NCSNv2 uses them only to divide its output by the noise
level. NCSN is conditional: it embeds them in every norm and does not divide. Images are NHWC.

score_sde has a PyTorch and a JAX version, which differ. With `original="pytorch"`, the default,
variances of channel means divide by C - 1 (for the other norms see `models.layers.NORMALIZATIONS`),
feature maps are upsampled with aligned corners, and in the two networks with four stages the refine
block of the second stage reduces its output to nf channels. With `original="jax"`, variances divide
by C, pixel centres are at i + 1/2, that refine block keeps 2 nf channels, and convolutions before a
pool start with LeCun normal kernels and zero biases. The PyTorch version always interpolates
bilinearly; here `interpolation` applies to both.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from scorax.models.layers import (
    Conv,
    Dtype,
    check_nonlinearity,
    check_normalization,
    get_nonlinearity,
    get_normalization,
    sigmas_at,
    uniform_init,
)
from scorax.models.refinenet import (
    RefineBlock,
    ResidualBlock,
    check_interpolation,
    get_interpolation,
)
from scorax.models.unet import check_halvings
from scorax.utils.arrays import batch_mul


class NCSNv2(nn.Module):
    """NCSNv2 for images of up to 64 pixels.

    The network has no dropout, so `train` is ignored.

    Attributes:
      conditional: whether every norm embeds the labels.
      stages: (channels / nf, dilation) of each stage. A stage after the first halves the image if
        its dilation is 1.
      nf: channels at full resolution.
      nonlinearity: a row of `models.layers.NONLINEARITIES`.
      normalization: a row of `models.layers.NORMALIZATIONS`.
      interpolation: how feature maps are upsampled, a row of `models.refinenet.INTERPOLATIONS`.
      original: "pytorch" or "jax"; see the module docstring.
      centered: True if the input is in [-1, 1]; False if it is in [0, 1] (it is then mapped to
        [-1, 1] first).
      scale_by_sigma: divide the output by `sigmas[labels]`.
      sigmas: noise levels in the order of the labels, for `scale_by_sigma`.
      dtype: type of the activations.
      remat: recompute blocks in the backward pass instead of storing their activations.
    """

    embedding_type: ClassVar[str] = "index"
    conditional: ClassVar[bool] = False
    stages: ClassVar[tuple[tuple[int, int], ...]] = ((1, 1), (2, 1), (2, 2), (2, 4))

    nf: int = 128
    nonlinearity: str = "elu"
    normalization: str = "InstanceNorm++"
    interpolation: str = "bilinear"
    original: str = "pytorch"
    centered: bool = False
    scale_by_sigma: bool = True
    sigmas: tuple[float, ...] | None = None
    dtype: Dtype = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonlinearity(self.nonlinearity)
        check_interpolation(self.interpolation, self.original)
        check_normalization(self.normalization, self.original)
        if self.nf < 2:
            raise ValueError(f"model.nf={self.nf} must be at least 2")

    def _norm(self) -> Callable[..., nn.Module]:
        return get_normalization(self.normalization, self.original)

    def _refined_width(self, i: int) -> int:
        """Output channels / nf of the refine block of stage i."""
        if self.original == "jax" and len(self.stages) == 4 and i == 1:
            return self.stages[1][0]
        return self.stages[max(i - 1, 0)][0]

    def _stage(self, h: jax.Array, labels: jax.Array | None, i: int) -> jax.Array:
        width, dilation = self.stages[i]
        cls = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        for j in range(2):
            h = cls(
                get_nonlinearity(self.nonlinearity),
                self._norm(),
                self.dtype,
                width * self.nf,
                down=i > 0 and j == 0,
                dilation=dilation,
                pooled_init=nn.initializers.lecun_normal() if self.original == "jax" else None,
                name=f"down_{i}_block_{j}",
            )(h, labels)
        return h

    def _refine(self, xs: list[jax.Array], labels: jax.Array | None, i: int) -> jax.Array:
        cls = nn.remat(RefineBlock) if self.remat else RefineBlock
        return cls(
            get_nonlinearity(self.nonlinearity),
            self._norm() if self.conditional else None,
            self.dtype,
            self._refined_width(i) * self.nf,
            get_interpolation(self.interpolation, self.original),
            units=3 if i == 0 else 1,
            name=f"up_{i}",
        )(xs, labels)

    def _conv(self, x: jax.Array, features: int, name: str) -> jax.Array:
        init = uniform_init((9 * x.shape[-1]) ** -0.5)
        return Conv(features, dtype=self.dtype, kernel_init=init, bias_init=init, name=name)(x)

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
        """Runs the network.

        Args:
          x: (B, H, W, C) images.
          labels: (B,) indices of noise levels, 0 for the largest.
          train: ignored.

        Returns:
          (B, H, W, C), float32.

        Raises:
          ValueError: if H or W cannot be halved as often as the stages require.
        """
        halvings = sum(dilation == 1 for _, dilation in self.stages[1:])
        check_halvings(x, halvings, type(self).__name__)
        classes = labels.astype(jnp.int32) if self.conditional else None
        h = (x if self.centered else 2 * x - 1).astype(self.dtype)
        h = self._conv(h, self.nf, "conv_in")
        outputs = [h := self._stage(h, classes, i) for i in range(len(self.stages))]
        refined: list[jax.Array] = []
        for i, h in reversed(list(enumerate(outputs))):
            refined = [self._refine([h, *refined], classes, i)]
        norm = self._norm()(dtype=self.dtype, name="out_norm")
        h = norm(refined[0]) if classes is None else norm(refined[0], classes)
        h = self._conv(get_nonlinearity(self.nonlinearity)(h), x.shape[-1], "out_conv")
        h = h.astype(jnp.float32)
        return batch_mul(1 / sigmas_at(self.sigmas, labels), h) if self.scale_by_sigma else h


class NCSNv2_128(NCSNv2):  # noqa: N801 (score_sde's public name)
    """NCSNv2 for images of 96 to 128 pixels."""

    stages = ((1, 1), (2, 1), (2, 1), (4, 2), (4, 4))


class NCSNv2_256(NCSNv2):  # noqa: N801 (score_sde's public name)
    """NCSNv2 for images of up to 256 pixels."""

    stages = ((1, 1), (2, 1), (2, 1), (2, 1), (4, 2), (4, 4))


class NCSN(NCSNv2):
    """NCSN, the first version, whose norms are conditional on the noise level.

    Attributes:
      num_scales: number of noise levels.
    """

    conditional = True

    scale_by_sigma: bool = False
    num_scales: int = 10

    def __post_init__(self) -> None:
        if self.normalization != "InstanceNorm++":
            raise ValueError(
                f"model.normalization={self.normalization!r} has no conditional form, which "
                "model.name='ncsn' needs; set it to 'InstanceNorm++'"
            )
        super().__post_init__()

    def _norm(self) -> Callable[..., nn.Module]:
        return functools.partial(super()._norm(), num_classes=self.num_scales)
