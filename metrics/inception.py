"""The Inception-v3 network of the Fréchet inception distance, for inference only.

FID (Heusel et al. 2017) is defined with the network of 2015-12-05, which has 1,008 outputs (Szegedy
et al. 2015, arXiv 1512.00567, sections 3-6). It differs from torchvision's Inception-v3: average
pools leave out the padding, the last block has a max pool, and images are resized as TensorFlow 1
did. Modules are named as in the usual PyTorch file of the weights; see `from_torch`.

Images are NHWC. Everything is computed in full float32, even on devices that would otherwise round
the factors of products to a smaller type.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SIZE = 299  # height and width in pixels that images are resized to
CLASSES = 1008

# A convolution: its name, its channels, its window (default 1x1) and its stride (default 1). With a
# stride above 1 it is not padded; otherwise it keeps height and width.
Layer = tuple[str, int] | tuple[str, int, tuple[int, int]] | tuple[str, int, tuple[int, int], int]


def resize(x: jax.Array, size: int = SIZE) -> jax.Array:
    """Bilinear resizing as in TensorFlow 1: output pixel i reads position i H / size, in float32.

    Pixel centres lie at whole numbers, not at halves; images are not smoothed before shrinking; and
    positions beyond the last pixel read the last pixel.

    Args:
      x: (B, H, W, C).

    Returns:
      (B, size, size, C).
    """
    for axis in (1, 2):
        n = x.shape[axis]
        position = np.arange(size, dtype=np.float32) * (np.float32(n) / np.float32(size))
        below = np.floor(position).astype(int)
        weight = np.expand_dims(position - below.astype(np.float32), tuple({0, 1, 2, 3} - {axis}))
        low = jnp.take(x, below, axis)
        high = jnp.take(x, np.minimum(below + 1, n - 1), axis)
        x = low + (high - low) * weight
    return x


class BasicConv(nn.Module):
    """Convolution without bias, batch norm with stored statistics, ReLU."""

    features: int
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> (B, H', W', features)."""
        x = nn.Conv(
            self.features,
            self.window,
            self.stride,
            self.padding,
            use_bias=False,
            precision=lax.Precision.HIGHEST,
            name="conv",
        )(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


def chain(x: jax.Array, *layers: Layer) -> jax.Array:
    """Applies convolutions to x: (B, H, W, C), one after the other, inside a module."""
    for name, features, *rest in layers:
        window = rest[0] if rest else (1, 1)
        stride = rest[1] if len(rest) > 1 else 1
        padding = "SAME" if stride == 1 else "VALID"
        x = BasicConv(features, window, stride, padding, name=name)(x)
    return x


def average_pool(x: jax.Array) -> jax.Array:
    """Means over 3x3 windows, without the pixels outside the image: (B, H, W, C) -> same shape."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def max_pool(x: jax.Array) -> jax.Array:
    """Maxima of 3x3 windows, stride 2: (B, H, W, C) -> (B, (H - 1) // 2, (W - 1) // 2, C)."""
    return nn.max_pool(x, (3, 3), (2, 2))


class BlockA(nn.Module):
    """Mixed_5b to 5d, 35x35 pixels."""

    pool_features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> (B, H, W, 224 + pool_features)."""
        five = chain(x, ("branch5x5_1", 48), ("branch5x5_2", 64, (5, 5)))
        double = chain(
            x,
            ("branch3x3dbl_1", 64),
            ("branch3x3dbl_2", 96, (3, 3)),
            ("branch3x3dbl_3", 96, (3, 3)),
        )
        pool = chain(average_pool(x), ("branch_pool", self.pool_features))
        return jnp.concatenate([chain(x, ("branch1x1", 64)), five, double, pool], -1)


class BlockB(nn.Module):
    """Mixed_6a, from 35x35 to 17x17 pixels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> (B, (H - 1) // 2, (W - 1) // 2, 480 + C)."""
        double = chain(
            x,
            ("branch3x3dbl_1", 64),
            ("branch3x3dbl_2", 96, (3, 3)),
            ("branch3x3dbl_3", 96, (3, 3), 2),
        )
        return jnp.concatenate([chain(x, ("branch3x3", 384, (3, 3), 2)), double, max_pool(x)], -1)


class BlockC(nn.Module):
    """Mixed_6b to 6e, 17x17 pixels.

    Attributes:
      width: channels between the separated 7x7 convolutions.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> (B, H, W, 768)."""
        seven = chain(
            x,
            ("branch7x7_1", self.width),
            ("branch7x7_2", self.width, (1, 7)),
            ("branch7x7_3", 192, (7, 1)),
        )
        double = chain(
            x,
            ("branch7x7dbl_1", self.width),
            ("branch7x7dbl_2", self.width, (7, 1)),
            ("branch7x7dbl_3", self.width, (1, 7)),
            ("branch7x7dbl_4", self.width, (7, 1)),
            ("branch7x7dbl_5", 192, (1, 7)),
        )
        pool = chain(average_pool(x), ("branch_pool", 192))
        return jnp.concatenate([chain(x, ("branch1x1", 192)), seven, double, pool], -1)


class BlockD(nn.Module):
    """Mixed_7a, from 17x17 to 8x8 pixels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> (B, (H - 1) // 2, (W - 1) // 2, 512 + C)."""
        three = chain(x, ("branch3x3_1", 192), ("branch3x3_2", 320, (3, 3), 2))
        seven = chain(
            x,
            ("branch7x7x3_1", 192),
            ("branch7x7x3_2", 192, (1, 7)),
            ("branch7x7x3_3", 192, (7, 1)),
            ("branch7x7x3_4", 192, (3, 3), 2),
        )
        return jnp.concatenate([three, seven, max_pool(x)], -1)


class BlockE(nn.Module):
    """Mixed_7b and 7c, 8x8 pixels.

    Attributes:
      max_pool: True for a max pool, as in 7c; False for an average pool, as in 7b.
    """

    max_pool: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (B, H, W, C) -> (B, H, W, 2048)."""
        three = chain(x, ("branch3x3_1", 384))
        double = chain(x, ("branch3x3dbl_1", 448), ("branch3x3dbl_2", 384, (3, 3)))
        pool = nn.max_pool(x, (3, 3), padding="SAME") if self.max_pool else average_pool(x)
        parts = (
            chain(x, ("branch1x1", 320)),
            chain(three, ("branch3x3_2a", 384, (1, 3))),
            chain(three, ("branch3x3_2b", 384, (3, 1))),
            chain(double, ("branch3x3dbl_3a", 384, (1, 3))),
            chain(double, ("branch3x3dbl_3b", 384, (3, 1))),
            chain(pool, ("branch_pool", 192)),
        )
        return jnp.concatenate(parts, -1)


class InceptionV3(nn.Module):
    """The whole network; see the module docstring."""

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns features and logits of images.

        Args:
          x: (B, H, W, 3), values 0, ..., 255 of any type.

        Returns:
          "64", "192" and "768", (B, 64) and so on: spatial means after the first and the second max
          pool and before the last stage. "2048": the features of FID. "logits_unbiased", (B, 1008):
          logits without the last bias, which the Inception score uses. "logits": with the bias.
        """
        x = (resize(x.astype(jnp.float32)) - 128) / 128
        x = chain(x, ("Conv2d_1a_3x3", 32, (3, 3), 2))
        x = BasicConv(32, (3, 3), padding="VALID", name="Conv2d_2a_3x3")(x)
        x = max_pool(chain(x, ("Conv2d_2b_3x3", 64, (3, 3))))
        found = {"64": x.mean((1, 2))}
        x = chain(x, ("Conv2d_3b_1x1", 80))
        x = max_pool(BasicConv(192, (3, 3), padding="VALID", name="Conv2d_4a_3x3")(x))
        found["192"] = x.mean((1, 2))
        for letter, features in zip("bcd", (32, 64, 64), strict=True):
            x = BlockA(features, name=f"Mixed_5{letter}")(x)
        x = BlockB(name="Mixed_6a")(x)
        for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
            x = BlockC(width, name=f"Mixed_6{letter}")(x)
        found["768"] = x.mean((1, 2))
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(name="Mixed_7b")(x)
        x = BlockE(max_pool=True, name="Mixed_7c")(x)
        found["2048"] = x = x.mean((1, 2))
        kernel = self.param("fc_kernel", nn.initializers.lecun_normal(), (x.shape[-1], CLASSES))
        bias = self.param("fc_bias", nn.initializers.zeros, (CLASSES,))
        found["logits_unbiased"] = jnp.matmul(x, kernel, precision=lax.Precision.HIGHEST)
        found["logits"] = found["logits_unbiased"] + bias[None]
        return found


_TORCH_NAMES = {  # last two parts of a variable's path -> last two parts of its PyTorch name
    ("conv", "kernel"): "conv.weight",
    ("bn", "scale"): "bn.weight",
    ("bn", "bias"): "bn.bias",
    ("bn", "mean"): "bn.running_mean",
    ("bn", "var"): "bn.running_var",
    ("params", "fc_kernel"): "fc.weight",
    ("params", "fc_bias"): "fc.bias",
}


def from_torch(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the arrays of the PyTorch file to variables of `InceptionV3`.

    Args:
      arrays: arrays under pytorch-fid's names; kernels are (out, in, height, width), `fc.weight` is
        (out, in). Batch counters (`num_batches_tracked`) are ignored.

    Returns:
      The variables {"params": ..., "batch_stats": ...}, float32.

    Raises:
      ValueError: if an array is missing, unknown or of the wrong shape; the message names it.
    """
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.uint8)
    shapes = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)
    left = {name: x for name, x in arrays.items() if not name.endswith("num_batches_tracked")}
    found = {}
    for path, leaf in flax.traverse_util.flatten_dict(shapes).items():
        name = ".".join((*path[1:-2], _TORCH_NAMES[path[-2:]]))
        if name not in left:
            raise ValueError(f"{name} is missing")
        x = np.asarray(left.pop(name), np.float32)
        # (out, in, *window) -> (*window, in, out)
        found[path] = x.transpose(*range(2, x.ndim), 1, 0) if x.ndim > 1 else x
        if found[path].shape != leaf.shape:
            raise ValueError(f"{name} has the shape {x.shape}, which cannot become {leaf.shape}")
    if left:
        raise ValueError(f"{next(iter(left))} belongs to no layer")
    return flax.traverse_util.unflatten_dict(found)
