"""The small noise-conditional classifier."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorax.models.noise_classifier import NoiseClassifier


def inputs(size=8, channels=1):
    x = np.random.default_rng(0).standard_normal((3, size, size, channels))
    return jnp.asarray(x, jnp.float32), jnp.asarray([0.01, 1.0, 16.0])


@functools.cache
def params():
    """Of a tiny network, without special values."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(tiny().init, jax.random.key(0), *inputs())["params"]
    draw = lambda p: np.float32(0.3 * rng.standard_normal(p.shape))  # noqa: E731
    return jax.tree.map(draw, shapes)


def tiny(**fields):
    return NoiseClassifier(num_classes=4, nf=4, **fields)


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(model, x, sigma, train=False, rng=None):
    rngs = {"dropout": rng} if train else None
    return model.apply({"params": params()}, x, sigma, train, rngs=rngs)


def test_weights_for_digits_take_less_than_2_mb():
    x, sigma = inputs(28)
    shapes = jax.eval_shape(NoiseClassifier().init, jax.random.key(0), x, sigma)["params"]
    assert sum(p.size for p in jax.tree.leaves(shapes)) * 4 < 2e6


def test_low_precision_changes_little():
    x, sigma = inputs()
    expected = apply(tiny(), x, sigma)
    logits = apply(tiny(dtype=jnp.bfloat16), x, sigma)
    assert logits.shape == (3, 4) and logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())
    assert np.abs(logits - expected).max() > 0


def test_every_parameter_and_pixel_has_a_gradient():
    x, sigma = inputs()

    def loss(p, x):
        return jnp.sum(jnp.square(tiny().apply({"params": p}, x, sigma) - 1))

    of_params, of_x = jax.jit(jax.grad(loss, (0, 1)))(params(), x)
    assert (np.abs(of_x) > 0).all()
    for path, gradient in jax.tree.leaves_with_path(of_params):
        fixed = path[-1].key == "W"  # the Fourier frequencies are constants
        assert (np.abs(gradient).max() > 0) != fixed, jax.tree_util.keystr(path)


def test_brightness_and_contrast_of_an_image_do_not_matter():
    """So the range of the data does not, as long as the network is told the same noise level."""
    x, sigma = inputs()
    expected = apply(tiny(), x, sigma)
    np.testing.assert_allclose(apply(tiny(), 2 * x - 1, sigma), expected, rtol=1e-3, atol=1e-3)


def test_noise_level_matters_and_other_images_do_not():
    x, sigma = inputs()
    together = apply(tiny(), x, sigma)
    alone = apply(tiny(), x[:1], sigma[:1])
    np.testing.assert_allclose(alone, together[:1], rtol=1e-4, atol=1e-4)
    assert np.abs(apply(tiny(), x[:1], sigma[1:2]) - alone).max() > 0.1


def test_dropout_in_training_only():
    x, sigma = inputs()
    model = tiny(dropout=0.5)
    first, second = (apply(model, x, sigma, True, jax.random.key(i)) for i in (0, 1))
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(apply(model, x, sigma), apply(tiny(), x, sigma))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 0}, "model.num_classes=0 of a classifier must be at least 2"),
        ({"nf": 2}, "model.nf=2, model.ch_mult"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        NoiseClassifier(**fields)


def test_images_that_cannot_be_halved():
    with pytest.raises(ValueError, match="data.image_size=10 cannot be halved 2 times"):
        jax.eval_shape(NoiseClassifier().init, jax.random.key(0), *inputs(10))
