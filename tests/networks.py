"""Small networks for tests: configs that compile in seconds, parameters without special values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from scorax.configs import base
from scorax.models.utils import MODELS, get_model

REFINENETS = [name for name in MODELS if name.startswith("ncsn") and name != "ncsnpp"]


def tiny(name="ncsnpp", **fields):
    """The config of a network of few channels and pixels, with the given fields."""
    config = base.get_config()
    config.data.image_size = 16 if name == "ncsnv2_256" else 8
    m = config.model
    m.name = name
    m.nf, m.ch_mult, m.num_res_blocks, m.attn_resolutions = 4, (1, 2), 1, (4,)
    m.dropout, m.init_scale, m.fourier_scale = 0.0, 1.0, 1.0
    if name == "ddpm":
        config.training.sde = "vpsde"
        m.nf, m.ch_mult = 32, (1, 1)  # 32 groups
    if name in REFINENETS:
        config.training.continuous = False
        m.num_scales, m.normalization, m.nonlinearity = 10, "InstanceNorm++", "elu"
    m.update(fields)
    if name == "ncsnpp" and m.embedding_type == "positional":
        config.training.sde = "vpsde"
    return config


def inputs(config, batch=3):
    """Images, and labels that the network takes."""
    size = config.data.image_size
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size, config.data.num_channels))
    labels = jnp.linspace(0.2, 5.0, batch)
    if config.model.name in REFINENETS:
        labels = labels.astype(jnp.int32)
    return jnp.asarray(x, jnp.float32), labels


def shapes_of(model, config):
    """The parameter tree of a network, without values."""
    size, channels = config.data.image_size, config.data.num_channels
    return jax.tree.map(lambda leaf: leaf, shapes_at(model, size, channels))  # a tree of its own


@functools.cache
def shapes_at(model, size, channels):
    """Traced once for each network: that takes longer than what most tests do with it."""
    x, labels = jnp.zeros((1, size, size, channels)), jnp.ones((1,))
    return jax.eval_shape(lambda key: model.init(key, x, labels)["params"], jax.random.key(0))


def random_network(config):
    """The network and parameters without special values: no zero bias, no vanishing kernel."""
    model, rng = get_model(config), np.random.default_rng(1)

    def draw(path, leaf):
        n = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return jnp.asarray(n / np.sqrt(leaf.size / leaf.shape[-1]), jnp.float32)
        near_one = path[-1].key in ("scale", "alpha", "gamma", "embedding")
        return jnp.asarray(0.1 * n + near_one, jnp.float32)

    return model, jax.tree.map_with_path(draw, shapes_of(model, config))


def edm_inner(z, names=("A", "b", "d"), labels=None):
    """The inner network of the values in edm.npz, tanh(A x + c b + d + label Y) at each pixel."""
    a, b, d, y = (jnp.asarray(z[f"in/inner/{name}"]) for name in (*names, "Y"))

    def net(x, c):
        h = x @ a.T + c[:, None, None, None] * b[None, None, None] + d[None, None, None]
        return jnp.tanh(h if labels is None else h + (jnp.asarray(z[labels]) @ y)[:, None, None, :])

    return net
