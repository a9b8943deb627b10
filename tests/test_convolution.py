"""The convolution's own gradients, against autodiff of XLA's."""

import functools

import jax
import numpy as np
import pytest
from jax import lax

from scorax.models import convolution
from scorax.models.convolution import NHWC, WIDE, conv2d


def reference(x, w, stride):
    return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=NHWC)


def draw(*shape):
    return np.random.standard_normal(shape).astype(np.float32)


# The first four take the products of small and of large images, the next two of image gradients
# at most, the others XLA's own.
@pytest.mark.parametrize(
    ("size", "channels", "kernel", "stride"),
    [
        ((4, 5), (WIDE, WIDE + 3), 3, 1),
        ((1, 1), (WIDE, WIDE), 3, 1),
        ((8, 8), (WIDE + 3, WIDE), 3, 1),
        ((32, 33), (WIDE, WIDE + 3), 3, 1),
        ((9, 9), (WIDE, WIDE), 3, 1),
        ((4, 5), (3, WIDE), 3, 1),
        ((4, 6), (WIDE, WIDE), 3, 2),
        ((4, 5), (WIDE, WIDE), 1, 1),
    ],
)
def test_gradients_are_those_of_autodiff(size, channels, kernel, stride):
    x, w = draw(2, *size, channels[0]), draw(kernel, kernel, *channels) / WIDE**0.5

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(convolve, x, w, g):
        y, vjp = jax.vjp(lambda x, w: convolve(x, w, stride), x, w)
        return y, vjp(g)

    g = draw(*jax.eval_shape(lambda x, w: reference(x, w, stride), x, w).shape)
    y, gradients = value_and_gradients(conv2d, x, w, g)
    expected, expected_gradients = value_and_gradients(reference, x, w, g)
    np.testing.assert_array_equal(y, expected)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_all_forms_of_a_gradient_agree():
    """CPUs run the products, accelerators the convolutions."""
    x, g, w = draw(2, 5, 4, 6), draw(2, 5, 4, 7), draw(3, 3, 6, 7)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    weights = jax.jit(convolution._weight_gradient)(x, g)
    close(jax.jit(convolution._patch_product)(x, g), weights)
    close(jax.jit(convolution._row_products)(x, g), weights)
    close(jax.jit(convolution._shifted_sum)(g, w), jax.jit(convolution._turned_conv)(g, w))
