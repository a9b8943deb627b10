"""The task "class_conditional": draws images of given classes by guidance."""

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from scorax import sampling
from scorax.conditioning.guidance import (
    change_range,
    check_labels,
    classifier_free_guidance,
    classifier_guidance,
    get_weight_fn,
)
from scorax.datasets import get_source
from scorax.evaluators.batch_sampler import BatchSampler
from scorax.evaluators.context import (
    Numbers,
    TaskContext,
    mean_nfe,
    name_classes,
    name_samples,
)
from scorax.evaluators.task import crc32_of
from scorax.experiment import Experiment
from scorax.loading import Model, load_classifier
from scorax.metrics import features
from scorax.noise_levels import ratio_range
from scorax.sde_lib import Sampler, ScoreFn
from scorax.utils import images, parallel
from scorax.utils.data_range import get_data_inverse_scaler, get_data_scaler
from scorax.utils.progress import Observer
from scorax.utils.rounds import Arrays
from scorax.utils.tables import lookup

_log = logging.getLogger(__name__)

_NO_WEIGHT = ("classifier", "checkpoint", "labels")  # fields of `guidance` other than the weight's
_COLUMNS = 16  # largest number of samples of each class in the picture


class Guide:
    """Guides the samples of a network towards classes, as `config.guidance` describes.

    Attributes:
      labels: classes to draw, int32.
      classes: the names of all classes.
      given: arguments of the sampler after the labels: the classifier's variables, if there is one.
      settings: settings for the report.
      inputs: what the samples depend on besides the config.
    """

    def __init__(self, experiment: Experiment) -> None:
        """Reads the noise classifier, if the config names one.

        Raises:
          ValueError: if there is neither a classifier nor a class-conditional network, for classes
            that do not exist, or for a classifier that is missing or does not fit the images.
        """
        self.config, self.sde = experiment.config, experiment.sde
        g = self.config.guidance
        self._weight = get_weight_fn(self.config)
        self._names = list(self.config.data.classes)
        self.given: tuple = ()
        self.inputs: Numbers = {}
        if g.classifier:
            self._guide = self._with_classifier()
        elif self.config.model.num_classes:
            self._num_classes = self.config.model.num_classes
            self.settings = {"guidance": "classifier-free"}
            self._guide = self._classifier_free
        else:
            raise ValueError(
                "the task class_conditional needs a classifier, --config.guidance.classifier="
                "DIRECTORY, or a network trained with classes (model.num_classes); there is neither"
            )
        self.classes = name_classes(self._names, self._num_classes)
        known = min(len(self._names) or self._num_classes, self._num_classes)
        self.labels = np.array([self._number(x) for x in g.labels] or range(known), np.int32)
        try:
            check_labels(self.labels, len(self.labels), self._num_classes)
        except ValueError as e:
            raise ValueError(f"guidance.labels={tuple(g.labels)}: {e}") from e

    def _number(self, label: int | str) -> int:
        """The number of a class, which may be given by its name."""
        names = self._names
        if label in names:
            return names.index(label)
        if isinstance(label, int) or label.isdecimal():
            return int(label)
        known = f"the classes are {', '.join(names)}" if names else "the classes have no names"
        raise ValueError(
            f"guidance.labels={tuple(self.config.guidance.labels)}: {label!r} is no "
            f"class; {known}, and numbers 0 ... {self._num_classes - 1} do as well"
        )

    def get_sampler(self, observer: Observer | None = None) -> Sampler:
        """The configured sampler, to be called with labels (B,) and `given`; see `BatchSampler`."""
        sampler = sampling.get_sampling_fn(self.config, self.sde, observer)

        def sample(
            rng: jax.Array, score_fn: ScoreFn, shape: tuple, labels: jax.Array, *given: Any
        ) -> tuple:
            return sampler(rng, self._guide(score_fn, labels, *given), shape)

        return sample

    def _classifier_free(self, score_fn: ScoreFn, labels: jax.Array) -> ScoreFn:
        score_of = lambda labels: functools.partial(score_fn, labels=labels)  # noqa: E731
        n = self._num_classes
        return classifier_free_guidance(score_of, self.sde, labels, n, self._weight)

    def _with_classifier(self) -> Callable[..., ScoreFn]:
        model = _load_classifier(self.config)
        classifier, state = model.experiment, model.state
        self._num_classes = classifier.config.model.num_classes
        self._names = list(classifier.config.data.classes) or self._names
        self.given = ((state.params_ema, state.model_state),)
        self.settings = {"guidance": "classifier", "classifier": self.config.guidance.classifier}
        self.inputs = {"classifier": [int(state.step), crc32_of(state)]}
        to_unit = get_data_inverse_scaler(self.config)
        to_theirs = get_data_scaler(classifier.config)
        offset = to_theirs(to_unit(0.0))
        scale = to_theirs(to_unit(1.0)) - offset
        sigma_range = _known_levels(classifier, scale, self.config.guidance.clamp)

        def guide(score_fn: ScoreFn, labels: jax.Array, variables: tuple) -> ScoreFn:
            theirs = change_range(classifier.classifier_fn(*variables), scale, offset)
            classifier_fn = lambda x, sigma: theirs(parallel.shard_batch(x), sigma)  # noqa: E731
            return classifier_guidance(
                score_fn, classifier_fn, self.sde, labels, self._weight, sigma_range
            )

        return guide


def _load_classifier(config: ml_collections.ConfigDict) -> Model:
    """The configured noise classifier, checked to classify images like the score network's."""
    g, data = config.guidance, config.data
    classifier = load_classifier(g.classifier, g.checkpoint)
    theirs = classifier.config.data
    for key in ("image_size", "num_channels"):
        if data[key] != theirs[key]:
            raise ValueError(
                f"guidance.classifier={g.classifier!r} takes images with data.{key}={theirs[key]}, "
                f"but the score network makes images with {data[key]}; name a classifier that "
                "takes these"
            )
    if data.dataset != theirs.dataset:
        line = "%s is a classifier of %s, and the score network makes images of %s"
        _log.warning(line, g.classifier, theirs.dataset, data.dataset)
    return classifier


def _known_levels(classifier: Experiment, scale: float, clamp: float) -> tuple[float, float]:
    """The range of sigma / mu in training, divided by `scale`, with its upper end clamped."""
    low, high = (level / scale for level in ratio_range(classifier.sde))
    if clamp and clamp <= low:
        raise ValueError(
            f"guidance.clamp={clamp} must be larger than the smallest noise level of the "
            f"classifier, {low:.3g}; 0 stands for its largest, {high:.3g}"
        )
    return low, min(high, clamp or high)


def evaluate_class_conditional(context: TaskContext) -> Numbers:
    """Draws `eval.num_samples` images of the classes in turn: `class_conditional.{npz,png}`.

    The archive holds "samples": uint8 (N, H, W, C), "labels": int32 (N,), the requested classes,
    and the names of all "classes". The picture has a row for each class, with its name. With
    `eval.features` "classifier", the judge, which takes no part in drawing, counts how many samples
    have the requested class; without the data that it is trained on, it is left out. "nfe" counts
    evaluations of the guided score.
    """
    config, guide = context.config, Guide(context.experiment)
    n, size = config.eval.num_samples, context.batch_size
    rounds = -(-n // size)
    labels = np.resize(guide.labels, rounds * size)  # in turns
    sampler = BatchSampler(context.experiment, guide.get_sampler)

    def draw(i: int) -> Arrays:
        given = labels[i * size : (i + 1) * size], *guide.given
        x = sampler(context.rng(i), context.state, f"class_conditional {i + 1}/{rounds}", given)
        return {"samples": images.to_uint8(x)} | sampler.costs

    drawn = context.run_rounds("samples", n, draw)
    samples, labels = drawn["samples"], labels[:n]
    arrays = {"samples": samples, "labels": labels, "classes": np.array(guide.classes)}
    context.save_npz("class_conditional.npz", **arrays)
    if config.eval.save_images:
        context.save_each("class_conditional", samples, name_samples(n, labels, guide.classes))
    rows = guide.labels[:n]
    each = min(n // len(rows), _COLUMNS)
    shown = samples[: each * len(rows)].reshape(each, len(rows), *samples.shape[1:])
    grid = images.make_grid(images.to_float(np.concatenate(np.moveaxis(shown, 1, 0))), each)
    names = [guide.classes[label] for label in rows.tolist()]
    context.save_drawing("class_conditional.png", images.label_rows(grid, names))
    return {
        **guide.settings,
        "weight": {k: v for k, v in config.guidance.to_dict().items() if k not in _NO_WEIGHT},
        "num_samples": n,
        "labels": guide.labels.tolist(),
        "classes": [guide.classes[k] for k in guide.labels.tolist()],
        **_judge(context, samples, labels),
        "nfe": mean_nfe(drawn["nfe"]),
        **{name: round(float(drawn[name].sum()), 2) for name in ("compile_seconds", "seconds")},
        "sampling": config.sampling.to_dict(),
    }


def _judge(context: TaskContext, samples: np.ndarray, labels: np.ndarray) -> Numbers:
    """The share of samples that have the requested class according to the judge."""
    if context.config.eval.features != "classifier":
        return {}
    try:
        get_source(context.config, "train")
    except ValueError as e:
        _log.warning("class_conditional: nobody judges the classes, because %s", e)
        return {"judge": None, "left_out": f"the judge is trained on the data: {e}"}
    extractor = features.get_feature_extractor(context.config)
    right = extractor(samples).logits.argmax(-1) == labels
    each = {str(label): round(float(right[labels == label].mean()), 4) for label in set(labels)}
    return {
        "judge": extractor.name,
        "classified_as_asked": round(float(right.mean()), 4),
        "classified_as_asked_of_each": dict(sorted(each.items())),
    }


def check_class_conditional(experiment: Experiment) -> None:
    """Checks guidance. The judge is left out if there are no data to train it on."""
    Guide(experiment)
    lookup(features.FEATURES, experiment.config.eval.features, "features (eval.features)")


def get_guide_inputs(experiment: Experiment) -> Numbers:
    """What the numbers depend on besides the config: classifier, and images of the judge."""
    inputs, config = dict(Guide(experiment).inputs), experiment.config
    if config.eval.features == "classifier":
        with contextlib.suppress(ValueError):
            inputs["content of data"] = get_source(config, "train").content()
    return inputs
