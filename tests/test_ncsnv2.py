"""NCSN and NCSNv2: reference outputs of both originals, their norms and resizing, refused configs.

The files `model_f*` are those of PyTorch's NCSNv2. `model_ncsn_pytorch` was computed in PyTorch and
`model_*_jax` in Flax from the layers of the respective original, with small random parameters;
repaired was what could not run (the conditional norm had no class count, biases no initialiser that
takes a dtype, and a norm was built where it had to be applied), and neither changes the values.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from golden import assert_golden, config_of, load, nhwc, params_of, parse, part
from networks import REFINENETS, inputs, random_network, shapes_of, tiny
from scorax.models.layers import NORMALIZATIONS, InstanceNormPlus, get_normalization
from scorax.models.refinenet import ResidualBlock, get_interpolation
from scorax.models.utils import get_model, get_parametrization, init_model
from scorax.sde_lib import get_sde
from scorax.weights.state_dicts import from_flax_params
from slow import but_slow


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize(
    "name",
    but_slow(
        ["model_f_ncsnv2", "model_f2_ncsnv2_128", "model_ncsn_pytorch"], "model_f_ncsnv2".__eq__
    ),
)
def test_golden_pytorch(name):
    z = load(name)
    config = config_of(parse(z, "config"))
    params = params_of(z, "params/", config)
    y = jax.jit(get_model(config).apply)({"params": params}, nhwc(z["in/x"]), z["in/labels"])
    assert y.dtype == jnp.float32
    assert_golden(y, z, "out/y")


@pytest.mark.parametrize(
    "name",
    but_slow(
        ["model_ncsnv2_jax", "model_ncsnv2_256_jax", "model_ncsn_jax"], "model_ncsnv2_jax".__eq__
    ),
)
def test_golden_jax(name):
    z = load(name)
    config = config_of(parse(z, "config"))
    assert config.model.original == "jax"
    params = from_flax_params(unflatten_dict(part(z, "params/"), sep="/"), config)
    y = jax.jit(get_model(config).apply)({"params": params}, nhwc(z["in/x"]), z["in/labels"])
    assert_golden(y, z, "out/y")


# Where the two originals differ


IMAGES = normal(2, 4, 6, 5) * [1, 2, 3, 4, 5] + [3, 1, 4, 1, 5]
UNBIASED = {"pytorch": 1, "jax": 0}


def expected_norm(name, original, x, p):
    """In float64, from the definitions."""
    ddof = UNBIASED[original]
    mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    hat = (x - mean) / np.sqrt(var + 1e-5)
    if name == "InstanceNorm":
        return hat * p.get("scale", 1.0) + p.get("bias", 0.0)
    if name == "VarianceNorm":
        return p["scale"] * x / np.sqrt(x.var((1, 2), keepdims=True, ddof=ddof) + 1e-5)
    spread = mean.var(-1, keepdims=True, ddof=ddof)
    hat_of_means = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(spread + 1e-5)
    return p["gamma"] * (hat + p["alpha"] * hat_of_means) + p["beta"]


def random_norm(norm, *args):
    """A norm without special parameters, and the parameters in float64."""
    shapes = jax.eval_shape(norm.init, jax.random.key(0), *args).get("params", {})
    rng = np.random.default_rng(1)
    return {key: rng.standard_normal(leaf.shape) for key, leaf in shapes.items()}


@pytest.mark.parametrize("original", UNBIASED)
@pytest.mark.parametrize("name", [n for n in NORMALIZATIONS if n != "GroupNorm"])
def test_norms_are_those_of_each_original(name, original):
    norm = get_normalization(name, original)()
    x = jnp.asarray(IMAGES, jnp.float32)
    p = random_norm(norm, x)
    assert bool(p) != (name == "InstanceNorm" and original == "pytorch")
    y = norm.apply({"params": jax.tree.map(jnp.float32, p)}, x)
    np.testing.assert_allclose(y, expected_norm(name, original, IMAGES, p), rtol=1e-4, atol=1e-4)


def test_the_conditional_norm_is_the_plain_one_with_a_row_of_its_embedding():
    """Rows hold gamma, alpha, beta, in this order."""
    norm = InstanceNormPlus(ddof=1, num_classes=3)
    x, labels = jnp.asarray(IMAGES, jnp.float32), jnp.asarray([2, 0])
    table = random_norm(norm, x, labels)["embedding"]
    assert table.shape == (3, 15)
    y = norm.apply({"params": {"embedding": jnp.asarray(table, jnp.float32)}}, x, labels)
    for i, label in enumerate(labels):
        p = dict(zip(("gamma", "alpha", "beta"), np.split(table[label], 3), strict=True))
        expected = expected_norm("InstanceNorm++", "pytorch", IMAGES[i : i + 1], p)
        np.testing.assert_allclose(y[i : i + 1], expected, rtol=1e-4, atol=1e-4)


def test_pytorch_resizes_with_aligned_corners():
    """Every corner stays, and a linear ramp stays linear; JAX moves both."""
    ramp = np.linspace(0, 1, 4)[:, None] + 10 * np.linspace(0, 1, 3)
    x = jnp.asarray(ramp[None, :, :, None], jnp.float32)
    finer = np.linspace(0, 1, 8)[:, None] + 10 * np.linspace(0, 1, 6)
    y = {o: get_interpolation("bilinear", o)(x, (8, 6))[0, :, :, 0] for o in UNBIASED}
    np.testing.assert_allclose(y["pytorch"], finer, rtol=1e-6, atol=1e-6)
    # Pixel centres at i + 1/2: an edge repeats for half a pixel, between centres lie quarters.
    column = np.interp((np.arange(8) + 0.5) / 2 - 0.5, np.arange(4), ramp[:, 0])
    np.testing.assert_allclose(y["jax"][:, 0], column, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("original", UNBIASED)
def test_nearest_neighbours_repeat_each_pixel(original):
    x = jnp.asarray(normal(2, 3, 4, 2), jnp.float32)
    y = get_interpolation("nearest_neighbor", original)(x, (6, 8))
    np.testing.assert_array_equal(y, np.repeat(np.repeat(x, 2, 1), 2, 2))


def test_a_single_pixel_is_spread_over_the_image():
    y = get_interpolation("bilinear", "pytorch")(jnp.full((1, 1, 1, 2), 3.0), (4, 2))
    np.testing.assert_array_equal(y, np.full((1, 4, 2, 2), 3.0))


# Behaviour


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_conditional_block_with_constant_rows_is_the_unconditional_one(dilation):
    x = jnp.asarray(normal(2, 8, 8, 4), jnp.float32)
    labels = jnp.asarray([1, 0])
    plain, conditional = (
        ResidualBlock(
            jax.nn.elu,
            lambda n=n, **kwargs: InstanceNormPlus(ddof=1, num_classes=n, **kwargs),
            jnp.float32,
            6,
            down=True,
            dilation=dilation,
        )
        for n in (0, 3)
    )
    params = plain.init(jax.random.key(0), x, None)["params"]
    rows = dict(params)
    for key in ("norm_0", "norm_1"):
        p = params[key] = {k: v + 0.1 * jnp.arange(4.0) for k, v in params[key].items()}
        row = jnp.concatenate([p["gamma"], p["alpha"], p["beta"]])
        rows[key] = {"embedding": jnp.tile(row[None], (3, 1))}
    np.testing.assert_allclose(
        conditional.apply({"params": rows}, x, labels),
        plain.apply({"params": params}, x, None),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.slow
def test_labels_choose_rows_of_ncsn_and_noise_levels_of_ncsnv2():
    x = jnp.tile(inputs(tiny("ncsn"))[0][:1], (2, 1, 1, 1))
    labels = jnp.asarray([0, 9])

    model, params = random_network(tiny("ncsn"))
    apply = jax.jit(model.apply)
    a, b = apply({"params": params}, x, labels)
    assert np.abs(a - b).max() > 1e-2
    same = jax.tree.map_with_path(
        lambda path, p: jnp.tile(p[:1], (10, 1)) if path[-1].key == "embedding" else p, params
    )
    one, other = (apply({"params": same}, x, k) for k in (labels, labels[::-1]))
    np.testing.assert_array_equal(one, other)

    config = tiny("ncsnv2_64", scale_by_sigma=True)
    model, params = random_network(config)
    apply = jax.jit(model.apply)
    a, b = (apply({"params": params}, x, jnp.full(2, label)) for label in labels)
    ratio = config.model.sigma_max / config.model.sigma_min
    np.testing.assert_allclose(b, a * ratio, rtol=1e-5)


def test_labels_run_from_the_largest_noise_level_to_the_smallest():
    """The discrete score at t = 1 has the largest noise level, that at t = 0 the smallest."""
    for name in ("ncsn", "ncsnv2_64"):
        config = tiny(name, scale_by_sigma=name != "ncsn")
        sde, seen = get_sde(config), []

        def net(x, labels, seen=seen):
            seen.append(labels)
            return 3 * x

        x = jnp.ones((2, 1))
        score = get_parametrization(config, sde)(sde, net, x, jnp.asarray([1.0, 0.0]))
        np.testing.assert_array_equal(seen[0], [0, 9])
        assert jnp.issubdtype(seen[0].dtype, jnp.integer)
        np.testing.assert_array_equal(score, 3 * x)  # the output is the score
    sigmas = get_model(config).sigmas
    np.testing.assert_allclose([sigmas[0], sigmas[-1]], [50.0, 0.01], rtol=1e-6)


@pytest.mark.parametrize("original", UNBIASED)
def test_initial_values(original):
    """PyTorch's +-1/sqrt(fan_in) for kernels and biases; JAX's LeCun normal before a pool."""
    config = tiny("ncsn", nf=32, original=original)
    _, params, _ = init_model(jax.random.key(0), config)

    def of(*path):
        leaf = params
        for key in path:
            leaf = leaf[key]
        return np.asarray(leaf)

    for place, fan_in in ((("down_0_block_0", "conv_0"), 288), (("up_0", "fusion", "conv_0"), 288)):
        for name in ("kernel", "bias"):
            values = of(*place, name) * np.sqrt(fan_in)
            assert 0.9 < np.abs(values).max() <= 1
            assert abs(values.mean()) < 0.4 and values.std() == pytest.approx(3**-0.5, rel=0.25)
    pooled, bias = (of("down_1_block_0", "conv_1", name) for name in ("kernel", "bias"))
    assert not np.any(bias) if original == "jax" else np.all(bias != 0)
    spread = {"pytorch": 3**-0.5, "jax": 1.0}[original]
    assert pooled.std() * np.sqrt(288) == pytest.approx(spread, rel=0.05)
    table = of("down_0_block_0", "norm_0", "embedding")
    assert table.shape == (10, 96) and not np.any(table[:, 64:])
    assert table[:, :64].mean() == pytest.approx(1, abs=5e-3)
    assert table[:, :64].std() == pytest.approx(0.02, rel=0.1)


# Refused


@pytest.mark.parametrize("name", REFINENETS)
@pytest.mark.parametrize(
    "change, message",
    [
        ({"model.normalization": "BatchNorm"}, r"BatchNorm.*InstanceNorm\+\+"),
        ({"model.interpolation": "bicubic"}, r"interpolation.*'bicubic'.*nearest_neighbor"),
        ({"model.original": "tf"}, r"original.*'tf'.*pytorch, jax"),
        ({"model.nonlinearity": "gelu"}, r"'gelu'.*elu"),
        ({"model.nf": 1}, r"model\.nf=1"),
        ({"data.image_size": 9}, r"image_size=9 cannot be halved"),
        ({"training.continuous": True}, r"model\.name='ncsn.*training\.continuous=False"),
        (
            {"training.sde": "vpsde", "model.num_scales": 100},
            r"model\.name='ncsn.*training\.sde='vesde'",
        ),
        ({"model.parametrization": "edm"}, r"model\.name='ncsn.*'edm'"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_configs_that_cannot_work_are_refused_before_anything_compiles(name, change, message):
    config = tiny(name)
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        shapes_of(get_model(config), config)


@pytest.mark.parametrize("normalization", [n for n in NORMALIZATIONS if n != "InstanceNorm++"])
def test_ncsn_needs_a_conditional_norm(normalization):
    with pytest.raises(ValueError, match=r"model\.normalization=.*no conditional form.*'ncsn'"):
        get_model(tiny("ncsn", normalization=normalization))


def test_group_norm_needs_channels_that_split():
    with pytest.raises(ValueError, match=r"4 channels.*32 groups.*model\.nf"):
        config = tiny("ncsnv2_64", normalization="GroupNorm")
        shapes_of(get_model(config), config)
