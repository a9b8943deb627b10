"""What a config describes, built and checked before anything is compiled."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import optax

import losses
import sampling
from models.utils import Parametrization, get_model, get_parametrization, get_score_fn, init_model
from sde_lib import SDE, ScoreFn, get_sde
from utils import parallel
from utils.checkpoints import Checkpoints, check_config

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

    def loss_fn(self, train: bool) -> losses.LossFn:
        """The loss, with dropout on or off."""
        level_fn = losses.get_level_fn(self.config, self.sde)
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
          ValueError: for labels that are not classes of the network.
        """
        if labels is not None and not isinstance(labels, jax.core.Tracer):
            self._check_labels("labels", np.asarray(labels), self.config.model.num_classes)
        return get_score_fn(
            *(self.sde, self.model, params, model_state, self.parametrization), class_labels=labels
        )

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
            template, step = template.replace(opt_state=()), self.config.eval.checkpoint or None
        current = self.config.to_dict()
        return checkpoints.restore(template, step, lambda c: check_config(c, current, training))


def build(config: ml_collections.ConfigDict) -> Experiment:
    """Builds an experiment, and with it checks the config before anything is compiled.

    Raises:
      ValueError: with field, value and remedy, for what cannot work.
    """
    sde = get_sde(config)
    experiment = Experiment(
        config,
        sde,
        get_model(config),
        get_parametrization(config, sde),
        losses.get_optimizer(config),
    )
    losses.get_level_fn(config, sde)
    sampling.get_sampling_fn(config, sde)
    _check_ranges(config)
    _check_counts(config)
    experiment.state_shapes  # noqa: B018 (a network that cannot be built fails here)
    return experiment


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
