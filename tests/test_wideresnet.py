"""The noise-conditional WideResNet against published values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from golden import assert_golden, load, nhwc, parse, part
from scorax.conditioning.guidance import classifier_guidance
from scorax.models.wideresnet import CIFAR10_MEAN, CIFAR10_STD, WideResnet
from scorax.sde_lib import VESDE

PUBLISHED = {"color_mean": CIFAR10_MEAN, "color_std": CIFAR10_STD}


@functools.cache
def stored():
    """The reference values, parameters and inputs."""
    z = load("classifier")
    params = unflatten_dict({tuple(k.split("/")): v for k, v in part(z, "params/").items()})
    return z, params, jnp.asarray(nhwc(z["in/x"])), jnp.asarray(z["in/sigma"])


def network(**fields):
    """The classifier of the reference values."""
    c = parse(stored()[0], "config")
    mult = tuple(k * c["channel_multiplier"] for k in (1, 2, 4))
    sizes = {"ch_mult": mult, "num_res_blocks": c["blocks_per_group"]}
    return WideResnet(num_classes=c["num_outputs"], **sizes, **fields)


def shapes_of(model, size=32, channels=3):
    x, sigma = jnp.zeros((1, size, size, channels)), jnp.ones((1,))
    return jax.eval_shape(lambda key: model.init(key, x, sigma)["params"], jax.random.key(0))


def apply(model, x):
    _, params, _, sigma = stored()
    return jax.jit(model.apply)({"params": params}, x, sigma)


def test_parameters_have_the_published_paths_and_shapes():
    _, params, x, _ = stored()
    ours = shapes_of(network(), x.shape[1])
    assert jax.tree.map(lambda p: p.shape, ours) == jax.tree.map(lambda p: p.shape, params)


def test_published_size():
    """That of WRN-28-10, the default."""
    assert sum(p.size for p in jax.tree.leaves(shapes_of(WideResnet()))) == 38_913_242


def test_golden_logits():
    z, _, x, _ = stored()
    logits = apply(network(**PUBLISHED), x)
    assert_golden(logits, z, "out/logits")
    assert_golden(jax.nn.log_softmax(logits), z, "out/log_softmax")
    without = apply(network(), x)
    assert_golden(without, z, "out/logits_without_colour_normalisation")


def test_golden_gradient():
    """Also as the difference that guidance makes to a score."""
    z, params, x, sigma = stored()
    model, labels, sde = network(**PUBLISHED), z["in/labels"].astype(np.int32), VESDE()
    t = sde.time_of_log_snr(-2 * jnp.log(sigma))

    def classifier_fn(x, sigma):
        return model.apply({"params": params}, x, sigma)

    guided = classifier_guidance(lambda x, t: jnp.zeros_like(x), classifier_fn, sde, labels)
    assert_golden(jax.jit(guided)(x, t), z, "out/grad")


def test_centered_images_are_the_same_images():
    """In [-1, 1] instead of [0, 1], told the same noise level."""
    _, _, x, _ = stored()
    expected = apply(network(**PUBLISHED), x)
    centered = apply(network(**PUBLISHED, centered=True), 2 * x - 1)
    np.testing.assert_allclose(centered, expected, atol=2e-4 * np.abs(expected).max())


def test_constant_images_are_classified():
    """Their standard deviation is 0, by which nothing may be divided, forwards or backwards."""
    _, params, x, sigma = stored()

    @jax.jit
    @jax.value_and_grad
    def first_logits(x):
        return jnp.sum(network().apply({"params": params}, x, sigma)[:, 0])

    gray, black = (first_logits(jnp.full_like(x, value)) for value in (0.5, 0.0))
    for one, other in zip(gray, black, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 1}, "model.num_classes=1 of a classifier must be at least 2"),
        ({"ch_mult": (2, 1)}, r"model.ch_mult=\(2, 1\) of a wide residual network must not fall"),
        ({"num_res_blocks": 0}, "model.num_res_blocks=0 must be"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        WideResnet(**fields)


def test_images_that_cannot_be_halved():
    with pytest.raises(ValueError, match="data.image_size=30 cannot be halved 2 times"):
        shapes_of(WideResnet(), size=30)
