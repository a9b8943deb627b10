"""Trained networks: finding their weights, reading them, and using them in a program.

Programs call `load`, which takes weights of any kind and returns a `Model` that draws samples and
has a score. The evaluation of a run and the conversion of weights read weights with the same
functions. There are three kinds of weights:

    a run        WORKDIR with `checkpoints/` and `config.json`, see `run_lib`
    exported     a directory with `config.json` and `model.safetensors`
    published    the files that `weights.readers` reads; most need a config to go with them
"""

import contextlib
import dataclasses
import difflib
import functools
import json
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax.conditioning.guidance import ClassifierFn, check_labels
from scorax.configs import base
from scorax.experiment import Experiment, assemble
from scorax.likelihood import (
    Density,
    Likelihood,
    dequantize,
    get_configured_density_fn,
    get_configured_likelihood_fn,
)
from scorax.losses import State
from scorax.sampling import get_sampling_fn
from scorax.sde_lib import SDE, ScoreFn
from scorax.utils.checkpoints import Checkpoints, check_config
from scorax.utils.config_files import read_config
from scorax.utils.data_range import get_data_inverse_scaler, get_data_scaler
from scorax.utils.logging import read_json
from scorax.utils.remote import mirrored
from scorax.utils.shapes import example_shape, model_shape
from scorax.weights import formats
from scorax.weights.readers import fitting_config, read_weights

_log = logging.getLogger(__name__)

Config = ml_collections.ConfigDict


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained network, with its averaged parameters in evaluation mode.

    Scores and states are in the model's range, which is described in `utils.data_range`. For images
    it is [0, 1], or [-1, 1] with `config.data.centered`. `to_model` maps data to this range (images
    from [0, 1]), and `to_data` maps it back.

    Attributes:
      experiment: the parts described by the network's config.
      state: the network's parameters, on the host.
    """

    experiment: Experiment
    state: State
    _compiled: dict[Any, Callable] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def config(self) -> Config:
        """The config of the network."""
        return self.experiment.config

    @property
    def sde(self) -> SDE:
        """The SDE of the score."""
        return self.experiment.sde

    @property
    def step(self) -> int:
        """Number of training steps."""
        return int(self.state.step)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example: (H, W, C) for images."""
        return example_shape(self.config)

    @functools.cached_property
    def variables(self) -> tuple[Any, Any]:
        """The network's averaged parameters and other variables, on the device."""
        return jax.device_put((self.state.params_ema, self.state.model_state))

    @functools.cached_property
    def score_fn(self) -> ScoreFn:
        """The score, compiled: x: (B, *S) in the model's range, t: (B,) -> (B, *S).

        Raises:
          ValueError: if the network is a classifier.
        """
        return self.score_of(None)

    def score_of(self, labels: jax.Array | np.ndarray | None) -> ScoreFn:
        """The score given classes, for a class-conditional network.

        Args:
          labels: (B,) integers, where `config.model.num_classes` means no class; None for the
            unconditional score.

        Raises:
          ValueError: for labels that are not classes of the network, or if the network is a
            classifier.
        """
        self.experiment.check_score(labels)

        @jax.jit
        def score(variables: tuple, x: jax.Array, t: jax.Array) -> jax.Array:
            return self.experiment.score_fn(*variables, labels)(x, t)

        return functools.partial(score, self.variables)

    @functools.cached_property
    def classifier_fn(self) -> ClassifierFn:
        """The noise classifier, compiled: x: (B, *S) with noise, sigma: (B,) -> logits (B, K).

        Raises:
          ValueError: if the network is not a classifier.
        """
        self.experiment.check_classifier()

        @jax.jit
        def classify(variables: tuple, x: jax.Array, sigma: jax.Array) -> jax.Array:
            return self.experiment.classifier_fn(*variables)(x, sigma)

        return functools.partial(classify, self.variables)

    def to_model(self, data: jax.Array) -> jax.Array:
        """Maps data, such as images in [0, 1], to the model's range."""
        return get_data_scaler(self.config)(data)

    def to_data(self, x: jax.Array) -> jax.Array:
        """Maps the model's range to the units of the data, images to [0, 1], without clipping."""
        return get_data_inverse_scaler(self.config)(x)

    def sample(
        self,
        rng: jax.Array,
        n: int,
        *,
        labels: jax.Array | np.ndarray | None = None,
        condition: Callable[[ScoreFn], ScoreFn] | None = None,
        **sampling: Any,
    ) -> tuple[jax.Array, int]:
        """Draws examples with the sampler of the config or a different one.

        Sampling is compiled once for each combination of sampler and number of examples. With a
        condition it is compiled in every call.

        Args:
          rng: key.
          n: number of examples.
          labels: (n,) classes of the examples, for a class-conditional network; None: no class.
          condition: turns the score into a conditional score, such as a row of
            `conditioning.LIKELIHOODS` or a function that calls `conditioning.classifier_guidance`.
          **sampling: fields of `config.sampling` to override, such as
            `method="dpmpp_2m_sde", steps=20`.

        Returns:
          Examples (n, *shape), images in [0, 1] and other data in their own units, and the
          evaluations of the score for each.

        Raises:
          ValueError: for an unknown field or sampler, or labels that do not fit.
          FloatingPointError: if the samples are not finite.
        """
        self.experiment.check_score(labels)
        if n < 1:
            raise ValueError(f"n={n} examples cannot be drawn; draw at least 1")
        if labels is not None:
            labels = jnp.asarray(labels)
            check_labels(labels, n, self.config.model.num_classes + 1)
        key = n, labels is None, tuple(sorted(sampling.items()))
        draw = self._compiled.get(key) if condition is None else None
        if draw is None:
            draw = self._get_sampler(n, condition, sampling)
            if condition is None:
                self._compiled[key] = draw
        samples, nfe = draw(self.variables, rng, labels)
        if not jnp.isfinite(samples).all():
            raise FloatingPointError(
                "the samples are not finite; take another sampler, more steps, or other weights"
            )
        return samples, int(nfe)

    def _get_sampler(self, n: int, condition: Callable | None, sampling: dict) -> Callable:
        config = _with_fields(self.config, "sampling", sampling)
        sampler, shape = get_sampling_fn(config, self.sde), (n, *model_shape(config))

        @jax.jit
        def draw(variables: tuple, rng: jax.Array, labels: jax.Array | None) -> tuple:
            score_fn = self.experiment.score_fn(*variables, labels)
            x, nfe = sampler(rng, condition(score_fn) if condition else score_fn, shape)
            x = self.to_data(x)
            return jnp.clip(x, 0, 1) if config.data.kind == "images" else x, nfe

        return draw

    def bits_per_dim(self, rng: jax.Array, images: np.ndarray, **settings: Any) -> Likelihood:
        """Bits per dimension of 8-bit images, see `likelihood.get_likelihood_fn`.

        Args:
          rng: key for the probes and for the noise that makes the images continuous.
          images: uint8 (B, H, W, C).
          **settings: fields of `config.eval` to override, such as `bpd_probes=8`.

        Raises:
          ValueError: for images of the wrong type or size, other data, or an unknown field.
        """
        if self.config.data.kind != "images":
            raise ValueError(
                f"data.kind={self.config.data.kind!r} has no bits per dimension, which are defined "
                "for values with levels; ask for nats_per_dim"
            )
        if images.dtype != np.uint8 or images.shape[1:] != self.shape:
            raise ValueError(
                f"images are {images.dtype} of shape {images.shape}; bits per dimension need uint8 "
                f"images of shape (B, {', '.join(map(str, self.shape))})"
            )
        config = _with_fields(self.config, "eval", settings)
        likelihood_fn = get_configured_likelihood_fn(config, self.sde)
        noise_rng, probe_rng = jax.random.split(rng)

        @jax.jit
        def bits(variables: tuple, x: jax.Array) -> Likelihood:
            return likelihood_fn(probe_rng, self.experiment.score_fn(*variables), x)

        return bits(self.variables, self.to_model(dequantize(noise_rng, images)))

    def nats_per_dim(self, rng: jax.Array, data: np.ndarray, **settings: Any) -> Density:
        """Negative log density of continuous data, see `likelihood.get_configured_density_fn`.

        Args:
          rng: key for the probes.
          data: (B, *shape) in units of the data.
          **settings: fields of `config.eval` to override, such as `bpd_estimator="exact"`.

        Raises:
          ValueError: for data of the wrong shape, or an unknown field.
        """
        if data.shape[1:] != self.shape:
            raise ValueError(f"data of shape {data.shape} do not fit examples of {self.shape}")
        config = _with_fields(self.config, "eval", settings)
        density_fn = get_configured_density_fn(config, self.sde)

        @jax.jit
        def nats(variables: tuple, x: jax.Array) -> Density:
            return density_fn(rng, self.experiment.score_fn(*variables), x)

        return nats(self.variables, self.to_model(jnp.asarray(data)))


def load(
    path: str | os.PathLike, config: Config | str | None = None, step: int | None = None
) -> Model:
    """Loads a trained network.

    Args:
      path: a run, one of its checkpoints (RUN/checkpoints/STEP), exported weights, a diffusers
        directory, a .pth file of score_sde_pytorch, a checkpoint of score_sde, or a .safetensors
        file; also the remote folder of a run or of exported weights, "gs://bucket/run".
      config: config of the network, or the path or name of a config file, such as "ve/mnist";
        needed unless the weights come with a config.
      step: step of a run; None for the latest.

    Raises:
      ValueError: if there are no such weights, they are damaged, or they do not match the config.
    """
    with mirrored(path, exclusive=False, step=step) as folder:
        return _load(folder, config, step)


def _load(path: str, config: Config | str | None, step: int | None) -> Model:
    """See `load`; the path is local."""
    if not os.path.exists(path):
        raise ValueError(
            f"{path} does not exist; give a run, exported weights or a file of weights"
        )
    run, found = _split_step(path)
    if step is not None and found is not None:
        raise ValueError(f"{path} is one step of a run; leave step={step} out")
    step = found if step is None else step
    is_run = os.path.isdir(os.path.join(run, "checkpoints"))
    if step is not None and not is_run:
        raise ValueError(f"{path} is not a run, and has no step {step}; leave step out")
    if isinstance(config, str):
        config = read_config(config)
    if config is None:
        config = load_config(run) if is_run or formats.is_exported(run) else _config_in(run)
    config = _add_facts(config, run)
    config = config.copy_and_resolve_references()
    if is_run:
        config.eval.checkpoint = "" if step is None else str(step)
        experiment = assemble(config)
        return Model(experiment, load_state(experiment, run)[0])
    experiment = assemble(fitting_config(run, config))
    return Model(experiment, _read_state(experiment, run))


def _split_step(path: str) -> tuple[str, int | None]:
    """RUN/checkpoints/STEP -> (RUN, STEP); any other path -> (path, None)."""
    parts = pathlib.Path(path).parts
    if len(parts) > 1 and parts[-2] == "checkpoints" and parts[-1].isdecimal():
        return str(pathlib.Path(path).parent.parent), int(parts[-1])
    return path, None


def _config_in(path: str) -> Config:
    """The config in the metadata of a published file.

    Raises:
      ValueError: if the file holds no config.
    """
    metadata: dict[str, str] = {}
    kind = formats.detect(path)
    if kind == "safetensors":
        _, metadata = formats.read_safetensors(path)
    elif kind == "diffusers":
        *_, metadata = formats.read_diffusers(path)
    if "config" not in metadata:
        raise ValueError(
            f"{path} is {formats.FORMATS[kind]}, which does not say what network it belongs to; "
            'give its config, as in load(path, config="ve/cifar10_ncsnpp_continuous")'
        )
    return _filled(json.loads(metadata["config"]), path)


def _read_state(experiment: Experiment, path: str) -> State:
    """The weights of a file, as a state without optimizer state."""
    weights = read_weights(path, experiment.config)
    model_state = experiment.state_shapes.model_state  # empty: networks have only parameters
    step = np.int32(weights.step)
    return State(step, weights.params, (), model_state, weights.params_ema)


def load_state(experiment: Experiment, workdir: str) -> tuple[State, dict]:
    """Reads the weights named by `eval.checkpoint`: a step of the run in `workdir`, or a path.

    Returns:
      The state without optimizer state, and the config with which it was trained.

    Raises:
      ValueError: if there are no such weights, they are damaged, or they do not match the config.
    """
    path = find_weights(experiment.config, workdir)
    if path == experiment.config.eval.checkpoint:
        try:
            return _read_state(experiment, path), formats.read_exported(path)[0]
        except ValueError as e:
            raise ValueError(f"eval.checkpoint={path!r}: {e}") from e
    keep_period = experiment.config.training.snapshot_freq
    with contextlib.closing(Checkpoints(path, keep_period)) as checkpoints:
        state, _, saved, _ = restore(experiment, checkpoints, training=False)
    return state, saved


def named_step(config: Config) -> int | None:
    """The step that `eval.checkpoint` names; None if it is empty or names exported weights."""
    return int(config.eval.checkpoint) if config.eval.checkpoint.isdecimal() else None


def find_weights(config: Config, workdir: str) -> str:
    """The directory of the weights to evaluate: exported weights, or the run's checkpoints.

    Raises:
      ValueError: if the directory does not exist.
    """
    checkpoint = config.eval.checkpoint
    if checkpoint and not checkpoint.isdecimal():
        if not formats.is_exported(checkpoint):
            raise ValueError(
                f"eval.checkpoint={checkpoint!r} is no step of a run, and no directory of "
                "exported weights; leave it empty for the latest step in --workdir"
            )
        return checkpoint
    directory = os.path.join(workdir, "checkpoints")
    if not os.path.isdir(directory):
        raise ValueError(
            f"there is no checkpoint in {directory}; train first (--mode train), or name the "
            "directory of another run"
        )
    return directory


def load_initial(experiment: Experiment) -> State:
    """Reads the weights from which a new run starts, `training.init_from`.

    Raises:
      ValueError: if there are no such weights, they are damaged, or they belong to another network.
    """
    source = experiment.config.training.init_from
    if not os.path.exists(source):
        raise ValueError(
            f"training.init_from={source!r} does not exist; name a run, exported weights or a file "
            "of weights"
        )
    run, step = _split_step(source)
    directory = os.path.join(run, "checkpoints")
    try:
        if not os.path.isdir(directory):
            return _read_state(experiment, source)
        template, current = experiment.state_shapes.replace(opt_state=()), experiment.config
        with contextlib.closing(Checkpoints(directory, 1)) as checkpoints:
            check = functools.partial(check_config, current=current.to_dict(), training=False)
            return checkpoints.restore(template, step, check)[0]
    except ValueError as e:
        raise ValueError(f"training.init_from={source!r}: {e}") from e


def with_facts(config: Config, workdir: str) -> Config:
    """A copy of the config with the classes and statistics that the evaluated network has learnt.

    What the config says itself stays.
    """
    exported = formats.is_exported(config.eval.checkpoint)
    return _add_facts(config, config.eval.checkpoint if exported else workdir)


def _add_facts(config: Config, directory: str) -> Config:
    if not pathlib.Path(directory, "config.json").is_file():
        return config
    learnt, config = load_config(directory).data, config.copy_and_resolve_references()
    for key in ("classes", "mean", "scale"):
        config.data[key] = tuple(config.data[key] or learnt[key])
    return config


def restore(experiment: Experiment, checkpoints: Checkpoints, training: bool) -> tuple:
    """Reads a checkpoint of a run.

    Args:
      experiment: built from the current config.
      checkpoints: the checkpoints of the run.
      training: read the newest checkpoint, to continue training. Otherwise read the step in
        `eval.checkpoint` (or the newest), without optimizer state.

    Returns:
      The state, the position in the data, the config saved with the checkpoint, and its step.

    Raises:
      ValueError: if there is no such checkpoint, it is damaged, or it does not match the config.
    """
    template, step = experiment.state_shapes, None
    if not training:
        template = template.replace(opt_state=())
        step = named_step(experiment.config)
    current = experiment.config.to_dict()
    return checkpoints.restore(template, step, lambda c: check_config(c, current, training))


def load_config(directory: str | os.PathLike) -> Config:
    """Reads config.json in the directory of a run or of exported weights.

    Missing keys keep their defaults, and so do keys whose type has changed since.

    Raises:
      ValueError: if there is no such file.
    """
    path = pathlib.Path(directory, "config.json")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name the directory of a run")
    return _filled(read_json(path), path)


def _filled(saved: dict, path: str | os.PathLike) -> Config:
    """Completes a saved config with the defaults of missing keys."""
    config = base.get_config()
    for section, fields in saved.items():
        fields = fields if isinstance(fields, dict) else {"": fields}
        for key, value in fields.items():
            value = tuple(value) if isinstance(value, list) else value
            try:
                config.update({section: {key: value} if key else value})
            except TypeError:
                _log.info("%s: %s.%s=%r is of an older version", path, section, key, value)
    return config


def _with_fields(config: Config, section: str, values: dict[str, Any]) -> Config:
    """A copy of the config with some values of one section replaced.

    Raises:
      ValueError: for an unknown field, or a value of the wrong type.
    """
    config = config.copy_and_resolve_references()
    for key, value in values.items():
        if key not in config[section]:
            near = difflib.get_close_matches(key, list(config[section]), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"unknown field {section}.{key}{hint}; configs/base.py lists them all")
        try:
            config[section][key] = value
        except TypeError as e:
            kind = type(config[section][key]).__name__
            raise ValueError(f"{section}.{key}={value!r} must be of type {kind}") from e
    return config


def load_classifier(directory: str, checkpoint: str = "") -> Model:
    """Loads a trained noise classifier, for guidance.

    Args:
      directory: a run, or exported weights.
      checkpoint: step of the run; "": the latest.

    Raises:
      ValueError: if the weights cannot be loaded, or the network is not a noise classifier.
    """
    if not os.path.isdir(directory):
        raise ValueError(
            f"guidance.classifier={directory!r} does not exist; train one, as with python main.py "
            "--config configs/classifier/mnist.py --mode train, and name the directory of its run "
            "(runs/classifier/mnist)"
        )
    if checkpoint and formats.is_exported(directory):
        raise ValueError(
            f"guidance.checkpoint={checkpoint!r}, but guidance.classifier={directory!r} holds "
            "exported weights, which are of one step; leave guidance.checkpoint empty"
        )
    if checkpoint and not checkpoint.isdecimal():
        raise ValueError(f"guidance.checkpoint={checkpoint!r} must be a step of the run, or empty")
    try:
        step = int(checkpoint) if checkpoint else None
        classifier = load(directory, load_config(directory), step)
        classifier.experiment.check_classifier()
    except ValueError as e:
        raise ValueError(f"guidance.classifier={directory!r}: {e}") from e
    return classifier
