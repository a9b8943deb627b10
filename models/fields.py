"""Networks of images applied to windows of fields: states become channels.

A window is (B, L, H, W, C), and the network sees images (B, H, W, L C), in which all channels of
the first state come first, as in score-based data assimilation (Rozet & Louppe 2023).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class FieldNetwork(nn.Module):
    """Applies a network of images to windows of fields.

    Attributes:
      net: the network: (x: (B, H, W, C'), labels, train, class_labels) -> (B, H, W, C').
      forcing: wavenumber k of a forcing that is known and constant in time; the network gets
        sin(k y), with y = 2 pi (j + 1/2) / W along the last axis of space, as a further channel.
        0: none.
      patch: p; the network sees each square of p x p pixels as one pixel with p^2 times as many
        channels, which is cheaper than a level at full resolution.
    """

    net: nn.Module
    forcing: int = 0
    patch: int = 1

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        labels: jax.Array,
        train: bool = False,
        class_labels: jax.Array | None = None,
    ) -> jax.Array:
        """x: (B, L, H, W, C), labels: (B,) -> (B, L, H, W, C), float32.

        Raises:
          ValueError: for a size that is no multiple of the patch.
        """
        b, length, height, width, channels = x.shape
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"model.patch={self.patch} does not divide fields of {height}x{width} pixels"
            )
        images = jnp.moveaxis(x, 1, 3).reshape(b, height, width, length * channels)
        if self.forcing:
            y = 2 * jnp.pi * (jnp.arange(width) + 0.5) / width
            force = jnp.sin(self.forcing * y).astype(x.dtype)[None, None, :, None]
            force = jnp.broadcast_to(force, (b, height, width, 1))
            images = jnp.concatenate([images, force], -1)
        classes = {} if class_labels is None else {"class_labels": class_labels}
        images = merge_pixels(images, self.patch)
        images = split_pixels(self.net(images, labels, train, **classes), self.patch)
        images = images[..., : length * channels]
        return jnp.moveaxis(images.reshape(b, height, width, length, channels), 3, 1)


def merge_pixels(x: jax.Array, patch: int) -> jax.Array:
    """Makes one pixel of each square of pixels: (B, H, W, C) -> (B, H / p, W / p, p p C)."""
    b, height, width, channels = x.shape
    x = x.reshape(b, height // patch, patch, width // patch, patch, channels)
    return jnp.moveaxis(x, 2, 3).reshape(b, height // patch, width // patch, -1)


def split_pixels(x: jax.Array, patch: int) -> jax.Array:
    """The inverse of `merge_pixels`: (B, H, W, p p C) -> (B, p H, p W, C)."""
    b, height, width, _ = x.shape
    x = jnp.moveaxis(x.reshape(b, height, width, patch, patch, -1), 3, 2)
    return x.reshape(b, height * patch, width * patch, -1)
