"""Reads weights from files of any format, and converts them to our names and layouts.

    torch        .pth file of score_sde_pytorch: raw and averaged weights, Adam's moments, step
    flax         checkpoint_N of score_sde: the same contents
    diffusers    UNet2DModel: one set of weights, which counts as the averaged weights
    safetensors  one set of weights under the names of score_sde_pytorch
    weights      one set of weights under our names, for any network, including classifiers

Arrays are float32; their values are not changed.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from scorax.models.utils import get_model, get_variable_shapes
from scorax.utils.checkpoints import check_config, fill
from scorax.weights import formats, torch_files
from scorax.weights.diffusers_names import check_unet_config, from_diffusers_state_dict
from scorax.weights.state_dicts import (
    from_flax_params,
    from_torch_state_dict,
    published_names,
    torch_order,
    unused_arrays,
)

Config = ml_collections.ConfigDict
Tree = dict[str, Any]


class Moments(NamedTuple):
    """Adam's state: the number of updates, and averages of the gradients and of their squares."""

    count: int
    mu: Tree
    nu: Tree


@dataclasses.dataclass(frozen=True)
class Weights:
    """The contents of a published file, as parameter trees of the configured network.

    Attributes:
      params_ema: averaged parameters.
      params: raw parameters, which training updates; equal to `params_ema` in a file with one set.
      step: number of updates; 0 if a file does not give it.
      moments: state of the optimizer; None if a file has none.
      ema_rate: decay of the average; None if a file does not give it.
    """

    params_ema: Tree
    params: Tree
    step: int = 0
    moments: Moments | None = None
    ema_rate: float | None = None


def fitting_config(source: str, config: Config) -> Config:
    """The config of the network whose weights a file holds, which may differ in one field.

    The DDPM of score_sde_pytorch embeds the noise level whatever `model.conditional` says.
    """
    ignored = config.model.name.lower() == "ddpm" and not config.model.conditional
    if not ignored or formats.detect(source) not in ("torch", "safetensors"):
        return config
    config = config.copy_and_resolve_references()
    config.model.conditional = True
    return config


def read_weights(source: str, config: Config) -> Weights:
    """Reads a file or directory in any format, which is detected from the content.

    Args:
      source: path of the file or directory.
      config: describes the network.

    Raises:
      ValueError: if the file is damaged or does not match the configured network; the message lists
        names that are missing or left over.
    """
    format = formats.detect(source)
    try:
        return READERS[format](source, config)
    except (LookupError, TypeError, AttributeError) as e:
        what = formats.FORMATS[format]
        raise ValueError(f"{source} is not laid out as {what} ({e!r}); get the file again") from e
    except ValueError as e:
        where = "" if source in str(e) else f"{source}: "
        raise ValueError(f"{where}{e}") from e


def _read_torch(source: str, config: Config) -> Weights:
    file = torch_files.load(source)
    _require(file, ("optimizer", "model", "ema", "step"))
    _require(file["ema"], ("shadow_params", "decay"))
    params = from_torch_state_dict(file["model"], config)
    model = {name.removeprefix("module."): x for name, x in file["model"].items()}
    all_names = torch_order(config)
    frequencies = {a.torch for path, a in published_names(config).items() if path[-1] == "W"}
    # The average is a list in the order of the parameters, without the fixed Fourier frequencies.
    trained = [name for name in all_names if name not in frequencies]
    shadow = file["ema"]["shadow_params"]
    if len(shadow) != len(trained):
        raise ValueError(f"it averages {len(shadow)} arrays, the network has {len(trained)}")
    ema = model | dict(zip(trained, shadow, strict=True))
    return Weights(
        from_torch_state_dict(ema, config),
        params,
        int(file["step"]),
        _torch_moments(file["optimizer"], model, all_names, trained, config),
        float(file["ema"]["decay"]),
    )


def _torch_moments(
    optimizer: Mapping, model: Mapping, names: list[str], trained: list[str], config: Config
) -> Moments | None:
    """Returns Adam's moments, which PyTorch stores under the position of each parameter.

    Args:
      optimizer: state dict of the optimizer.
      model: all parameters, by name.
      names: names of all parameters, in PyTorch's order.
      trained: names of the parameters that have moments, in PyTorch's order.
      config: describes the network.
    """
    _require(optimizer, ("state", "param_groups"))
    if not optimizer["state"]:
        return None
    keys = [key for group in optimizer["param_groups"] for key in group["params"]]
    if len(keys) != len(names):
        raise ValueError(f"its optimizer has {len(keys)} arrays, the network has {len(names)}")
    key_of = dict(zip(names, keys, strict=True))
    # An array that is never used has no gradient, and no state.
    trained = [name for name in trained if name not in unused_arrays(config)]
    missing = [name for name in trained if key_of[name] not in optimizer["state"]]
    if missing:
        raise ValueError(f"its optimizer has no state for {', '.join(missing)}")
    states = {name: optimizer["state"][key_of[name]] for name in trained}

    def averages(moment: str) -> Tree:
        fixed = {name: np.zeros_like(model[name]) for name in set(names) - set(trained)}
        return from_torch_state_dict(fixed | {n: s[moment] for n, s in states.items()}, config)

    return Moments(int(states[trained[0]]["step"]), averages("exp_avg"), averages("exp_avg_sq"))


def _read_flax(source: str, config: Config) -> Weights:
    file = formats.read_msgpack(source)
    _require(file, ("optimizer", "params_ema", "step"))
    optimizer, states = file["optimizer"], file["optimizer"]["state"]
    for tree in (file["params_ema"], optimizer["target"], states["param_states"]):
        _require(tree, ())

    def is_state(node: Any) -> bool:
        return isinstance(node, dict) and "grad_ema" in node

    def averages(moment: str) -> Tree:
        moments = jax.tree.map(lambda s: s[moment], states["param_states"], is_leaf=is_state)
        return from_flax_params(moments, config)

    return Weights(
        from_flax_params(file["params_ema"], config),
        from_flax_params(optimizer["target"], config),
        int(file["step"]),
        Moments(int(states["step"]), averages("grad_ema"), averages("grad_sq_ema")),
        float(file["ema_rate"]) if "ema_rate" in file else None,
    )


def _read_diffusers(source: str, config: Config) -> Weights:
    unet_config, arrays, metadata = formats.read_diffusers(source)
    check_unet_config(unet_config, config)
    return _one_set(from_diffusers_state_dict(arrays, config), metadata, config)


def _read_safetensors(source: str, config: Config) -> Weights:
    arrays, metadata = formats.read_safetensors(source)
    return _one_set(from_torch_state_dict(arrays, config), metadata, config)


def _read_exported(source: str, config: Config) -> Weights:
    saved, arrays, metadata = formats.read_exported(source)
    check_config(saved, config.to_dict(), training=False)
    shapes, _ = get_variable_shapes(get_model(config), config)
    params = fill({"params": shapes}, arrays, source)["params"]
    return Weights(params, params, int(metadata.get("step", 0)))


def _one_set(params: Tree, metadata: Mapping[str, str], config: Config) -> Weights:
    """Returns the weights of a file with one set, after comparing its config if it has one."""
    if "config" in metadata:
        check_config(json.loads(metadata["config"]), config.to_dict(), training=False)
    return Weights(params, params, int(metadata.get("step", 0)))


def _require(tree: Any, keys: tuple[str, ...]) -> None:
    """Raises TypeError unless `tree` is a dict, and ValueError unless it has these keys."""
    if not isinstance(tree, Mapping):
        raise TypeError(f"{type(tree).__name__} where a dict belongs")
    missing = [key for key in keys if key not in tree]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}, which a training checkpoint has")


# format -> function that reads a file of this format
READERS: dict[str, Callable[[str, Config], Weights]] = {
    "torch": _read_torch,
    "flax": _read_flax,
    "diffusers": _read_diffusers,
    "safetensors": _read_safetensors,
    "weights": _read_exported,
}
