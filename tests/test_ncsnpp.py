"""NCSN++: reference outputs and weights, every switch."""

import functools
import itertools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_golden, config_of, load, nhwc, params_of, parse, part
from networks import inputs, random_network, shapes_of, tiny
from scorax.models.ncsnpp import CHOICES, NCSNpp
from scorax.models.utils import get_model, init_model
from scorax.weights.state_dicts import from_torch_state_dict

GOLDEN = [
    "model_a_ncsnpp_ve_cifar10",
    "model_b_ncsnpp_ve_ffhq",
    "model_c_ncsnpp_vp_ddpmpp",
    "model_c2_ncsnpp_ve_discrete",
    "model_d_ncsnpp_ddpmblock_cat_residual_fir",
    "model_d2_ncsnpp_ddpmblock_residual_nofir",
]


@functools.cache
def golden_model(name):
    z = load(name)
    config = config_of(parse(z, "config"))
    return config, get_model(config), params_of(z, "params/", config)


# Reference values and conversion


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    z = load(name)
    _, model, params = golden_model(name)
    y = jax.jit(model.apply)({"params": params}, nhwc(z["in/x"]), z["in/labels"])
    assert y.dtype == jnp.float32
    assert_golden(y, z, "out/y")


@pytest.mark.parametrize("name", GOLDEN)
def test_converted_parameters_are_those_of_a_new_network(name):
    config, model, params = golden_model(name)
    expected = shapes_of(model, config)
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    for (path, ours), leaf in zip(
        jax.tree.leaves_with_path(expected), jax.tree.leaves(params), strict=True
    ):
        assert (ours.shape, ours.dtype) == (leaf.shape, leaf.dtype), jax.tree_util.keystr(path)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_published_array_is_used_exactly_once(prefix):
    """Each value of the state dict turns up in the tree, and nothing else does."""
    z = load(GOLDEN[0])
    config = config_of(parse(z, "config"))
    state_dict = {prefix + key: value for key, value in part(z, "params/").items()}
    params = from_torch_state_dict(state_dict, config)
    state_dict.pop(prefix + "sigmas")
    theirs = sorted(float(np.sum(v, dtype=np.float64)) for v in state_dict.values())
    ours = sorted(float(np.sum(v, dtype=np.float64)) for v in jax.tree.leaves(params))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def damaged(change):
    z = load(GOLDEN[0])
    state_dict = part(z, "params/")
    change(state_dict)
    return state_dict, config_of(parse(z, "config"))


def rename(state_dict, old, new):
    state_dict[new] = state_dict.pop(old)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("all_modules.3.")], "all_modules.3."),
        # One array of a module may be named as it is there or as it is here.
        (
            lambda s: s.pop("all_modules.4.Conv_1.weight"),
            "all_modules.4.Conv_1.weight|down_0_block_0.*conv_1.*kernel",
        ),
        (lambda s: s.pop("all_modules.3.bias"), "all_modules.3.bias|conv_in.*bias"),
        (lambda s: s.update({"all_modules.999.weight": np.zeros(3)}), "all_modules.999.weight"),
        (lambda s: s.update({"extra": np.zeros(3)}), "extra"),
        (
            lambda s: rename(s, "all_modules.4.Conv_0.weight", "all_modules.4.Conv_7.weight"),
            "all_modules.4.Conv_7.weight",
        ),
        (lambda s: rename(s, "all_modules.3.weight", "all_modules.3.gamma"), "gamma"),
    ],
    ids=["module", "kernel", "bias", "left_over", "foreign", "renamed", "unknown_leaf"],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(change, named):
    state_dict, config = damaged(change)
    with pytest.raises(ValueError, match=named):
        from_torch_state_dict(state_dict, config)


def test_a_state_dict_of_another_shape_is_refused():
    """The config says a wider network than the file holds."""
    state_dict, config = damaged(lambda s: None)
    config.model.nf = 2 * config.model.nf
    with pytest.raises(ValueError, match="all_modules|shape"):
        from_torch_state_dict(state_dict, config)


# Switches


SWITCHES = {
    "resblock_type": CHOICES["resblock_type"],
    "progressive": CHOICES["progressive"],
    "progressive_input": CHOICES["progressive_input"],
    "progressive_combine": CHOICES["progressive_combine"],
    "embedding_type": CHOICES["embedding_type"],
    "fir": (False, True),
    "skip_rescale": (False, True),
    "resamp_with_conv": (False, True),
    "conditional": (False, True),
    "nonlinearity": ("elu", "swish"),
}


def pairwise(table, seed=0):
    """Few combinations that hold every pair of values of every two switches (greedy)."""
    names = list(table)
    pairs = {
        (a, u, b, v)
        for a, b in itertools.combinations(names, 2)
        for u in table[a]
        for v in table[b]
    }
    rng = np.random.default_rng(seed)
    chosen = []
    while pairs:
        a, u, b, v = min(pairs, key=str)
        candidates = [
            {n: table[n][rng.integers(len(table[n]))] for n in names} | {a: u, b: v}
            for _ in range(100)
        ]
        covered = [{p for p in pairs if c[p[0]] == p[1] and c[p[2]] == p[3]} for c in candidates]
        best = max(range(100), key=lambda i: len(covered[i]))
        chosen.append(candidates[best])
        pairs -= covered[best]
    return chosen


def test_pairwise_holds_every_pair():
    chosen = pairwise(SWITCHES)
    for a, b in itertools.combinations(SWITCHES, 2):
        assert {(c[a], c[b]) for c in chosen} == set(itertools.product(SWITCHES[a], SWITCHES[b]))


def combinations():
    for i, c in enumerate(pairwise(SWITCHES)):
        marks = [pytest.mark.slow] if i >= 2 else []
        yield pytest.param(c, id="-".join(str(v) for v in c.values()), marks=marks)


@pytest.mark.parametrize("switches", list(combinations()))
def test_every_parameter_is_used_and_has_a_finite_gradient(switches):
    config = tiny(**switches)
    model, params = random_network(config)
    x, labels = inputs(config, batch=2)

    def loss(params):
        y = model.apply({"params": params}, x, labels)
        return jnp.mean(jnp.square(y - 1)), y

    (_, y), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert y.shape == x.shape and np.isfinite(y).all()
    for path, g in jax.tree.leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(g).all(), name
        # A constant added to all keys does not change the softmax; the frequencies are fixed.
        if not name.endswith(("['k']['bias']", "['W']")):
            assert np.abs(g).max() > 0, name
        if name.endswith("['W']"):
            assert not np.any(g), name


@pytest.mark.parametrize("field", [*CHOICES, "nonlinearity"])
def test_unknown_switch_values_are_refused(field):
    with pytest.raises(ValueError, match=f"(?s){field}.*'nonsense'.*choose from"):
        NCSNpp(**{field: "nonsense"})


@pytest.mark.parametrize("fields", [{"nf": 2}, {"ch_mult": ()}, {"num_res_blocks": 0}])
def test_sizes_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        NCSNpp(**fields)


def test_channels_that_do_not_split_into_groups_are_refused():
    config = tiny(nf=6)
    with pytest.raises(ValueError, match=r"model\.nf"):
        jax.eval_shape(lambda: init_model(jax.random.key(0), config)[1])


def test_an_image_size_that_cannot_be_halved_is_refused():
    config = tiny(ch_mult=(1, 1, 1, 1))
    config.data.image_size = 12
    with pytest.raises(ValueError, match=r"image_size=12 .*3 times.*multiple of 8"):
        init_model(jax.random.key(0), config)


# Behaviour


def test_an_unconditional_network_ignores_the_labels():
    for conditional in (False, True):
        config = tiny(conditional=conditional)
        model, params = random_network(config)
        assert ("time_dense_0" in params) == conditional
        x, labels = inputs(config)
        apply = jax.jit(model.apply)
        outputs = [apply({"params": params}, x, c * labels) for c in (1.0, 3.0)]
        assert np.array_equal(*outputs) != conditional


def test_new_networks_start_near_zero():
    """`init_scale` 0 stands for 1e-10: the output starts near zero, but not at it."""
    config = tiny(init_scale=0.0, ch_mult=(1,))
    model, params, model_state = init_model(jax.random.key(0), config)
    assert model_state == {}
    x, labels = inputs(config)
    y = jax.jit(model.apply)({"params": params}, x, labels)
    assert 0 < np.abs(y).max() < 1e-3


@pytest.mark.slow
def test_bfloat16_gradients_point_the_same_way():
    config = tiny(nf=8, ch_mult=(1,))
    model, params = random_network(config)
    config.model.dtype = "bfloat16"
    x, labels = inputs(config)

    def loss(params, model):
        return jnp.mean(jnp.square(model.apply({"params": params}, x, labels)))

    g, g_half = (
        jax.jit(jax.grad(loss), static_argnums=1)(params, m) for m in (model, get_model(config))
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(g_half)} == {jnp.dtype("float32")}
    g, g_half = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (g, g_half))
    assert jnp.vdot(g, g_half) / jnp.linalg.norm(g) / jnp.linalg.norm(g_half) > 0.99


def test_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="'float17'.*float32, bfloat16"):
        get_model(tiny(dtype="float17"))
