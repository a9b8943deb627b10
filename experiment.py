"""Experiments: the parts that a config describes, built and checked before anything compiles."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import optax

from scorax import conditioning, losses, sampling, solvers
from scorax.conditioning.guidance import ClassifierFn
from scorax.configs.ranges import check_ranges
from scorax.likelihood import ESTIMATORS
from scorax.models import layers, refinenet
from scorax.models.utils import (
    CLASSIFIERS,
    Parametrization,
    get_model,
    get_parametrization,
    get_score_fn,
    get_variable_shapes,
    init_variables,
)
from scorax.noise_levels import LevelFn, get_level_fn
from scorax.sde_lib import SDE, ScoreFn, get_sde
from scorax.solvers.probability_flow import ERROR_CONTROLS
from scorax.utils import parallel, schedules
from scorax.utils.embeddings import EMBEDDINGS, get_embedding, get_padding
from scorax.utils.strategies import STRATEGIES
from scorax.utils.tables import check_name

# What a network can be trained to be, in words for error messages such as "... needs {SCORE}".
SCORE = "a score at all noise levels"
ONE_LEVEL = "a score at one noise level"
CLASSIFIER = "a classifier of noisy images"
# objective -> what the network is trained to be; every other objective trains SCORE
_NETWORKS = {"last_level": ONE_LEVEL, "classifier": CLASSIFIER}

# Names that are looked up only by some networks, samplers and tasks: a misspelt one is always told.
_NAMES = {
    "parallel.strategy": STRATEGIES,
    "sampling.grid": solvers.TIME_GRIDS,
    "sampling.ode_solver": solvers.ODE_SOLVERS,
    "sampling.error_control": ERROR_CONTROLS,
    "eval.denoisers": conditioning.DENOISERS,
    "eval.mask_amount": conditioning.AMOUNTS,
    "eval.known_likelihood": conditioning.LIKELIHOODS,
    "eval.color_basis": conditioning.COLOR_BASES,
    "eval.operator": conditioning.OPERATORS,
    "eval.likelihood": conditioning.LIKELIHOODS,
    "eval.observation": conditioning.OBSERVATIONS,
    "eval.bpd_estimator": ESTIMATORS,
    "guidance.schedule": conditioning.WEIGHTS,
    "data.embedding": EMBEDDINGS,
    "model.signal": schedules.SIGNALS,
    "model.noise": schedules.NOISES,
    "model.normalization": layers.NORMALIZATIONS,
    "model.interpolation": refinenet.INTERPOLATIONS,
}
_MAY_BE_EMPTY = ("sampling.grid", "eval.known_likelihood", "data.embedding")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that can be built from a config without data and without device memory.

    Attributes:
      config: the whole config.
      sde: the forward process.
      model: the network, without parameters.
      parametrization: turns the network's output into a score.
      optimizer: the optimizer, including the learning-rate schedule.
      level_fn: draws the noise levels of training.
      state_shapes: shapes and types of the arrays of the state.
    """

    config: ml_collections.ConfigDict
    sde: SDE
    model: nn.Module
    parametrization: Parametrization
    optimizer: optax.GradientTransformation
    level_fn: LevelFn | None = None
    state_shapes: losses.State | None = None

    @property
    def network(self) -> str:
        """What the network is trained to be: SCORE, ONE_LEVEL or CLASSIFIER."""
        return _NETWORKS.get(self.config.training.objective, SCORE)

    @property
    def knows_all_levels(self) -> bool:
        """Whether the score is trained at all noise levels, as sampling from noise requires."""
        return self.network == SCORE

    def loss_fn(self, train: bool) -> losses.LossFn:
        """The loss, with dropout on or off."""
        if self.network == CLASSIFIER:
            return losses.get_classifier_loss_fn(self.model, self.level_fn, train)
        return losses.get_sde_loss_fn(
            self.sde,
            self.model,
            self.parametrization,
            self.level_fn,
            train,
            self.config.training.reduce_mean,
            num_classes=self.config.model.num_classes,
            label_dropout=self.config.model.label_dropout,
            padding=get_padding(self.config),
        )

    def score_fn(
        self, params: Any, model_state: Any, labels: jax.Array | np.ndarray | None = None
    ) -> ScoreFn:
        """The score of the network with the given parameters, without dropout.

        Args:
          params, model_state: parameters and other variables of the network.
          labels: (B,) class labels of the examples in each call, where `config.model.num_classes`
            means no class; None if no example has a class.

        Raises:
          ValueError: for labels that are not classes of the network, or if the network is a noise
            classifier.
        """
        self.check_score(labels)
        return get_score_fn(
            self.sde,
            self.model,
            params,
            model_state,
            self.parametrization,
            class_labels=labels,
            padding=get_padding(self.config),
        )

    def classifier_fn(self, params: Any, model_state: Any) -> ClassifierFn:
        """The noise classifier with the given parameters, without dropout.

        Raises:
          ValueError: if the network is not a noise classifier.
        """
        self.check_classifier()
        return functools.partial(self.model.apply, {"params": params, **model_state})

    def check_classifier(self) -> None:
        """Raises ValueError unless the network is a noise classifier."""
        if self.network != CLASSIFIER:
            raise ValueError(
                f"training.objective={self.config.training.objective!r} trains {self.network}, "
                f"where {CLASSIFIER} is needed; use a config such as configs/classifier/mnist.py"
            )

    def check_score(self, labels: jax.Array | np.ndarray | None = None) -> None:
        """Raises ValueError unless the network has a score, and the labels (B,), if any, fit it."""
        if self.network == CLASSIFIER:
            raise ValueError(
                f"training.objective={self.config.training.objective!r} trains {CLASSIFIER}, which "
                "has no score; use the config of a score network"
            )
        if labels is not None and not isinstance(labels, jax.core.Tracer):
            self._check_labels("labels", np.asarray(labels), self.config.model.num_classes)

    def check_labels(self, labels: np.ndarray) -> str:
        """Checks the labels of all training examples, (N,).

        Returns:
          What is unusual about them but can be trained, in a sentence; "" if nothing is.

        Raises:
          ValueError: for labels that are not classes of the network, or data without classes.
        """
        n, name = self.config.model.num_classes, self.config.data.dataset
        if n == 0:
            return ""
        self._check_labels(f"data.dataset={name!r}", labels, n - 1)
        if n > 1 and not labels.any():
            raise ValueError(
                f"data.dataset={name!r} has the label 0 for all of {labels.size} examples, like "
                f"data without classes; set --config.model.num_classes=0, or use data with labels"
            )
        missing = np.setdiff1d(np.arange(n), labels)
        if not missing.size:
            return ""
        return (
            f"model.num_classes={n}, but no example of data.dataset={name!r} has the label "
            f"{', '.join(map(str, missing[:5]))}{', ...' if missing.size > 5 else ''}; the network "
            f"learns nothing about it (the data have {n - missing.size} classes)"
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
                f"model.num_classes={n} asks ({wrong.size} of {labels.size} labels do not); change "
                "one of them"
            )

    def init_state(self) -> losses.State:
        """The state before training."""
        params, model_state = init_variables(
            jax.random.key(self.config.seed), self.model, self.config
        )
        return losses.init_state(params, model_state, self.optimizer)


def build(config: ml_collections.ConfigDict) -> Experiment:
    """Builds an experiment for training or evaluation, and checks the whole config.

    Raises:
      ValueError: naming field, value and remedy, for any setting that cannot work.
    """
    check_ranges(config)
    _check_names(config)
    _check_counts(config)
    experiment = assemble(config)
    # Checks the sampler's settings. It is built again, with an observer, where it is used.
    sampling.get_sampling_fn(config, experiment.sde)
    if config.training.snapshot_sampling and experiment.network == ONE_LEVEL:
        raise ValueError(
            "training.objective='last_level' trains the score at one noise level, which does not "
            "suffice to draw samples; set training.snapshot_sampling=False"
        )
    return experiment


def assemble(config: ml_collections.ConfigDict) -> Experiment:
    """Builds an experiment for using a trained network, without checking training settings.

    Raises:
      ValueError: for a part that cannot be built, or parts that do not fit together.
    """
    _check_network(config)
    get_embedding(config)  # raises if the series do not fit into the images
    sde = get_sde(config)
    parametrization = get_parametrization(config, sde)
    model = get_model(config, sde)
    optimizer = losses.get_optimizer(config)
    return Experiment(
        config=config,
        sde=sde,
        model=model,
        parametrization=parametrization,
        level_fn=get_level_fn(config, sde),
        optimizer=optimizer,
        state_shapes=get_state_shapes(config, model, optimizer),
    )


def get_state_shapes(
    config: ml_collections.ConfigDict, model: nn.Module, optimizer: optax.GradientTransformation
) -> losses.State:
    """Shapes and types of the arrays of the state, without computing them.

    Raises:
      ValueError: for a network that cannot be built for examples of the config's shape.
    """
    variables = get_variable_shapes(model, config)
    return jax.eval_shape(lambda p, m: losses.init_state(p, m, optimizer), *variables)


def _check_network(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless network and objective are both for a classifier, or neither is."""
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
        f"model.name={m.name!r} {what}, but training.objective={objective!r} does not fit it; "
        f"{remedy}"
    )


def _check_names(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for a name that its table does not have."""
    for field, table in _NAMES.items():
        section, key = field.split(".")
        value = config[section][key]
        for name in (value,) if isinstance(value, str) else value:
            if name or field not in _MAY_BE_EMPTY:
                check_name(table, name, f"{key.replace('_', ' ')} ({field})")


def _check_counts(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless batches split over devices and intervals into jitted calls."""
    t = config.training
    parallel.local_batch_size(t.batch_size, "training.batch_size", t.accumulate)
    parallel.local_batch_size(config.eval.batch_size, "eval.batch_size")
    n = t.n_jitted_steps
    intervals = ("log_freq", "eval_freq", "snapshot_freq", "snapshot_freq_for_preemption")
    for key in ("n_iters", *intervals):
        value = t[key]
        if n < 1 or value < 1 or value % n:
            raise ValueError(
                f"training.{key}={value} must be a positive multiple of "
                f"training.n_jitted_steps={n}, because that many steps run in one call"
            )
