"""What a config describes, built and checked before anything is compiled; and finding its weights.

Weights are those of a checkpoint in a run's directory, or exported ones, which need no run: a
directory as `python -m tools.convert_checkpoint WORKDIR --to weights DIRECTORY` makes it.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import optax

from scorax import losses, sampling
from scorax.conditioning.guidance import ClassifierFn
from scorax.configs import base
from scorax.models.utils import (
    CLASSIFIERS,
    Parametrization,
    get_model,
    get_parametrization,
    get_score_fn,
    init_model,
)
from scorax.noise_levels import get_level_fn
from scorax.sde_lib import SDE, ScoreFn, get_sde
from scorax.utils import parallel
from scorax.utils.checkpoints import Checkpoints, check_config, fill
from scorax.weights import formats

_log = logging.getLogger(__name__)

# what a network can be trained to be, in words that fit into "... needs a classifier"
SCORE = "a score at all noise levels"
ONE_LEVEL = "a score at one noise level"
CLASSIFIER = "a classifier of noisy images"
_NETWORKS = {"last_level": ONE_LEVEL, "classifier": CLASSIFIER}  # by objective, else SCORE

# field -> smallest and largest value, where nothing that is built checks it
_RANGES = {
    "training.p_std": (1e-6, np.inf),
    "model.sigma_data": (1e-6, np.inf),
    "model.ema_rate": (0, 1),
    "model.dropout": (0, 0.999),
    "model.label_dropout": (0, 1),
    "optim.lr": (0, np.inf),
    "optim.warmup": (0, np.inf),
    "optim.beta1": (0, 0.999999),
    "optim.beta2": (0, 0.999999),
    "optim.weight_decay": (0, np.inf),
    "eval.num_samples": (1, np.inf),
    "eval.frames": (0, np.inf),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a config builds that needs no data and no device memory."""

    config: ml_collections.ConfigDict
    sde: SDE
    model: nn.Module
    parametrization: Parametrization
    optimizer: optax.GradientTransformation

    @property
    def network(self) -> str:
        """What the objective makes of the network: SCORE, ONE_LEVEL or CLASSIFIER."""
        return _NETWORKS.get(self.config.training.objective, SCORE)

    @property
    def knows_all_levels(self) -> bool:
        """Whether the score is trained at all noise levels, so that noise can be made data."""
        return self.network == SCORE

    def loss_fn(self, train: bool) -> losses.LossFn:
        """The loss, with dropout on or off."""
        level_fn = get_level_fn(self.config, self.sde)
        if self.network == CLASSIFIER:
            return losses.get_classifier_loss_fn(self.model, level_fn, train)
        m, reduce_mean = self.config.model, self.config.training.reduce_mean
        return losses.get_sde_loss_fn(
            *(self.sde, self.model, self.parametrization, level_fn, train, reduce_mean),
            num_classes=m.num_classes,
            label_dropout=m.label_dropout,
        )

    def score_fn(
        self, params: Any, model_state: Any, labels: jax.Array | np.ndarray | None = None
    ) -> ScoreFn:
        """The score of the network with these parameters, in evaluation mode.

        Args:
          params, model_state: of the network.
          labels: (B,) class labels of the examples of each call, `config.model.num_classes` for no
            class; None: no class.

        Raises:
          ValueError: for labels that are not classes of the network, and for a classifier.
        """
        if self.network == CLASSIFIER:
            raise ValueError(
                f"training.objective={self.config.training.objective!r} trains {CLASSIFIER}, which "
                "has no score; use the config of a score network"
            )
        if labels is not None and not isinstance(labels, jax.core.Tracer):
            self._check_labels("labels", np.asarray(labels), self.config.model.num_classes)
        return get_score_fn(
            *(self.sde, self.model, params, model_state, self.parametrization), class_labels=labels
        )

    def classifier_fn(self, params: Any, model_state: Any) -> ClassifierFn:
        """The classifier with these parameters, in evaluation mode.

        Raises:
          ValueError: if the network is none.
        """
        if self.network != CLASSIFIER:
            raise ValueError(
                f"training.objective={self.config.training.objective!r} trains {self.network}, "
                f"where {CLASSIFIER} is needed; use a config such as configs/classifier/mnist.py"
            )
        return functools.partial(self.model.apply, {"params": params, **model_state})

    def check_batch(self, batch: dict[str, np.ndarray]) -> None:
        """Raises ValueError unless a batch of the data, on the host, has labels to train with."""
        n, name = self.config.model.num_classes, self.config.data.dataset
        if n == 0:
            return
        labels = np.asarray(batch["label"])
        self._check_labels(f"data.dataset={name!r}", labels, n - 1)
        # A data set without labels says 0 everywhere; one with labels hardly ever does.
        if not labels.any() and n**labels.size > 1e6:
            raise ValueError(
                f"data.dataset={name!r} has the label 0 for all of {labels.size} examples, as "
                f"one without classes; set --config.model.num_classes=0, or use data with labels"
            )

    def _check_labels(self, what: str, labels: np.ndarray, last: int) -> None:
        n = self.config.model.num_classes
        if n == 0:
            raise ValueError(
                f"{what}: the network is told no classes (model.num_classes=0); leave labels out"
            )
        wrong = labels[(labels < 0) | (labels > last)]
        if wrong.size:
            raise ValueError(
                f"{what}: the label {wrong[0]} does not lie in 0 ... {last}, as "
                f"model.num_classes={n} asks; change one of them"
            )

    def init_state(self) -> losses.State:
        """The state before training."""
        _, params, model_state = init_model(jax.random.key(self.config.seed), self.config)
        return losses.init_state(params, model_state, self.optimizer)

    @functools.cached_property
    def state_shapes(self) -> losses.State:
        """Shapes and types of that state, which nothing computes."""
        return jax.eval_shape(self.init_state)

    def restore(self, checkpoints: Checkpoints, training: bool) -> tuple:
        """Reads the newest checkpoint, or to evaluate the configured one without its optimizer.

        Returns:
          The state, the position in the data, the checkpoint's own config, its step.

        Raises:
          ValueError: if there is none, it is damaged or it is that of another config.
        """
        template, step = self.state_shapes, None
        if not training:
            template = template.replace(opt_state=())
            step = int(self.config.eval.checkpoint or 0) or None
        current = self.config.to_dict()
        return checkpoints.restore(template, step, lambda c: check_config(c, current, training))

    def load(self, workdir: str) -> tuple[losses.State, dict]:
        """Reads the weights to evaluate: `eval.checkpoint`, of the run in `workdir` or exported.

        Returns:
          The state without the optimizer's, and of exported weights without what is not averaged;
          the config it was trained with.

        Raises:
          ValueError: if there are none, they are damaged or they are those of another config.
        """
        path = self.find_weights(workdir)
        if path == self.config.eval.checkpoint:
            return self._load_exported(path)
        keep_period = self.config.training.snapshot_freq
        with contextlib.closing(Checkpoints(path, keep_period)) as checkpoints:
            state, _, saved, _ = self.restore(checkpoints, training=False)
        return state, saved

    def find_weights(self, workdir: str) -> str:
        """The directory of the weights to evaluate: exported ones, or the run's checkpoints.

        Raises:
          ValueError: if it does not exist.
        """
        checkpoint = self.config.eval.checkpoint
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

    def _load_exported(self, path: str) -> tuple[losses.State, dict]:
        saved, arrays, metadata = formats.read_exported(path)
        try:
            check_config(saved, self.config.to_dict(), training=False)
        except ValueError as e:
            raise ValueError(f"eval.checkpoint={path!r}: {e}") from e
        shapes = self.state_shapes
        params = fill({"params": shapes.params_ema}, arrays, path)["params"]
        # No network has anything but parameters.
        return losses.State(
            np.int32(metadata.get("step", 0)), (), (), shapes.model_state, params
        ), saved


def build(config: ml_collections.ConfigDict) -> Experiment:
    """Builds an experiment, and with it checks the config before anything is compiled.

    Raises:
      ValueError: with field, value and remedy, for what cannot work.
    """
    experiment = _assemble(config)
    get_level_fn(config, experiment.sde)
    sampling.get_sampling_fn(config, experiment.sde)
    if config.training.snapshot_sampling and experiment.network == ONE_LEVEL:
        raise ValueError(
            "training.objective='last_level' trains the score at one noise level, with which noise "
            "cannot be made data; set training.snapshot_sampling=False"
        )
    _check_ranges(config)
    _check_counts(config)
    experiment.state_shapes  # noqa: B018 (a network that cannot be built fails here)
    return experiment


def _assemble(config: ml_collections.ConfigDict) -> Experiment:
    _check_network(config)
    sde = get_sde(config)
    return Experiment(
        config,
        sde,
        get_model(config),
        get_parametrization(config, sde),
        losses.get_optimizer(config),
    )


def load_config(directory: str) -> ml_collections.ConfigDict:
    """The config of a run, or of exported weights: its config.json.

    A key that it has not, or whose type has changed since, keeps its default.

    Raises:
      ValueError: if there is none.
    """
    path = pathlib.Path(directory, "config.json")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name the directory of a run")
    config = base.get_config()
    for section, fields in json.loads(path.read_text()).items():
        fields = fields if isinstance(fields, dict) else {"": fields}
        for key, value in fields.items():
            value = tuple(value) if isinstance(value, list) else value
            try:
                config.update({section: {key: value} if key else value})
            except TypeError:
                _log.info("%s: %s.%s=%r is of an older version", path, section, key, value)
    return config


def load_classifier(directory: str, checkpoint: str = "") -> tuple[Experiment, losses.State]:
    """A trained classifier of noisy images.

    Args:
      directory: of its run, or of exported weights.
      checkpoint: step of the run; "": the latest.

    Raises:
      ValueError: if there is none, or what is there is something else.
    """
    if not os.path.isdir(directory):
        raise ValueError(
            f"guidance.classifier={directory!r} does not exist; train one, as with python main.py "
            "--config configs/classifier/mnist.py --mode train, and name the directory of its run "
            "(runs/classifier/mnist)"
        )
    if exported := formats.is_exported(directory):
        if checkpoint:
            raise ValueError(
                f"guidance.checkpoint={checkpoint!r}, but guidance.classifier={directory!r} holds "
                "exported weights, which are of one step; leave guidance.checkpoint empty"
            )
    try:
        config = load_config(directory)
        config.eval.checkpoint = directory if exported else checkpoint
        experiment = _assemble(config)  # it is not trained here: the rest need not fit
        experiment.classifier_fn({}, {})
        state, _ = experiment.load(directory)
    except ValueError as e:
        raise ValueError(f"guidance.classifier={directory!r}: {e}") from e
    return experiment, state


def _check_network(config: ml_collections.ConfigDict) -> None:
    """A classifier has an objective of its own."""
    m, objective = config.model, config.training.objective
    classifies = m.name.lower() in CLASSIFIERS
    if classifies == (objective == "classifier"):
        return
    if classifies:
        remedy = "set training.objective='classifier'"
    else:
        remedy = f"set model.name to one of: {', '.join(CLASSIFIERS)}"
    what = "is a classifier" if classifies else "is no classifier"
    raise ValueError(
        f"model.name={m.name!r} {what}, which training.objective={objective!r} does not fit; "
        f"{remedy}"
    )


def _check_ranges(config: ml_collections.ConfigDict) -> None:
    """What would train, or fail, in silence."""
    for field, (low, high) in _RANGES.items():
        section, key = field.split(".")
        if not low <= config[section][key] <= high:
            rule = f"lie between {low:g} and {high:g}" if high < np.inf else f"be at least {low:g}"
            raise ValueError(f"{field}={config[section][key]} must {rule}")


def _check_counts(config: ml_collections.ConfigDict) -> None:
    """Batches have to split over the devices, intervals to consist of whole calls of the step."""
    parallel.local_batch_size(config.training.batch_size, "training.batch_size")
    parallel.local_batch_size(config.eval.batch_size, "eval.batch_size")
    n = config.training.n_jitted_steps
    intervals = ("log_freq", "eval_freq", "snapshot_freq", "snapshot_freq_for_preemption")
    for key in ("n_iters", *intervals):
        value = config.training[key]
        if n < 1 or value < 1 or value % n:
            raise ValueError(
                f"training.{key}={value} must be a positive multiple of "
                f"training.n_jitted_steps={n}, because that many steps run in one call"
            )
