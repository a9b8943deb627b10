"""Converts weights of published networks to parameters of the networks here, and back.

All conversions use one table, `published_names`, which gives for each of our parameters its name in
score_sde_pytorch and in score_sde, and its layout. The names come from `score_sde_names`. Arrays
are float32.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from scorax.models.ncsnpp import NCSNpp
from scorax.models.utils import get_model, get_variable_shapes
from scorax.utils.shapes import image_shape
from scorax.weights.score_sde_names import get_layers

Path = tuple[str, ...]


class PublishedArray(NamedTuple):
    """Names and layouts of one array.

    Attributes:
      torch: name in the state dict of score_sde_pytorch, without the prefix `module.`.
      flax: path in the parameter tree of score_sde, joined by slashes.
      axes: `torch_array.transpose(axes)` has our order of axes.
      shape: shape of our array.
    """

    torch: str
    flax: str
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def from_torch(self, value: np.ndarray) -> np.ndarray | None:
        """Returns a PyTorch array in our layout, or None if its shape does not match."""
        if value.ndim != len(self.axes):
            return None
        return self.fit(value.transpose(self.axes))

    def fit(self, value: np.ndarray) -> np.ndarray | None:
        """Returns a Flax array in our shape, or None if its shape does not match.

        Kernels of 1x1 convolutions, and norms in older files, have leading axes of length one.
        """
        leading = (1,) * (value.ndim - len(self.shape))
        return value.reshape(self.shape) if value.shape == leading + self.shape else None

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        """Returns one of our arrays in PyTorch's layout."""
        leading = (1,) * (len(self.axes) - value.ndim)
        value = value.reshape(leading + value.shape).transpose(np.argsort(self.axes))
        return np.ascontiguousarray(value)


def published_names(config: ml_collections.ConfigDict) -> dict[Path, PublishedArray]:
    """Returns all parameters of the configured network by path, in PyTorch's order.

    Args:
      config: describes the network.

    Raises:
      ValueError: if score_sde has no such network.
    """
    network, (height, *_) = get_model(config), image_shape(config)
    params, _ = get_variable_shapes(network, config)
    shapes = {path: leaf.shape for path, leaf in flatten_dict(params).items()}
    return {
        path: PublishedArray(
            layer.torch + leaf.torch, layer.flax + leaf.flax, leaf.axes, shapes[path]
        )
        for layer in get_layers(network, height)
        for name, leaf in layer.leaves.items()
        if (path := (*layer.ours, name)) in shapes
    }


def unused_arrays(config: ml_collections.ConfigDict) -> dict[str, tuple[int, ...]]:
    """Returns arrays that score_sde_pytorch creates and never uses: name -> shape in PyTorch.

    The blocks of an NCSN++ without noise levels still have the dense layers for their embedding.
    """
    network, (height, *_) = get_model(config), image_shape(config)
    if not isinstance(network, NCSNpp) or network.conditional:
        return {}
    params, _ = get_variable_shapes(network, config)
    found = {}
    for layer in get_layers(network, height):
        if layer.ours[-1] == "temb":
            features = params[layer.ours[0]]["conv_0"]["kernel"].shape[-1]
            found[f"{layer.torch}weight"] = (features, 4 * network.nf)
            found[f"{layer.torch}bias"] = (features,)
    return found


def torch_order(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the names of all parameters in score_sde_pytorch, also unused ones, in its order."""
    names, unused = published_names(config), unused_arrays(config)
    by_layer = {a.torch for a in names.values()} | unused.keys()
    network, (height, *_) = get_model(config), image_shape(config)
    everything = (
        layer.torch + leaf.torch
        for layer in get_layers(network, height)
        for leaf in layer.leaves.values()
    )
    return [name for name in everything if name in by_layer]


def from_torch_state_dict(
    state_dict: Mapping[str, np.ndarray], config: ml_collections.ConfigDict
) -> dict:
    """Converts a state dict of score_sde_pytorch.

    Args:
      state_dict: names (with or without the prefix `module.`) to arrays.
      config: describes the network.

    Returns:
      The parameter tree of the network, float32.

    Raises:
      ValueError: if names are missing or left over, or shapes differ; the message lists them.
    """
    arrays = {key.removeprefix("module."): value for key, value in state_dict.items()}
    for name in ("sigmas", *unused_arrays(config)):  # `sigmas` is a buffer, see the config
        arrays.pop(name, None)
    names = published_names(config)
    return _collect("state dict", arrays, {p: (a.torch, a.from_torch) for p, a in names.items()})


def from_flax_params(tree: Mapping, config: ml_collections.ConfigDict) -> dict:
    """Converts a parameter tree of score_sde.

    Args:
      tree: nested dicts with the original names, without the outer level "params".
      config: describes the network.

    Returns:
      The parameter tree of the network, float32.

    Raises:
      ValueError: if names are missing or left over, or shapes differ; the message lists them.
    """
    arrays = flatten_dict(tree, sep="/")
    names = published_names(config)
    return _collect("parameter tree", arrays, {p: (a.flax, a.fit) for p, a in names.items()})


def to_torch_state_dict(
    params: Mapping, config: ml_collections.ConfigDict
) -> dict[str, np.ndarray]:
    """Converts our parameters to a state dict of score_sde_pytorch, without its buffer `sigmas`.

    Arrays that are there and never used are zero.

    Args:
      params: the parameter tree of the network.
      config: describes the network.

    Returns:
      Names (without the prefix `module.`) to float32 arrays, in PyTorch's order.

    Raises:
      ValueError: if the tree does not match the configured network; the message lists what differs.
    """
    names = published_names(config)
    ours = {path: (".".join(path), a.fit) for path, a in names.items()}
    leaves = flatten_dict(_collect("parameter tree", flatten_dict(params, sep="."), ours))
    found = {a.torch: a.to_torch(leaves[path]) for path, a in names.items()}
    found |= {name: np.zeros(s, np.float32) for name, s in unused_arrays(config).items()}
    return {name: found[name] for name in torch_order(config)}


def _collect(
    what: str, arrays: Mapping[str, np.ndarray], wanted: Mapping[Path, tuple[str, Callable]]
) -> dict:
    """Returns the tree of the wanted arrays.

    Args:
      what: what `arrays` is, for messages.
      arrays: arrays under published names.
      wanted: our path -> (name in `arrays`, function from the layout there to ours).

    Raises:
      ValueError: if arrays are missing, left over or of another shape.
    """
    left_over = dict(arrays)
    leaves, missing, misshapen = {}, [], []
    for path, (name, read) in wanted.items():
        if name not in left_over:
            missing.append(f"{name} (here {'.'.join(path)})")
            continue
        value = np.asarray(left_over.pop(name), np.float32)
        leaves[path] = read(value)
        if leaves[path] is None:
            misshapen.append(f"{name} {value.shape} (here {'.'.join(path)})")
    found = {"missing": missing, "left over": left_over, "of another shape": misshapen}
    if any(found.values()):
        listed = "; ".join(f"{kind}: {', '.join(n)}" for kind, n in found.items() if n)
        raise ValueError(f"the {what} does not match the configured network; {listed}")
    return unflatten_dict(leaves)
