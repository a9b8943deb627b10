"""Networks that are told a class: their embedding, hidden labels in training, refused labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from networks import inputs, random_network, shapes_of, tiny
from scorax.experiment import build
from scorax.losses import drop_labels, get_sde_loss_fn
from scorax.models.utils import PARAMETRIZATIONS, get_model, get_parametrization, get_score_fn
from scorax.noise_levels import get_level_fn
from scorax.sde_lib import get_sde

CLASSES = 5
# Of two channels a group: a norm of one takes out what the embedding adds to it.
FIELDS = {"ch_mult": (2,), "attn_resolutions": ()}
BOTH = pytest.mark.parametrize("name", ["ncsnpp", "ddpm"])
LABELS = jnp.asarray([0, 4, 2], jnp.int32)
NO_CLASS = jnp.full(3, CLASSES)


@functools.cache
def network(name):
    """Config, module, parameters of a network with classes, and the compiled module."""
    config = tiny(name, num_classes=CLASSES, **FIELDS)
    model, params = random_network(config)
    return config, model, params, jax.jit(model.apply, static_argnums=3)


def run(name, class_labels, params=None, order=slice(None)):
    config, _, own, apply = network(name)
    x, labels = (a[order] for a in inputs(config))
    return np.asarray(apply({"params": params or own}, x, labels, False, class_labels))


# The embedding


@BOTH
def test_classes_add_one_layer_and_no_classes_none(name):
    without = shapes_of(get_model(tiny(name, **FIELDS)), tiny(name, **FIELDS))
    config, model, *_ = network(name)
    with_classes = shapes_of(model, config)
    layer = with_classes.pop("class_dense")
    assert jax.tree.map(jnp.shape, with_classes) == jax.tree.map(jnp.shape, without)
    width = without["time_dense_0"]["kernel"].shape[0]
    assert jax.tree.map(jnp.shape, layer) == {"kernel": (CLASSES, width), "bias": (width,)}


@BOTH
def test_each_example_has_its_own_class(name):
    y, order = run(name, LABELS), np.asarray([2, 0, 1])
    np.testing.assert_allclose(
        run(name, LABELS[order], order=order), y[order], rtol=1e-4, atol=1e-5
    )
    changed = np.abs(run(name, LABELS.at[1].set(3)) - y).max((1, 2, 3))
    assert changed[1] > 1e-3 > 1e-4 > max(changed[0], changed[2])


@BOTH
def test_no_class_is_the_last_label_and_what_the_bias_alone_gives(name):
    """The bias joins that of the next layer, so that a network without classes does the same."""
    config, _, params, _ = network(name)
    y = run(name, None)
    np.testing.assert_array_equal(run(name, NO_CLASS), y)
    assert np.abs(run(name, LABELS) - y).max() > 1e-3
    params = dict(params)
    bias, dense = params.pop("class_dense")["bias"], params["time_dense_0"]
    params["time_dense_0"] = dense | {"bias": dense["bias"] + bias @ dense["kernel"]}
    config = tiny(name, **FIELDS)
    expected = jax.jit(get_model(config).apply)({"params": params}, *inputs(config))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@BOTH
def test_a_class_is_added_to_the_embedding_of_the_noise_level(name):
    """sqrt(classes) times its row of the kernel (Karras et al. 2022, their networks' map_label)."""
    _, _, params, _ = network(name)
    layer = params["class_dense"]
    moved = layer["bias"] + CLASSES**0.5 * layer["kernel"][3]
    shifted = params | {"class_dense": {"kernel": layer["kernel"], "bias": moved}}
    np.testing.assert_allclose(
        run(name, jnp.full(3, 3)), run(name, NO_CLASS, shifted), rtol=1e-4, atol=1e-5
    )


def test_networks_without_classes_refuse_labels():
    config = tiny("ncsnpp", **FIELDS)
    model = get_model(config)
    params = shapes_of(model, config)
    with pytest.raises(ValueError, match="told no class; leave them out.*model.num_classes"):
        jax.eval_shape(
            lambda p: model.apply({"params": p}, *inputs(config), class_labels=LABELS), params
        )


# The score


@functools.cache
def experiment():
    config = tiny("ncsnpp", num_classes=CLASSES, **FIELDS)
    config.training.batch_size = config.eval.batch_size = 8
    return build(config)


@pytest.mark.slow
def test_score_functions_are_bound_to_labels():
    built = experiment()
    _, model, params, _ = network("ncsnpp")
    x, t = inputs(built.config)[0], jnp.asarray([0.2, 0.5, 0.9])
    score = jax.jit(lambda labels: built.score_fn(params, {}, labels)(x, t))
    row = get_parametrization(built.config, built.sde)
    sigma = built.sde.marginal_coeffs(t)[1]
    expected = model.apply({"params": params}, x, sigma, False, LABELS)
    np.testing.assert_allclose(score(LABELS), expected, rtol=1e-4, atol=1e-5)
    none = jax.jit(get_score_fn(built.sde, model, params, {}, row))(x, t)
    np.testing.assert_allclose(score(NO_CLASS), none, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels, wrong", [([0, 6], 6), ([-1, 2], -1)])
def test_labels_that_are_no_classes_are_refused(labels, wrong):
    with pytest.raises(ValueError, match=f"label {wrong} does not lie in 0 ... 5.*num_classes=5"):
        experiment().score_fn({}, {}, np.asarray(labels))


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 5, 1], "mnist.*label 5 does not lie in 0 ... 4.*model.num_classes=5 asks .1 of 3"),
        ([0, -1, 1], "label -1 does not lie in 0"),
        ([0] * 9, "mnist.*label 0 for all of 9 examples.*model.num_classes=0"),
    ],
)
def test_data_without_the_classes_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        experiment().check_labels(np.array(labels))


def test_data_with_the_classes_are_taken_and_labels_without_classes_are_not_looked_at():
    assert experiment().check_labels(np.array([0, 4, 2, 3, 1])) == ""
    assert experiment().check_labels(np.array([4] + [0, 1, 2, 3] * 100)) == ""
    few = experiment().check_labels(np.array([0] * 980 + [1] * 20))
    assert "has the label 2, 3, 4" in few and "2 classes" in few
    config = tiny("ncsnpp", **FIELDS)
    config.training.batch_size = config.eval.batch_size = 8
    plain = build(config)
    assert plain.check_labels(np.array([7] * 9)) == ""
    with pytest.raises(ValueError, match="told no classes .model.num_classes=0"):
        plain.score_fn({}, {}, LABELS)


# The loss


def seen_labels(train, rate, n=4000, num_classes=CLASSES, labels=None):
    """The class labels, and times, that a network is given in the loss of a batch."""
    seen = {}

    class Recorder:
        def apply(self, variables, x, sigma, train, class_labels=None, rngs=None):
            seen.update(labels=class_labels, sigma=np.asarray(sigma))
            return x

    config = tiny("ncsnpp")
    sde = get_sde(config)
    loss_fn = get_sde_loss_fn(
        *(sde, Recorder(), PARAMETRIZATIONS["sigma"], get_level_fn(config, sde), train),
        num_classes=num_classes,
        label_dropout=rate,
    )
    batch = {"image": jnp.zeros((n, 1)), "index": jnp.arange(n)}
    batch |= {} if labels is None else {"label": labels}
    loss_fn(jax.random.key(0), {}, {}, batch)
    return seen["labels"], seen["sigma"]


def test_training_hides_labels_at_the_rate_asked_for():
    labels = jnp.arange(4000) % CLASSES
    seen, sigma = seen_labels(True, 0.3, labels=labels)
    hidden = np.asarray(seen == CLASSES)
    assert hidden.mean() == pytest.approx(0.3, abs=4.5 * (0.21 / 4000) ** 0.5)
    np.testing.assert_array_equal(seen[~hidden], labels[~hidden])
    # Hidden or not has nothing to do with the noise level, nor with the class.
    for other in (np.log(sigma), np.asarray(labels)):
        assert abs(np.corrcoef(hidden, other)[0, 1]) < 4.5 / 4000**0.5


def test_which_labels_are_hidden_belongs_to_the_example():
    keys = jax.random.split(jax.random.key(3), 100)
    labels = jnp.arange(100) % CLASSES
    seen = drop_labels(keys, labels, CLASSES, 0.5)
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(
        drop_labels(keys[order], labels[order], CLASSES, 0.5), seen[order]
    )
    np.testing.assert_array_equal(drop_labels(keys[:40], labels[:40], CLASSES, 0.5), seen[:40])


@pytest.mark.parametrize(
    "train, rate, kept", [(True, 0.0, True), (True, 1.0, False), (False, 1.0, True)]
)
def test_labels_are_hidden_in_training_only(train, rate, kept):
    labels = jnp.arange(50) % CLASSES
    seen, _ = seen_labels(train, rate, 50, labels=labels)
    np.testing.assert_array_equal(seen, labels if kept else jnp.full(50, CLASSES))


def test_classes_change_neither_noise_levels_nor_noise():
    with_classes = seen_labels(True, 0.5, 50, labels=jnp.zeros(50, jnp.int32))[1]
    labels, without = seen_labels(True, 0.5, 50, num_classes=0)  # of a batch without labels
    assert labels is None
    np.testing.assert_array_equal(with_classes, without)


@pytest.mark.slow
def test_training_moves_the_rows_of_the_classes_in_the_batch():
    built = experiment()
    _, _, params, _ = network("ncsnpp")
    loss_fn = built.loss_fn(train=False)
    batch = {"image": inputs(built.config)[0], "label": LABELS, "index": jnp.arange(3)}
    grads = jax.jit(jax.grad(lambda p: loss_fn(jax.random.key(0), p, {}, batch)[0]))(params)
    moved = np.abs(grads["class_dense"]["kernel"]).max(1) > 0
    np.testing.assert_array_equal(moved, [True, False, True, False, True])
