"""What holds for every network: initialisation, gradients, precision, dropout, names elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from networks import REFINENETS, inputs, random_network, shapes_of, tiny
from scorax.models.utils import MODELS, get_model, init_model
from scorax.weights.state_dicts import (
    from_flax_params,
    from_torch_state_dict,
    published_names,
    to_torch_state_dict,
    unused_arrays,
)
from slow import but_slow

KINDS = ("ncsnpp", "ddpm", "ncsnv2_64", "ncsn")
# The networks of NCSNv2 differ in depth, and the deepest has all their parts.
DEEPEST = sorted(MODELS.keys() - {"ncsnv2_64", "ncsnv2_128"})


def kinds(*fast):
    """The networks, of those of NCSNv2, which differ in depth, one; all but the fast are slow."""
    return pytest.mark.parametrize("name", but_slow(KINDS, fast.__contains__))


def assert_same_trees(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, left), right in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right, err_msg=jax.tree_util.keystr(path))


# Parameters


@pytest.mark.parametrize("name", but_slow(DEEPEST, "ddpm".__eq__))
def test_new_parameters_have_the_expected_shapes_in_float32(name):
    config = tiny(name)
    model, params, model_state = init_model(jax.random.key(0), config)
    assert model_state == {}
    expected = shapes_of(model, config)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
        lambda a: (a.shape, a.dtype), expected
    )
    assert {a.dtype for a in jax.tree.leaves(expected)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", but_slow(DEEPEST, "ddpm".__eq__))
def test_every_parameter_has_a_gradient(name):
    config = tiny(name)
    model, params = random_network(config)
    x, labels = inputs(config, batch=2)

    def loss(params):
        y = model.apply({"params": params}, x, labels)
        return jnp.mean(jnp.square(y - 1)), y

    (_, y), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert (y.shape, y.dtype) == (x.shape, jnp.float32)
    for path, g in flatten_dict(grads, sep=".").items():
        # A constant added to all keys does not change the softmax; the frequencies are fixed.
        if not path.endswith(("k.bias", ".W")):
            assert np.isfinite(g).all() and np.abs(g).max() > 0, path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ncsnpp", "ddpm", "ncsn"])
def test_remat_changes_neither_loss_nor_gradients(name):
    """Of a RefineNet only the program is compared, which takes a minute to compile."""
    config = tiny(name, dropout=0.3, ch_mult=(1,), attn_resolutions=())
    model, params = random_network(config)
    config.model.remat = True
    again = get_model(config)
    assert jax.tree.structure(params) == jax.tree.structure(shapes_of(again, config))
    x, labels = inputs(config)

    def loss(params, model):
        rngs = {"dropout": jax.random.key(1)}
        return jnp.mean(jnp.square(model.apply({"params": params}, x, labels, True, rngs=rngs)))

    grad = jax.value_and_grad(loss)
    recomputations = [
        str(jax.make_jaxpr(lambda p, m=m: grad(p, m))(params)).count("remat")
        for m in (model, again)
    ]
    assert recomputations[0] == 0 < recomputations[1]
    if name not in REFINENETS:
        stored, recomputed = (jax.jit(grad, static_argnums=1)(params, m) for m in (model, again))
        assert stored[0] == pytest.approx(float(recomputed[0]), rel=1e-6)
        for a, b in zip(jax.tree.leaves(stored[1]), jax.tree.leaves(recomputed[1]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", but_slow(("ncsnpp", "ddpm", "ncsn"), "ncsnpp".__eq__))
def test_bfloat16_is_close_and_keeps_parameters_in_float32(name):
    config = tiny(name)
    model, params = random_network(config)
    config.model.dtype = "bfloat16"
    half = get_model(config)
    assert {a.dtype for a in jax.tree.leaves(shapes_of(half, config))} == {jnp.dtype("float32")}
    x, labels = inputs(config)
    y, y_half = (jax.jit(m.apply)({"params": params}, x, labels) for m in (model, half))
    assert y_half.dtype == jnp.float32
    # Close, and yet really computed with 8 bits of mantissa.
    assert 1e-4 < np.abs(y_half - y).max() / np.abs(y).max() < 0.05


@pytest.mark.parametrize("name", ["ncsnpp", "ddpm"])
def test_dropout_acts_only_in_training(name):
    config = tiny(name, dropout=0.5, ch_mult=(1,))
    model, params = random_network(config)
    x, labels = inputs(config)
    apply = jax.jit(model.apply, static_argnums=3)

    def run(train, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(apply({"params": params}, x, labels, train, rngs=rngs))

    np.testing.assert_array_equal(run(False, 0), run(False, 1))
    np.testing.assert_array_equal(run(True, 0), run(True, 0))
    assert np.abs(run(True, 0) - run(True, 1)).max() > 1e-3
    assert np.abs(run(True, 0) - run(False, 0)).max() > 1e-3


@pytest.mark.parametrize("name", but_slow(REFINENETS, "ncsn".__eq__))
def test_refinenets_have_no_dropout(name):
    config = tiny(name, dropout=0.5)
    model, x = get_model(config), inputs(config)
    computations = {
        str(jax.make_jaxpr(lambda p, train=train: model.apply({"params": p}, *x, train))(params))
        for params in [shapes_of(model, config)]
        for train in (True, False)
    }
    assert len(computations) == 1 and "random" not in computations.pop()


# Names in the published trees


VARIANTS = [
    ("ncsnpp", {"progressive": "output_skip", "progressive_input": "input_skip"}),
    ("ncsnpp", {"progressive": "residual", "progressive_input": "residual"}),
    ("ncsnpp", {"resblock_type": "ddpm", "embedding_type": "positional", "fir": False}),
    (
        "ncsnpp",
        {"resblock_type": "ddpm", "progressive": "output_skip", "progressive_input": "input_skip"},
    ),
    ("ncsnpp", {"resblock_type": "ddpm", "fir": False, "resamp_with_conv": False}),
    ("ncsnpp", {"conditional": False}),
    ("ddpm", {}),
    ("ddpm", {"conditional": False, "resamp_with_conv": False}),
    ("ddpm", {"normalization": "InstanceNorm++"}),
    ("ncsn", {}),
    *((name, {}) for name in MODELS if name.startswith("ncsnv2")),
    ("ncsnv2_64", {"normalization": "VarianceNorm", "original": "jax"}),
    ("ncsnv2_64", {"normalization": "InstanceNorm"}),
]


@pytest.mark.parametrize(
    "name, fields", VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v))
)
def test_parameters_survive_the_way_through_published_names(name, fields):
    """To PyTorch's names and layouts and back, and back from Flax's."""
    config = tiny(name, **fields)
    _, params = random_network(config)
    state_dict = to_torch_state_dict(params, config)
    assert len(state_dict) == len(jax.tree.leaves(params)) + len(unused_arrays(config))
    assert_same_trees(from_torch_state_dict(state_dict, config), params)

    flat = flatten_dict(params)
    names = published_names(config)
    assert names.keys() == flat.keys()
    tree = {a.flax: flat[path] for path, a in names.items()}
    assert len(tree) == len(flat)
    assert_same_trees(from_flax_params(unflatten_dict(tree, sep="/"), config), params)


@pytest.mark.parametrize("leading", [(1, 1, 1), ()])
def test_norms_of_older_flax_files_are_taken(leading):
    config = tiny("ddpm")
    _, params = random_network(config)
    flat = flatten_dict(params)
    tree = {
        a.flax: flat[path].reshape(leading + flat[path].shape)
        if path[-1] == "scale"
        else flat[path]
        for path, a in published_names(config).items()
    }
    assert_same_trees(from_flax_params(unflatten_dict(tree, sep="/"), config), params)


@kinds("ddpm", "ncsnv2_64")
def test_trees_that_do_not_fit_are_refused_by_name(name):
    config = tiny(name)
    _, params = random_network(config)
    renamed = dict(params, conv_out=params["conv_in"])
    del renamed["conv_in"]
    with pytest.raises(ValueError, match=r"missing: conv_in.*left over: .*conv_out.kernel"):
        to_torch_state_dict(renamed, config)
    wide = dict(params, conv_in={k: np.repeat(v, 2, -1) for k, v in params["conv_in"].items()})
    with pytest.raises(ValueError, match=r"of another shape: conv_in.*conv_in"):
        to_torch_state_dict(wide, config)
    flat = {a.flax: 0.0 for a in published_names(config).values()}
    with pytest.raises(ValueError, match=r"left over: Extra_0/kernel; of another shape: .*Conv_0"):
        from_flax_params(unflatten_dict(flat | {"Extra_0/kernel": 0.0}, sep="/"), config)


def test_networks_without_noise_levels_have_unused_arrays_in_pytorch():
    """A dense layer for the embedding in every block: dropped, and written as zeros."""
    config = tiny("ncsnpp", conditional=False)
    _, params = random_network(config)
    state_dict = to_torch_state_dict(params, config)
    unused = unused_arrays(config)
    assert len(unused) == 2 * sum("conv_0" in module for module in params.values())
    for name, shape in unused.items():
        np.testing.assert_array_equal(state_dict[name], np.zeros(shape), strict=False)
        assert shape[1:] in ((), (4 * config.model.nf,))
    names = [name for name in state_dict if name.startswith("all_modules.2.")]
    layers = ("GroupNorm_0", "Conv_0", "Dense_0", "GroupNorm_1", "Conv_1")
    expected = [f"all_modules.2.{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    assert names[: len(expected)] == expected
    filled = state_dict | {name: np.ones(shape, np.float32) for name, shape in unused.items()}
    assert_same_trees(from_torch_state_dict(filled, config), params)
