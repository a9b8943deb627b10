"""The network of DDPM: reference outputs, kinship with DDPM++, switches, refused configs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_golden, config_of, load, nhwc, params_of, parse
from networks import inputs, random_network, shapes_of, tiny
from scorax.models.layers import NORMALIZATIONS
from scorax.models.utils import get_model, init_model
from slow import but_slow


def test_golden():
    z = load("model_e_ddpm_vp")
    config = config_of(parse(z, "config"))
    params = params_of(z, "params/", config)
    y = jax.jit(get_model(config).apply)({"params": params}, nhwc(z["in/x"]), z["in/labels"])
    assert y.dtype == jnp.float32
    assert_golden(y, z, "out/y")


@pytest.mark.parametrize("with_conv", but_slow([True, False], lambda c: not c))
def test_it_is_ddpmpp_with_32_groups_and_plain_sums(with_conv):
    """From 128 channels on DDPM++ has 32 groups too; its other differences are switches."""
    fields = {"nf": 128, "ch_mult": (1, 1), "resamp_with_conv": with_conv}
    ddpm, params = random_network(tiny("ddpm", **fields))
    config = tiny(
        "ncsnpp",
        resblock_type="ddpm",
        embedding_type="positional",
        fir=False,
        skip_rescale=False,
        **fields,
    )
    ddpmpp = get_model(config)
    assert jax.tree.structure(params) == jax.tree.structure(shapes_of(ddpmpp, config))
    x, labels = inputs(config)
    y, expected = (jax.jit(m.apply)({"params": params}, x, labels) for m in (ddpm, ddpmpp))
    np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max())


def test_initial_scales():
    """0.1 for the products of attention and the shortcuts; 1e-10 for what ends a branch."""
    config = tiny("ddpm", ch_mult=(1, 2), init_scale=0.0)
    _, params, _ = init_model(jax.random.key(0), config)

    def scale(*path):
        kernel = params[path[0]] if len(path) == 1 else params[path[0]][path[1]]
        kernel = np.asarray(kernel["kernel"])
        fan_avg = kernel[..., 0, 0].size * sum(kernel.shape[-2:]) / 2
        return np.mean(np.square(kernel)) * fan_avg

    for path in (("mid_attn", "q"), ("mid_attn", "v"), ("down_1_block_0", "shortcut")):
        assert scale(*path) == pytest.approx(0.1, rel=0.1)
    for path in (("mid_attn", "out"), ("mid_block_0", "conv_1"), ("out_conv",)):
        assert scale(*path) == pytest.approx(1e-10, rel=0.1)
    for path in (("mid_block_0", "conv_0"), ("mid_block_0", "temb"), ("conv_in",)):
        assert scale(*path) == pytest.approx(1.0, rel=0.1)


def test_an_unconditional_network_ignores_the_labels():
    for conditional in (False, True):
        config = tiny("ddpm", conditional=conditional, ch_mult=(1,))
        model, params = random_network(config)
        assert ("time_dense_0" in params) == ("temb" in params["mid_block_0"]) == conditional
        x, labels = inputs(config)
        apply = jax.jit(model.apply)
        outputs = [apply({"params": params}, x, c * labels) for c in (1.0, 3.0)]
        assert np.array_equal(*outputs) != conditional


def test_discrete_ve_network_is_divided_by_falling_sigmas():
    config = tiny("ddpm", ch_mult=(1,), num_scales=10)
    config.training.sde, config.training.continuous = "vesde", False
    plain, params = random_network(config)
    config.model.scale_by_sigma = True
    x, _ = inputs(config)
    labels = jnp.asarray([0, 4, 9])
    y, scaled = (
        jax.jit(m.apply)({"params": params}, x, labels) for m in (plain, get_model(config))
    )
    sigmas = np.geomspace(config.model.sigma_max, config.model.sigma_min, 10)[np.asarray(labels)]
    np.testing.assert_allclose(scaled, y / sigmas[:, None, None, None], rtol=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_normalisation_is_the_configured_one(normalization):
    names = {
        "GroupNorm": {"scale", "bias"},
        "InstanceNorm": {"scale", "bias"},
        "VarianceNorm": {"scale"},
        "InstanceNorm++": {"alpha", "gamma", "beta"},
    }
    config = tiny("ddpm", normalization=normalization)
    params = shapes_of(get_model(config), config)
    for place in (params["mid_block_0"]["norm_0"], params["mid_attn"]["norm"], params["out_norm"]):
        assert set(place) == names[normalization]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"normalization": "BatchNorm"}, r"model\.normalization\) 'BatchNorm'.*InstanceNorm\+\+"),
        ({"nonlinearity": "gelu"}, r"model\.nonlinearity\) 'gelu'"),
        ({"nf": 48}, r"48 channels.*32 groups.*model\.nf"),
        ({"nf": 2}, r"model\.nf=2"),
        ({"ch_mult": ()}, r"model\.ch_mult=\(\)"),
        ({"num_res_blocks": 0}, r"model\.num_res_blocks=0"),
        ({"ch_mult": (1, 1, 1, 1, 1)}, r"image_size=8 .*4 times.*multiple of 16"),
        ({"scale_by_sigma": True}, r"scale_by_sigma=True.*'eps'.*scale_by_sigma=False"),
    ],
    ids=lambda v: "-".join(f"{k}={u}" for k, u in v.items()) if isinstance(v, dict) else "",
)
def test_configs_that_cannot_work_are_refused_before_anything_compiles(fields, message):
    config = tiny("ddpm", **fields)
    with pytest.raises(ValueError, match=message):
        shapes_of(get_model(config), config)
