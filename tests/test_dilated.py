"""The networks of series and of fields see what they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorax.models.dilated import DilatedNet
from scorax.models.fields import FieldNetwork, merge_pixels, split_pixels
from scorax.models.periodic_unet import PeriodicUNet


def network(x, **kwargs):
    """A small network with output layers that are not 0, as a function of x."""
    net = DilatedNet(nf=8, dilations=(1, 4), num_res_blocks=1, init_scale=1.0, **kwargs)
    variables = net.init(jax.random.key(0), x, jnp.ones(len(x)))
    return lambda x: net.apply(variables, x, jnp.ones(len(x)))


def test_every_state_is_treated_in_the_same_way():
    """Away from the ends, a shifted series gives a shifted output."""
    x = jax.random.normal(jax.random.key(1), (1, 40, 3))
    apply = network(x)
    here, shifted = (np.asarray(apply(x[:, k : k + 30])) for k in (0, 7))
    np.testing.assert_allclose(here[:, 12:25], shifted[:, 5:18], atol=1e-5)
    assert np.abs(here[:, 30 - 2 :] - shifted[:, 21:23]).max() > 1e-3  # one is at the end


def test_dilations_bound_what_a_state_sees():
    x = jax.random.normal(jax.random.key(1), (1, 30, 2))
    apply = network(x)
    influence = jax.jacobian(lambda x: apply(x)[0, 15].sum())(x)[0]
    seen = np.flatnonzero(np.abs(np.asarray(influence)).sum(-1))
    # Two convolutions: 1 and 4 states to either side
    np.testing.assert_array_equal(seen, [10, 11, 12, 14, 15, 16, 18, 19, 20])


def test_series_of_any_length_share_the_parameters():
    net = DilatedNet(nf=8)
    short, long = (
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, n, 3)), jnp.ones(1))
        for n in (5, 65)
    )
    assert jax.tree.map(jnp.shape, short) == jax.tree.map(jnp.shape, long)


@pytest.mark.parametrize(
    "fields, shape, message",
    [
        (
            {},
            (1, 8),
            r"series of shape \(L, C\).*the shape \(8,\)",
        ),
        ({"dilations": ()}, (1, 8, 3), r"model.dilations=\(\) must be distances of at least 1"),
        ({"dilations": (1, 0)}, (1, 8, 3), r"model.dilations=\(1, 0\) must be distances"),
        ({"num_res_blocks": 0}, (1, 8, 3), "model.num_res_blocks=0 at least 1"),
    ],
)
def test_impossible_networks_of_series_are_told(fields, shape, message):
    with pytest.raises(ValueError, match=message):
        DilatedNet(**fields).init(jax.random.key(0), jnp.zeros(shape), jnp.ones(1))


def test_squares_of_pixels_become_one_and_come_back():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    merged = merge_pixels(x, 2)
    assert merged.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(merged[1, 0, 2], np.asarray(x[1, :2, 4:]).reshape(-1))
    np.testing.assert_array_equal(split_pixels(merged, 2), x)


def test_a_patch_makes_a_network_of_fewer_pixels():
    """Shifting a field by a patch shifts the output; a patch of 3 does not fit."""
    x = jax.random.normal(jax.random.key(1), (1, 3, 16, 16, 2))

    def net(patch):
        return FieldNetwork(PeriodicUNet(4, (1,), 1, init_scale=1.0), forcing=0, patch=patch)

    variables = net(2).init(jax.random.key(0), x, jnp.ones(1))
    assert variables["params"]["net"]["down_0_conv"]["kernel"].shape[2] == 3 * 2 * 4
    y = net(2).apply(variables, x, jnp.ones(1))
    moved = net(2).apply(variables, jnp.roll(x, 2, 2), jnp.ones(1))
    np.testing.assert_allclose(moved, jnp.roll(y, 2, 2), atol=1e-5)
    with pytest.raises(ValueError, match="model.patch=3 does not divide fields of 16x16 pixels"):
        net(3).init(jax.random.key(0), x, jnp.ones(1))
