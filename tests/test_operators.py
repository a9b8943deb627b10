"""Measurement operators against direct computations, and the color bases."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from scorax.conditioning.operators import (
    COLOR_BASES,
    OPERATORS,
    color_basis,
    get_block_mean,
    get_gaussian_blur,
    get_grayscale,
    get_identity,
    get_masking,
    get_motion_blur,
    get_random_projection,
    luma,
    luma_weights,
    measure,
)
from scorax.configs import base
from scorax.utils.options import configured

SHAPE = (2, 12, 16, 3)
# Linear operators: how to build them for images of SHAPE, and what comes out.
LINEAR = {
    "identity": ({}, SHAPE),
    "mask": ({"mask": np.ones((12, 16, 1), np.float32)}, SHAPE),
    "grayscale": ({"basis": "rec601"}, (2, 12, 16, 1)),
    "block_mean": ({"factor": 4}, (2, 3, 4, 3)),
    "gaussian_blur": ({"width": 1.3}, SHAPE),
    "motion_blur": ({"length": 5.0, "angle": 30.0}, SHAPE),
    "random_projection": ({"shape": SHAPE[1:], "n": 40}, (2, 40)),
}


def images(seed=0):
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_a_config_map_each_example_on_its_own(name):
    """And have a derivative, which guidance needs. Linear or not: what is in the table."""
    config = base.get_config()
    config.data.image_size, config.seed = 16, 1
    operator = OPERATORS[name](**configured(OPERATORS[name], config))
    x = jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, (3, 16, 16, 3)), jnp.float32)
    y, derivative = jax.jvp(operator, (x,), (jnp.ones_like(x),))
    assert len(y) == 3 and y.dtype == jnp.float32
    np.testing.assert_allclose(operator(x[1:2]), y[1:2], atol=1e-5)
    assert np.isfinite(derivative).all() and np.abs(derivative).max() > 0.01


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators_are_linear_maps_of_each_example(name):
    arguments, shape = LINEAR[name]
    operator = OPERATORS[name](**arguments)
    x, y = images(0), images(1)
    out = operator(jnp.asarray(x))
    assert out.shape == shape and out.dtype == jnp.float32
    np.testing.assert_allclose(
        operator(2 * x - 3 * y), 2 * out - 3 * operator(jnp.asarray(y)), atol=2e-5
    )
    np.testing.assert_allclose(operator(x[1:]), out[1:], atol=1e-6)  # no example sees another
    assert np.abs(out).max() > 0.1


@pytest.mark.parametrize("name", [n for n in LINEAR if n != "random_projection"])
def test_operators_keep_a_constant_image(name):
    """Whatever the data range is, gray stays gray: also at the borders."""
    out = OPERATORS[name](**LINEAR[name][0])(jnp.full(SHAPE, 0.7))
    np.testing.assert_allclose(out, 0.7, atol=1e-6)


def test_identity_and_mask():
    x = images()
    np.testing.assert_array_equal(get_identity()(x), x)
    mask = (np.random.default_rng(2).random((12, 16, 1)) < 0.5).astype(np.float32)
    np.testing.assert_array_equal(get_masking(mask)(x), x * mask[None])


def test_block_mean():
    x, y = images(), np.asarray(get_block_mean(4)(images()))
    for i, j in itertools.product(range(3), range(4)):
        block = x[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        np.testing.assert_allclose(y[:, i, j], block.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_gaussian_blur_is_that_of_scipy():
    x = images()
    blurred = ndimage.gaussian_filter(
        x.astype(np.float64), (0, 1.3, 1.3, 0), mode="mirror", radius=(0, 4, 4, 0)
    )
    np.testing.assert_allclose(get_gaussian_blur(1.3)(x), blurred, atol=1e-6)


def spread_of_a_point(operator):
    point = np.zeros((1, 31, 31, 1), np.float32)
    point[0, 15, 15, 0] = 1
    return np.asarray(operator(point))[0, :, :, 0]


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 135.0])
@pytest.mark.parametrize("length", [1.0, 6.0, 9.0])
def test_motion_blur_spreads_along_its_line(length, angle):
    """Mass 1, centered, with the covariance of a line of that length and direction."""
    out = spread_of_a_point(get_motion_blur(length, angle))
    y, x = np.mgrid[-15:16, -15:16] * 1.0
    assert out.min() >= 0
    np.testing.assert_allclose(out.sum(), 1, atol=1e-5)
    np.testing.assert_allclose([(out * x).sum(), (out * y).sum()], 0, atol=1e-4)
    direction = np.array([np.cos(np.radians(angle)), -np.sin(np.radians(angle))])
    moments = np.array(
        [[(out * x * x).sum(), (out * x * y).sum()], [(out * x * y).sum(), (out * y * y).sum()]]
    )
    along, across = (
        direction @ moments @ direction,
        moments.trace() - direction @ moments @ direction,
    )
    # Sharing a point among four pixels adds at most a quarter to the variance in each direction.
    line = (length - 1) ** 2 / 12
    assert -0.02 * line <= along - line <= 0.26 + 0.02 * line and across <= 0.26
    if length == 9.0 and angle == 0.0:
        np.testing.assert_allclose(out[15, 12:19], 1 / 8, rtol=0.02)


def test_random_projection_is_seeded_and_keeps_lengths():
    x = jnp.asarray(images())
    first = get_random_projection(SHAPE[1:], 500, seed=1)(x)
    np.testing.assert_array_equal(first, get_random_projection(SHAPE[1:], 500, seed=1)(x))
    assert not np.allclose(first, get_random_projection(SHAPE[1:], 500, seed=2)(x))
    # Independent directions of unit length: 500 projections of 576 pixels of variance 1.
    np.testing.assert_allclose(np.mean(first**2), np.mean(x**2), rtol=0.2)


def test_measurements_carry_noise_of_the_given_standard_deviation():
    x = jnp.zeros((4, 40, 40, 1))
    y = measure(jax.random.key(0), lambda x: x + 1, x, 0.3)
    np.testing.assert_allclose(y.mean(), 1, atol=4.5 * 0.3 / 80)
    np.testing.assert_allclose(y.std(), 0.3, rtol=4.5 / 80)


WEIGHTS = {
    "rgb_mean": (1 / 3, 1 / 3, 1 / 3),
    "rec709": (0.2126, 0.7152, 0.0722),  # ITU-R BT.709-6, item 3.2
    "rec601": (0.299, 0.587, 0.114),  # ITU-R BT.601-7, item 2.5.1
}


@pytest.mark.parametrize("name", list(COLOR_BASES))
def test_color_bases_are_orthonormal_and_start_with_the_luma(name):
    basis = color_basis(name)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(basis[:, 0], WEIGHTS[name] / np.linalg.norm(WEIGHTS[name]))
    np.testing.assert_allclose(luma_weights(name), WEIGHTS[name], rtol=1e-12)
    x = images()
    np.testing.assert_allclose(luma(x, name)[..., 0], x @ np.float32(WEIGHTS[name]), atol=1e-6)
    np.testing.assert_array_equal(get_grayscale(name)(x), luma(x, name))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: color_basis("yuv"), "unknown color basis 'yuv'; choose from: rgb_mean, rec709"),
        (lambda: get_grayscale("yuv"), "unknown color basis 'yuv'"),
        (lambda: get_gaussian_blur(0.0), "width 0.0 of a Gaussian blur must be positive"),
        (lambda: get_motion_blur(0.5), "length 0.5 of a motion blur must be at least one pixel"),
        (lambda: get_random_projection((4, 4), 17), "17 projections of 16 values.*1 and 16"),
        (lambda: get_random_projection((4, 4), 0), "0 projections"),
        (lambda: get_block_mean(5)(images()), "blocks of 5 pixels do not divide images of 12x16"),
        (lambda: get_gaussian_blur(6.0)(images()), "a blur over 37 pixels is too wide"),
    ],
)
def test_operators_that_cannot_work_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
