"""Published weights in, as a checkpoint of a run; and a run's averaged weights out.

A reader makes `Weights` of a file, in our names and layout; what becomes of them follows from what
they hold. The formats:

    torch        .pth of score_sde_pytorch: raw and averaged weights, Adam's moments, step
    flax         checkpoint_N of score_sde: the same
    diffusers    a UNet2DModel: one set of weights, taken as the averaged ones
    safetensors  the same, under the names of score_sde_pytorch
    weights      the same, under our own names; any of our networks, classifiers too

The last three are written as well, with step and config, so that what was written here is read
back as it was. Arrays are float32; no value is changed.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import ml_collections
import numpy as np
import optax

from scorax.experiment import Experiment, build
from scorax.losses import State
from scorax.sde_lib import get_sde
from scorax.utils.arrays import lookup
from scorax.utils.checkpoints import Checkpoints, check_config
from scorax.weights import formats, torch_files
from scorax.weights.diffusers_names import (
    check_unet_config,
    from_diffusers_state_dict,
    get_unet_config,
    to_diffusers_state_dict,
)
from scorax.weights.state_dicts import (
    from_flax_params,
    from_torch_state_dict,
    published_names,
    to_torch_state_dict,
)

Config = ml_collections.ConfigDict
Tree = dict[str, Any]


class Moments(NamedTuple):
    """Adam's state: updates made, and averages of the gradients and of their squares."""

    count: int
    mu: Tree
    nu: Tree


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a published file holds, as parameter trees of the configured network.

    Attributes:
      params_ema: averaged parameters.
      params: those that training changes; the averaged ones where a file has no others.
      step: number of updates made, 0 where a file does not say.
      moments: the optimizer's state, None where a file has none.
      ema_rate: decay of the average, None where a file does not say.
    """

    params_ema: Tree
    params: Tree
    step: int = 0
    moments: Moments | None = None
    ema_rate: float | None = None


def read_weights(source: str, config: Config) -> Weights:
    """Reads a file or directory of any of the formats, told apart by what is in it.

    Args:
      source: path.
      config: describes the network.

    Raises:
      ValueError: if the file is damaged, or is not that of the configured network; it lists names
        that are missing or left over.
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


def to_state(experiment: Experiment, weights: Weights) -> tuple[State, list[str]]:
    """The state from which training goes on, and notes on what the weights do not hold.

    The learning rate goes on at the step of the weights, whatever becomes of the moments.
    """
    config, moments = experiment.config, weights.moments
    notes = []
    if weights.params is weights.params_ema:
        notes.append("the source has one set of weights; training would go on from these")
    if moments is None:
        notes.append("the source has no optimizer state; Adam would start afresh")
    if weights.ema_rate is not None and not np.isclose(weights.ema_rate, config.model.ema_rate):
        rates = f"{weights.ema_rate:g}, model.ema_rate is {config.model.ema_rate:g}"
        notes.append(f"the source averaged with the decay {rates}")
    if weights.step % config.training.n_jitted_steps:
        notes.append("to train on, set --config.training.n_jitted_steps=1")

    def fill(node: Any) -> Any:
        if isinstance(node, optax.ScaleByScheduleState):
            return node._replace(count=np.int32(weights.step))
        if isinstance(node, optax.ScaleByAdamState) and moments is not None:
            return node._replace(count=np.int32(moments.count), mu=moments.mu, nu=moments.nu)
        return node

    opt_state = jax.device_get(jax.jit(experiment.optimizer.init)(weights.params))
    kinds = (optax.ScaleByScheduleState, optax.ScaleByAdamState)
    opt_state = jax.tree.map(fill, opt_state, is_leaf=lambda node: isinstance(node, kinds))
    model_state = experiment.state_shapes.model_state  # no network has any arrays
    step = np.int32(weights.step)
    return State(step, weights.params, opt_state, model_state, weights.params_ema), notes


def import_checkpoint(source: str, config: Config, workdir: str) -> list[str]:
    """Writes the checkpoint of a run from published weights.

    Args:
      source: path of the weights, see `read_weights`.
      config: the experiment.
      workdir: directory of the run, which must have no checkpoint.

    Returns:
      Lines that say what was done.

    Raises:
      ValueError: for weights that cannot be read, or are not those of the config; nothing is
        written then.
    """
    experiment = build(config)
    directory = os.path.join(workdir, "checkpoints")
    if os.path.isdir(directory) and os.listdir(directory):
        raise ValueError(f"{directory} is not empty; name another directory with --workdir")
    state, notes = to_state(experiment, read_weights(source, config))
    step = int(state.step)
    keep_period = config.training.snapshot_freq
    with contextlib.closing(Checkpoints(directory, keep_period)) as checkpoints:
        # A step reads one batch, so that the data go on where as many steps have left them.
        checkpoints.save(step, state, {"next_batch": step}, config)
    n = sum(x.size for x in jax.tree.leaves(state.params))
    return [f"{os.path.join(directory, str(step))}: {n:,} parameters, step {step}", *notes]


def export_weights(workdir: str, config: Config, format: str, target: str) -> list[str]:
    """Writes the averaged weights of a run's checkpoint, `eval.checkpoint` or the newest.

    Args:
      workdir: directory of the run.
      config: its config.
      format: a row of `WRITERS`.
      target: path of the file or directory to write, which must not exist.

    Returns:
      Lines that say what was done.

    Raises:
      ValueError: if there is no checkpoint of this config, or the format has no such network.
    """
    writer = lookup(WRITERS, format, "format (--to)")
    if os.path.lexists(target):
        raise ValueError(f"{target} is there already; move it away, or name another")
    state, saved = build(config).load(workdir)
    metadata = {"step": str(int(state.step)), "config": json.dumps(saved)}
    writer(target, state.params_ema, config, metadata)
    return [f"{target}: the averaged weights of step {int(state.step)}"]


def _read_torch(source: str, config: Config) -> Weights:
    file = torch_files.load(source)
    _require(file, ("optimizer", "model", "ema", "step"))
    _require(file["ema"], ("shadow_params", "decay"))
    params = from_torch_state_dict(file["model"], config)
    model = {name.removeprefix("module."): x for name, x in file["model"].items()}
    names = published_names(config)
    # The average is a list, in the order of the parameters, without the fixed Fourier frequencies.
    trained = [a.torch for path, a in names.items() if path[-1] != "W"]
    shadow = file["ema"]["shadow_params"]
    if len(shadow) != len(trained):
        raise ValueError(f"it averages {len(shadow)} arrays, the network has {len(trained)}")
    ema = model | dict(zip(trained, shadow, strict=True))
    all_names = [a.torch for a in names.values()]
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
    """Adam's moments, which PyTorch keeps by the position among all parameters.

    Args:
      optimizer: state dict of the optimizer.
      model: all parameters, by name.
      names, trained: of all parameters, and of those with moments, in PyTorch's order.
      config: describes the network.
    """
    _require(optimizer, ("state", "param_groups"))
    if not optimizer["state"]:
        return None
    keys = [key for group in optimizer["param_groups"] for key in group["params"]]
    if len(keys) != len(names):
        raise ValueError(f"its optimizer has {len(keys)} arrays, the network has {len(names)}")
    key_of = dict(zip(names, keys, strict=True))
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
    config = config.copy_and_resolve_references()
    config.eval.checkpoint = source
    state, _ = build(config).load("")
    return Weights(state.params_ema, state.params_ema, int(state.step))


def _one_set(params: Tree, metadata: Mapping[str, str], config: Config) -> Weights:
    """Weights of a file with one set; files written here say what they belong to."""
    if "config" in metadata:
        check_config(json.loads(metadata["config"]), config.to_dict(), training=False)
    return Weights(params, params, int(metadata.get("step", 0)))


def _require(tree: Any, keys: tuple[str, ...]) -> None:
    """Raises an error unless `tree` is a dict with these keys."""
    if not isinstance(tree, Mapping):
        raise TypeError(f"{type(tree).__name__} where a dict belongs")
    missing = [key for key in keys if key not in tree]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}, which a training checkpoint has")


def _write_diffusers(
    target: str, params: Tree, config: Config, metadata: Mapping[str, str]
) -> None:
    """A UNet2DModel and the pipeline that samples from it as the paper does."""
    scheduler = {
        "_class_name": "ScoreSdeVeScheduler",
        "correct_steps": config.sampling.n_steps_each,
        "num_train_timesteps": config.model.num_scales,
        "sampling_eps": config.sampling.eps or get_sde(config).t_min,
        "sigma_max": config.model.sigma_max,
        "sigma_min": config.model.sigma_min,
        "snr": config.sampling.snr,
    }
    files = {
        "config.json": get_unet_config(config),
        "scheduler_config.json": scheduler,
        "model_index.json": {
            "_class_name": "ScoreSdeVePipeline",
            "scheduler": ["diffusers", "ScoreSdeVeScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        },
    }
    arrays = to_diffusers_state_dict(params, config)
    formats.write_diffusers(target, files, arrays, metadata)


def _write_safetensors(
    target: str, params: Tree, config: Config, metadata: Mapping[str, str]
) -> None:
    formats.write_safetensors(target, to_torch_state_dict(params, config), metadata)


def _write_exported(target: str, params: Tree, config: Config, metadata: Mapping[str, str]) -> None:
    arrays = flax.traverse_util.flatten_dict({"params": params}, sep="/")
    saved, metadata = json.loads(metadata["config"]), {"step": metadata["step"]}
    formats.write_exported(target, saved, arrays, metadata)


READERS: dict[str, Callable[[str, Config], Weights]] = {
    "torch": _read_torch,
    "flax": _read_flax,
    "diffusers": _read_diffusers,
    "safetensors": _read_safetensors,
    "weights": _read_exported,
}
WRITERS: dict[str, Callable[[str, Tree, Config, Mapping[str, str]], None]] = {
    "diffusers": _write_diffusers,
    "safetensors": _write_safetensors,
    "weights": _write_exported,
}
