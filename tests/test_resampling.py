"""FIR resampling: reference values, borders, and gradients that are exact transposes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_golden, cases, load, nhwc
from scorax.models import resampling

FIR = (1, 3, 3, 1)


def rng_normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("case", cases("fir_ops"), ids=lambda c: c["key"].removeprefix("out/"))
def test_golden(case):
    z = load("fir_ops")
    x, op = jnp.asarray(nhwc(z[case["x"]])), case["op"]
    if op == "upfirdn2d":
        kernel = jnp.asarray(z[case["kernel"]])
        setting = case["up"], case["down"], tuple(case["pad"])
        y = jax.jit(lambda x, kernel: resampling.upfirdn2d(x, kernel, *setting))(x, kernel)
    elif op.startswith("naive"):
        y = jax.jit(lambda x: getattr(resampling, op)(x, case["factor"]))(x)
    else:
        options = (case["k"], case["factor"], case["gain"])
        if "conv" in op:
            options = (jnp.asarray(z[case["w"]].transpose(2, 3, 1, 0)), *options)
        y = jax.jit(lambda x: getattr(resampling, op.removesuffix("_1x1"))(x, *options))(x)
    assert_golden(y, z, case["key"])


# The same operation written with the general one: (ours, kernel, up, down, pad).
LINEAR = {
    "up": (lambda x: resampling.upsample_2d(x, FIR), FIR, 2, 1, (2, 1)),
    "down": (lambda x: resampling.downsample_2d(x, FIR), FIR, 1, 2, (1, 1)),
    "up_asymmetric_3": (lambda x: resampling.upsample_2d(x, (1, 2, 3, 4, 5), 3),)
    + ((1, 2, 3, 4, 5), 3, 1, (3, 1)),
    "down_asymmetric": (lambda x: resampling.downsample_2d(x, (1, 2, 4)), (1, 2, 4), 1, 2, (1, 0)),
    "down_asymmetric_3": (lambda x: resampling.downsample_2d(x, (1, 2, 0, 5), 3),)
    + ((1, 2, 0, 5), 1, 3, (1, 0)),
    "naive_up": (resampling.naive_upsample_2d, (1, 1), 2, 1, (1, 0)),
    "naive_up_3": (lambda x: resampling.naive_upsample_2d(x, 3), (1, 1, 1), 3, 1, (2, 0)),
    "naive_down": (resampling.naive_downsample_2d, (1, 1), 1, 2, (0, 0)),
    "naive_down_3": (lambda x: resampling.naive_downsample_2d(x, 3), (1, 1, 1), 1, 3, (0, 0)),
}
SIZES = pytest.mark.parametrize("size", [(6, 9), (7, 5), (12, 8), (3, 3)])


def general(taps, up, down, pad):
    """The operation through `upfirdn2d`, whose gradient is left to autodiff."""
    taps = np.asarray(taps, np.float64)
    kernel = np.outer(taps, taps) / taps.sum() ** 2 * up**2
    return lambda x: resampling.upfirdn2d(x, jnp.asarray(kernel, jnp.float32), up, down, pad)


@SIZES
@pytest.mark.parametrize("name", list(LINEAR))
def test_values_and_gradients_are_those_of_the_general_operation(name, size):
    """Also <A x, g> = <x, A^T g>: the gradient is the exact transpose."""
    ours, *setting = LINEAR[name]
    x = rng_normal(0, 2, *size, 3)
    g = rng_normal(1, *jax.eval_shape(ours, x).shape)

    @jax.jit
    def both(x, g):
        results = [jax.vjp(f, x) for f in (ours, general(*setting))]
        return [(y, vjp(g)[0]) for y, vjp in results]

    (y, gradient), (reference, reference_gradient) = both(x, g)
    np.testing.assert_allclose(y, reference, atol=2e-6)
    np.testing.assert_allclose(gradient, reference_gradient, atol=5e-6)
    assert float(jnp.vdot(y, g)) == pytest.approx(float(jnp.vdot(x, gradient)), abs=5e-5)


@pytest.mark.parametrize("fused", [resampling.upsample_conv_2d, resampling.conv_downsample_2d])
def test_fused_convolution_has_the_gradient_of_finite_differences(fused):
    x, w = rng_normal(4, 1, 8, 6, 2), rng_normal(5, 3, 3, 2, 3)
    dx, dw = rng_normal(6, *x.shape), rng_normal(7, *w.shape)

    @jax.jit
    def loss(x, w):
        return jnp.sum(jnp.sin(fused(x, w, FIR)))

    gradient = jax.jit(jax.grad(loss, (0, 1)))(x, w)
    h = 1e-2
    numeric = (loss(x + h * dx, w + h * dw) - loss(x - h * dx, w - h * dw)) / (2 * h)
    analytic = jnp.vdot(gradient[0], dx) + jnp.vdot(gradient[1], dw)
    assert float(numeric) == pytest.approx(float(analytic), rel=5e-3)


def test_second_derivatives_exist():
    """The likelihood and guidance differentiate through gradients of the network."""
    x = rng_normal(8, 1, 4, 4, 1)

    def loss(x):
        return jnp.sum(jnp.tanh(resampling.upsample_2d(x, FIR)) ** 2)

    v, h = rng_normal(9, *x.shape), 1e-2
    gradient = jax.jit(jax.grad(loss))
    product = jax.jit(jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), v)))(x)
    numeric = (gradient(x + h * v) - gradient(x - h * v)) / (2 * h)
    np.testing.assert_allclose(product, numeric, atol=2e-2)


def test_borders_of_a_constant_image():
    """Outside the image there are zeros: an axis loses a quarter up and an eighth down."""
    x = jnp.ones((1, 8, 8, 1))
    up = np.asarray(jax.jit(lambda x: resampling.upsample_2d(x, FIR))(x))[0, :, :, 0]
    down = np.asarray(jax.jit(lambda x: resampling.downsample_2d(x, FIR))(x))[0, :, :, 0]
    for y, corner, edge in ((up, 0.5625, 0.75), (down, 0.765625, 0.875)):
        np.testing.assert_allclose([y[0, 0], y[0, -1], y[-1, 0], y[-1, -1]], corner, atol=1e-6)
        for border in (y[0, 1:-1], y[-1, 1:-1], y[1:-1, 0], y[1:-1, -1]):
            np.testing.assert_allclose(border, edge, atol=1e-6)
        np.testing.assert_allclose(y[1:-1, 1:-1], 1, atol=1e-6)


def test_types_are_kept():
    x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
    for ours, *_ in LINEAR.values():
        y, vjp = jax.eval_shape(ours, x), lambda x, f=ours: jax.grad(lambda x: f(x).sum())(x)
        assert y.dtype == jax.eval_shape(vjp, x).dtype == jnp.bfloat16


def test_naive_operations_invert_each_other():
    x = rng_normal(10, 2, 4, 6, 3)
    for factor in (2, 3):
        up = jax.jit(lambda x, n=factor: resampling.naive_upsample_2d(x, n))
        down = jax.jit(lambda x, n=factor: resampling.naive_downsample_2d(x, n))
        np.testing.assert_allclose(down(up(x)), x, atol=1e-6)
