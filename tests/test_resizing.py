"""Cropping and scaling against JAX's image resizing, which follows TensorFlow's."""

import jax
import numpy as np
import pytest

from scorax.data_sources import resizing

rng = np.random.default_rng(0)


def noise(*shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def resized(x, height, width, method):
    """What tf.image.resize(antialias=True) computes, before rounding."""
    resize = jax.jit(jax.image.resize, static_argnums=(1, 2))
    y = resize(x.astype(np.float32), (height, width, x.shape[2]), method)
    return np.clip(np.asarray(y), 0, 255)


def assert_nearest_levels(got, expected):
    assert got.dtype == np.uint8 and got.shape == expected.shape
    assert np.abs(got - expected).max() <= 0.5 + 1e-3  # float32 decides what is half-way


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("height, width", [(64, 64), (17, 90), (150, 33)])
@pytest.mark.parametrize(
    "method, name", [(resizing.BILINEAR, "linear"), (resizing.BICUBIC, "cubic")]
)
def test_resize(method, name, height, width, channels):
    x = noise(100, 70, channels)
    got = resizing.resize(x, height, width, method)
    assert_nearest_levels(got, resized(x, height, width, name))


def test_overshoots_are_clipped():
    x = np.zeros((16, 16, 1), np.uint8)
    x[8:] = 255
    y = jax.jit(lambda x: jax.image.resize(x, (32, 32, 1), "cubic"))(x.astype(np.float32))
    assert y.min() < -10 and y.max() > 265
    got = resizing.resize(x, 32, 32, resizing.BICUBIC)
    assert np.all(got[:15] == 0) and np.all(got[17:] == 255)


@pytest.mark.parametrize("resize", [resizing.resize_square, resizing.resize_small])
def test_the_native_size_is_unchanged(resize):
    x = noise(32, 32, 3)
    np.testing.assert_array_equal(resize(x, 32), x)


@pytest.mark.parametrize("height, width, shape", [(100, 70, (46, 32)), (33, 65, (32, 63))])
def test_the_short_side_decides(height, width, shape):
    x = noise(height, width, 3)
    assert_nearest_levels(resizing.resize_small(x, 32), resized(x, *shape, "linear"))


@pytest.mark.parametrize("height, width", [(7, 12), (12, 7), (8, 8)])
def test_the_middle_is_cut_out(height, width):
    x = noise(height, width, 3)
    top, left = (height - 6) // 2, (width - 6) // 2
    np.testing.assert_array_equal(
        resizing.central_crop(x, 6), x[top : top + 6, left : left + 6], strict=True
    )


def test_no_middle_in_a_small_image():
    with pytest.raises(ValueError, match="5x9 pixels has no 6x6 middle"):
        resizing.central_crop(noise(5, 9, 3), 6)


def test_celeba():
    x = noise(218, 178, 3)
    expected = resized(x[39:179, 19:159], 64, 64, "linear")
    assert_nearest_levels(resizing.resize_celeba(x, 64), expected)


def test_lsun_at_128_pixels_is_scaled_and_cut():
    x = noise(256, 341, 3)
    expected = resized(x, 128, 170, "linear")[:, 21:149]  # 341 / 2 = 170.5, rounded to even
    assert_nearest_levels(resizing.resize_lsun(x, 128), expected)


def test_lsun_at_other_sizes_is_cut_and_scaled():
    x = noise(300, 401, 3)
    assert_nearest_levels(resizing.resize_lsun(x, 256), resized(x[:, 50:350], 256, 256, "cubic"))
