"""Imports published weights as a checkpoint of a run, and exports a run's averaged weights.

`weights.readers` reads the formats. Three of them can be written as well: diffusers, safetensors
under the names of score_sde_pytorch, and our exported weights. Files written here also hold the
step and the config, so reading them back restores the same weights, step and config.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import ml_collections
import numpy as np
import optax

from scorax.experiment import Experiment, build
from scorax.loading import load_state, named_step
from scorax.losses import State
from scorax.sde_lib import get_sde
from scorax.utils.cards import model_card
from scorax.utils.checkpoints import Checkpoints
from scorax.utils.logging import write_atomically
from scorax.utils.remote import mirrored
from scorax.utils.tables import lookup
from scorax.weights import formats
from scorax.weights.diffusers_names import get_unet_config, to_diffusers_state_dict
from scorax.weights.readers import Tree, Weights, fitting_config, read_weights
from scorax.weights.state_dicts import to_torch_state_dict

Config = ml_collections.ConfigDict


def to_state(experiment: Experiment, weights: Weights) -> tuple[State, list[str]]:
    """The state from which training continues, and notes on what is missing from the weights.

    The learning-rate schedule continues at the step of the weights, even if Adam starts afresh.
    """
    config, moments = experiment.config, weights.moments
    notes = []
    if weights.params is weights.params_ema:
        notes.append("the source has one set of weights; training would continue from these")
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
    model_state = experiment.state_shapes.model_state  # empty: networks have only parameters
    step = np.int32(weights.step)
    return State(step, weights.params, opt_state, model_state, weights.params_ema), notes


def import_checkpoint(source: str, config: Config, workdir: str) -> list[str]:
    """Writes published weights as the checkpoint of a new run.

    Args:
      source: path of the weights, see `read_weights`.
      config: the experiment.
      workdir: directory of the run, local or remote, which must not have a checkpoint yet.

    Returns:
      Lines that say what was done.

    Raises:
      ValueError: for weights that cannot be read or do not match the config, before anything is
        written.
    """
    with mirrored(workdir, exclusive=True) as folder:
        return _import_checkpoint(source, config, folder)


def _import_checkpoint(source: str, config: Config, workdir: str) -> list[str]:
    """See `import_checkpoint`; the directory is local."""
    given, config = config, fitting_config(source, config)
    experiment = build(config)
    directory = os.path.join(workdir, "checkpoints")
    if os.path.isdir(directory) and os.listdir(directory):
        raise ValueError(f"{directory} is not empty; name another directory with --workdir")
    state, notes = to_state(experiment, read_weights(source, config))
    if config is not given:
        notes.append(
            "this DDPM embeds the noise level, although model.conditional=False; use the run with "
            "--config.model.conditional=True"
        )
    step = int(state.step)
    keep_period = config.training.snapshot_freq
    with contextlib.closing(Checkpoints(directory, keep_period)) as checkpoints:
        # Each step reads one batch, so after `step` steps this is the next batch.
        checkpoints.save(step, state, {"next_batch": step}, config)
    n = sum(x.size for x in jax.tree.leaves(state.params))
    return [f"{os.path.join(directory, str(step))}: {n:,} parameters, step {step}", *notes]


def export_weights(workdir: str, config: Config, format: str, target: str) -> list[str]:
    """Writes the averaged weights of a run's checkpoint, `eval.checkpoint` or the newest.

    Args:
      workdir: directory of the run, local or remote.
      config: config of the run.
      format: a row of `WRITERS`.
      target: path of the file or directory to write, which must not exist.

    Returns:
      Lines that say what was done.

    Raises:
      ValueError: if there is no checkpoint that matches the config, or the format cannot describe
        this kind of network.
    """
    writer = lookup(WRITERS, format, "format (--to)")
    if os.path.lexists(target):
        raise ValueError(f"{target} is there already; move it away, or name another")
    with mirrored(workdir, exclusive=False, step=named_step(config)) as folder:
        state, saved = load_state(build(config), folder)
        step, count = int(state.step), sum(x.size for x in jax.tree.leaves(state.params_ema))
        card = model_card(target, config, step, count, folder)
    metadata = {"step": str(step), "config": json.dumps(saved)}
    writer(target, state.params_ema, config, metadata)
    if os.path.isdir(target):
        path = os.path.join(target, "README.md")
        write_atomically(path, lambda file: file.write(card.encode()))
    return [f"{target}: the averaged weights of step {step}"]


def _write_diffusers(
    target: str, params: Tree, config: Config, metadata: Mapping[str, str]
) -> None:
    """Writes a UNet2DModel, and a pipeline that samples from it as in the paper."""
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


WRITERS: dict[str, Callable[[str, Tree, Config, Mapping[str, str]], None]] = {
    "diffusers": _write_diffusers,
    "safetensors": _write_safetensors,
    "weights": _write_exported,
}
