"""Draws with a trained network while somebody watches.

A `Run` is a compiled sampler whose states arrive while it is still at work. A `Studio` keeps the
runs of one network: images drawn freely or of a class, completed, and restored from a measurement.
Completing, restoring and guiding work as in the tasks of `--mode eval`.
"""

import collections
import dataclasses
import functools
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from scorax import sampling
from scorax.configs.ranges import check_ranges
from scorax.datasets import get_source
from scorax.evaluators.class_conditional import Guide
from scorax.evaluators.problems import Inpainting, Problem, Restoration
from scorax.experiment import Experiment
from scorax.loading import Model
from scorax.utils.images import to_float

MOST = 64  # images at a time
MOST_STEPS = 1000
OPERATORS = {  # what somebody can sketch -> the field of config.eval that is its size in pixels
    "block_mean": "operator_factor",
    "gaussian_blur": "operator_width",
    "motion_blur": "operator_length",
}
_KEPT = 32  # compiled samplers
_END = ()  # what a run tells last
_INTERVAL = 0.5  # seconds between two signs of life while a sampler compiles


class Stopped(Exception):
    """Nobody watches any more."""


def _is_news(record: logging.LogRecord) -> bool:
    """Drops what JAX logs when a run is stopped on purpose."""
    return not (record.exc_info and isinstance(record.exc_info[1], Stopped))


logging.getLogger("jax._src.debugging").addFilter(_is_news)


@dataclasses.dataclass(frozen=True)
class Moment:
    """The state of a run.

    Attributes:
      state: what the sampler told; None while it compiles.
      seconds: time since the run began.
      compile_seconds: the part of it that went into compiling.
      nfe: evaluations of the score for each example; 0 until the last moment.
    """

    state: tuple | None
    seconds: float
    compile_seconds: float
    nfe: int = 0


class _Call:
    """A call of a run: what it has told, and whether anybody still watches."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue = queue.SimpleQueue()
        self.stopped = False
        self.worker: threading.Thread | None = None
        self.outcome: tuple[Any, int, float] = (None, 0, 0.0)  # samples or an error, nfe, seconds


class Run:
    """A compiled sampler that can be watched. It compiles when it is first called.

    A call that is closed before its end stops the sampler at its next step, and so does a new call
    to the one before it.
    """

    def __init__(self, build: Callable[[Callable[..., None]], Callable]) -> None:
        """Builds the sampler.

        Args:
          build: tell -> a function that can be jitted, of the arguments of a call. It returns the
            samples and the evaluations, and calls `tell(*state)` on the host while it runs.
        """
        self._function = jax.jit(build(self._tell))
        self._compiled: Callable | None = None
        self._call = _Call()

    def _tell(self, *state: Any) -> None:
        if self._call.stopped:
            raise Stopped
        self._call.told.put(tuple(np.asarray(a) for a in state))

    def __call__(self, *arguments: Any) -> Iterator[Moment]:
        """Runs the sampler: moments while it runs, and a last one with (samples,) and their cost.

        Raises:
          ValueError: if the arguments do not fit the sampler.
          FloatingPointError: if the samples are not finite.
        """
        begin, before = time.monotonic(), self._call
        before.stopped = True
        while before.worker is not None and before.worker.is_alive():
            before.worker.join(_INTERVAL)
            yield Moment(None, time.monotonic() - begin, 0.0)
        call = self._call = _Call()
        call.worker = threading.Thread(target=self._work, args=(call, arguments), daemon=True)
        call.worker.start()
        try:
            yield from self._follow(call, begin)
        finally:
            call.stopped = True
        samples, nfe, compile_seconds = call.outcome
        if isinstance(samples, Exception):
            raise samples
        if not np.isfinite(samples).all():
            raise FloatingPointError(
                "the samples are not finite; take more steps or another sampler"
            )
        yield Moment((samples,), time.monotonic() - begin, compile_seconds, nfe)

    def _follow(self, call: _Call, begin: float) -> Iterator[Moment]:
        compiled = 0.0 if self._compiled else None
        while True:
            try:
                state = call.told.get(timeout=_INTERVAL)
            except queue.Empty:
                state = None
            if state is _END:
                return
            now = time.monotonic() - begin
            if state is not None and compiled is None:
                compiled = now
            if state is not None or compiled is None:
                yield Moment(state, now, now if compiled is None else compiled)

    def _work(self, call: _Call, arguments: tuple) -> None:
        try:
            seconds = 0.0
            if self._compiled is None:
                begin = time.monotonic()
                self._compiled = self._function.lower(*arguments).compile()
                seconds = time.monotonic() - begin
            if not call.stopped:
                samples, nfe = jax.block_until_ready(self._compiled(*arguments))
                jax.effects_barrier()
                call.outcome = np.asarray(samples), int(nfe), seconds
        except Exception as e:
            call.outcome = e, 0, 0.0
        finally:
            call.told.put(_END)


class Runs:
    """The last few runs, by what they depend on besides their arguments."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[str, Run] = collections.OrderedDict()

    def get(self, key: str, make: Callable[[], Run]) -> Run:
        """The run of a key, made by `make` if there is none."""
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]


@dataclasses.dataclass(frozen=True)
class How:
    """How to sample: the method and its steps, the number of images, and the seed."""

    method: str
    steps: int
    n: int
    seed: int

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1, MOST_STEPS)
        whole("the number of samples", self.n, 1)
        whole("the seed", self.seed, 0, 2**32 - 1)
        if self.method not in methods():
            raise ValueError(f"{self.method!r} is no sampler; choose from: {', '.join(methods())}")


def methods() -> list[str]:
    """The names of all samplers, those of few steps first."""
    return [*sampling.SOLVERS, "pc", "ode"]


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Checks a whole number.

    Raises:
      ValueError: naming the number, what it is and what it must be.
    """
    fits = isinstance(value, int | float) and value == value // 1
    if not fits or value < low or (high is not None and value > high):
        most = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise ValueError(f"{name} must be a whole number {most}, not {_said(value)}")
    return int(value)


def _said(value: Any) -> str:
    return "empty" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


class Studio:
    """A trained network, and what it has been asked for.

    Attributes:
      model: the network, of images with one or three channels.
      classes: the names of its classes; empty if it draws no classes.
      weight: how strongly a class guides, unless somebody asks for something else.
    """

    def __init__(self, model: Model) -> None:
        """Takes a network.

        Raises:
          ValueError: for a network that does not draw images with one or three channels.
        """
        model.experiment.check_score(None)
        data = model.config.data
        if data.kind != "images" or data.num_channels not in (1, 3):
            raise ValueError(
                f"the page takes networks of images with 1 or 3 channels, but this one has "
                f"data.kind={data.kind!r} and data.num_channels={data.num_channels}; see "
                "docs/python.md for drawing from it in a program"
            )
        self.model = model
        self.classes: list[str] = []
        guided = model.config.guidance.classifier or model.config.model.num_classes
        if guided:
            self.classes = list(Guide(model.experiment).classes)
        self.weight = float(model.config.guidance.weight)
        self._runs = Runs()

    @functools.cached_property
    def examples(self) -> np.ndarray:
        """Ten images of the test data in [0, 1], (N, H, W, C), one a class; none without data."""
        try:
            source = get_source(self.model.config, "test")
        except ValueError:
            return np.zeros((0, *self.model.shape), np.float32)
        first: dict[Any, np.ndarray] = {}
        for i in range(min(len(source), 200)):
            example = source[i]
            first.setdefault(int(example["label"]) if self.classes else i, example["image"])
            if len(first) == 10:
                break
        return to_float(np.stack([first[label] for label in sorted(first)]))

    def draw(self, how: How, label: str = "", weight: float = 0.0) -> Iterator[Moment]:
        """Draws images: moments whose states are (done, total, images (N, H, W, C)), images last.

        Args:
          how: the sampler.
          label: the name of a class; "" for any.
          weight: of the guidance towards the class.
        """
        if not label:
            experiment = self._experiment(how)
            return self._watch("draw", how, experiment, sampling_of(experiment))
        if label not in self.classes:
            raise ValueError(f"{label!r} is no class; choose from: {', '.join(self.classes)}")
        if not isinstance(weight, int | float):
            raise ValueError("the weight of the class must be a number, not empty")
        experiment = self._experiment(how, guidance={"weight": float(weight)})
        guide = Guide(experiment)
        labels = np.full(how.n, self.classes.index(label), np.int32)
        return self._watch("guide", how, experiment, guide.get_sampler, labels, *guide.given)

    def complete(self, how: How, image: np.ndarray, hidden: np.ndarray) -> Iterator[Moment]:
        """Completes an image (H, W, C) in [0, 1] where `hidden` (H, W) is True; see `draw`.

        Raises:
          ValueError: if nothing is hidden.
        """
        if not hidden.any():
            raise ValueError(
                "nothing is hidden, so there is nothing to complete; paint red over a part of the "
                "picture, or choose a part to hide"
            )
        experiment = self._experiment(how)
        known = ~hidden[..., None]
        y = np.concatenate([np.where(known, image, 0.5), known], -1).astype(np.float32)
        return self._watch_given("complete", how, experiment, Inpainting(experiment), y)

    def _restoration(self, how: How, operator: str, size: float, std: float) -> Restoration:
        if operator not in OPERATORS:
            raise ValueError(f"{operator!r} is no instrument; choose from: {', '.join(OPERATORS)}")
        if not isinstance(std, int | float) or not std > 0:
            raise ValueError(f"the noise must be a number above 0, not {_said(std)}")
        if not isinstance(size, int | float):
            raise ValueError("the size must be a number of pixels, not empty")
        field = OPERATORS[operator]
        if field == "operator_factor":
            size = whole("the size of blocks", size, 1)
        fields = {"operator": operator, field: size, "measurement_std": float(std)}
        return Restoration(self._experiment(how, eval=fields))

    def measure(
        self, how: How, image: np.ndarray, operator: str, size: float, std: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """What an instrument sees of an image (H, W, C) in [0, 1], with noise.

        Args:
          how: its seed makes the noise.
          image: the image.
          operator: a row of OPERATORS.
          size: its size in pixels.
          std: standard deviation of the noise, where white is 1.

        Returns:
          The measurement (*Y), and what it looks like, (H, W, C).
        """
        problem = self._restoration(how, operator, size, std)
        y = np.asarray(problem.measure(jax.random.key(how.seed), image[None].astype(np.float32)))
        return y[0], np.asarray(problem.to_image(y))[0]

    def restore(
        self, how: How, y: np.ndarray, operator: str, size: float, std: float
    ) -> Iterator[Moment]:
        """Draws images that agree with a measurement y (*Y); see `measure` and `draw`."""
        problem = self._restoration(how, operator, size, std)
        experiment = self._experiment(how, eval=problem.config.eval.to_dict())
        return self._watch_given("restore", how, experiment, problem, y)

    def _experiment(self, how: How, **sections: dict[str, Any]) -> Experiment:
        """The network's experiment with a sampler and other fields of its config."""
        config = self.model.config.copy_and_resolve_references()
        config.update({"sampling": {"method": how.method, "steps": how.steps}, **sections})
        check_ranges(config)
        return dataclasses.replace(self.model.experiment, config=config)

    def _watch_given(
        self, name: str, how: How, experiment: Experiment, problem: Problem, y: np.ndarray
    ) -> Iterator[Moment]:
        given = np.repeat(np.asarray(y, np.float32)[None], how.n, 0)
        return self._watch(name, how, experiment, problem.get_sampler, given)

    def _watch(
        self,
        name: str,
        how: How,
        experiment: Experiment,
        get_sampler: Callable[[Callable[..., None]], Callable],
        *given: Any,
    ) -> Iterator[Moment]:
        """Runs a sampler of an observer, as `BatchSampler` takes it."""
        whole("the number of samples", how.n, 1, MOST)
        config, shape = experiment.config, (how.n, *self.model.shape)

        def build(tell: Callable[..., None]) -> Callable:
            sampler = get_sampler(tell)

            def draw(variables: tuple, rng: jax.Array, *given: Any) -> tuple:
                def score_fn(x: jax.Array, t: jax.Array, labels: Any = None) -> jax.Array:
                    return experiment.score_fn(*variables, labels)(x, t)

                return sampler(rng, score_fn, shape, *given)

            return draw

        key = json.dumps([name, how.n, describe(config)])
        run = self._runs.get(key, lambda: Run(build))
        for moment in run(self.model.variables, jax.random.key(how.seed), *given):
            state = moment.state
            if state is not None:
                state = (*state[:-1], np.asarray(self.model.to_data(state[-1])))
            yield dataclasses.replace(moment, state=state)


def sampling_of(experiment: Experiment) -> Callable[[Callable[..., None]], Callable]:
    """The configured sampler, as a function of its observer."""
    return functools.partial(sampling.get_sampling_fn, experiment.config, experiment.sde)


def describe(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What a sampler depends on."""
    return {name: config[name].to_dict() for name in ("sampling", "guidance", "eval")}
