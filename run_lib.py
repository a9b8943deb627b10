"""Training and evaluation: the only loops over training steps and over evaluation tasks.

A run is a directory:

    config.json versions.json stdout.txt    the config, package versions, and the log
    tensorboard/ wandb.json                 scalars and pictures, and their run in `training.wandb`
    checkpoints/STEP/                       see utils/checkpoints.py
    profile/                                a trace of `training.profile_steps` steps, if any
    skipped.npz                             the last batch whose loss was not finite, if any
    samples/step_STEP.png                   samples drawn during training and at its end; for a
                                            noise classifier, a plot of its accuracy
    eval/                                   results of `evaluate`, a folder for each checkpoint

States are kept on the host; only the training steps hold replicated copies on the devices.
"""

import contextlib
import logging
import os
import pathlib
import shlex
import shutil
import sys
import time
from typing import Any, NoReturn

import jax
import ml_collections
import numpy as np

from scorax import evaluators, loading, losses
from scorax.data_sources.source import Source
from scorax.datasets import (
    BatchIterator,
    describe,
    get_dataset,
    get_iterator,
    get_source,
    get_statistics,
)
from scorax.evaluators import EVALUATORS, AccuracyCurve, BatchSampler
from scorax.experiment import CLASSIFIER, Experiment, build
from scorax.steps import Steps
from scorax.utils import parallel
from scorax.utils.bars import elapsing
from scorax.utils.cards import PROGRESS
from scorax.utils.checkpoints import Checkpoints, check_config
from scorax.utils.data_range import get_data_inverse_scaler
from scorax.utils.images import save_npz
from scorax.utils.logging import logging_errors, progress_bar, read_json, versions, write_json
from scorax.utils.meter import Meter, Trace
from scorax.utils.pictures import get_pictures
from scorax.utils.remote import mirrored
from scorax.utils.run_folder import check_folder, claim, set_aside_if_damaged
from scorax.utils.signals import Stopped, StopSignal
from scorax.utils.writers import MetricWriter, check_project

log = logging.getLogger(__name__)


def _build(config: ml_collections.ConfigDict) -> Experiment:
    """Builds the experiment of a config, and checks its evaluation tasks too."""
    experiment = build(config)
    evaluators.check(experiment)
    return experiment


class Run:
    """A training run: its directory, and what happens at intervals between the steps.

    Attributes:
      checkpoints: the checkpoints of the run.
      pictures: how examples are shown.
      writer: writes scalars and pictures for TensorBoard, and Weights & Biases if asked for.
      meter: measures the speed.
    """

    def __init__(
        self, experiment: Experiment, workdir: str, checkpoints: Checkpoints, start: int
    ) -> None:
        self.experiment, self.config, self.workdir = experiment, experiment.config, workdir
        self.checkpoints, self.pictures = checkpoints, get_pictures(experiment.config.data.kind)
        project, facts = self.config.training.wandb, self.config.to_dict()
        self.writer = MetricWriter(workdir, start, project, facts)
        self._schedule = losses.get_schedule(experiment.config)
        self._sampler: BatchSampler | None = None
        self._curve: AccuracyCurve | None = None
        self._skipped = 0  # since this process started
        self._progress, self._began = os.path.join(workdir, PROGRESS), time.monotonic()
        set_aside_if_damaged(self._progress)
        before = read_json(self._progress) if os.path.exists(self._progress) else {}
        self._seconds = before.get("seconds", 0.0)  # of earlier processes, without lost steps
        self.meter = Meter(start, self.config.training.batch_size)

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the metrics of the last step, the learning rate and the speed."""
        scalars = {
            "training_loss": metrics["loss"],
            "grad_norm": metrics["grad_norm"],
            "learning_rate": float(self._schedule(step - 1)),
            **self.meter.read(step),
        }
        self.writer.scalars(step, scalars)
        line = "step %d: training_loss %.5e, %.2f steps/s"
        log.info(line, step, metrics["loss"], scalars["steps_per_second"])

    def check_skipped(self, step: int, skipped: np.ndarray, batch: losses.Batch) -> None:
        """Counts the steps of a call that were skipped, and keeps the last batch of that kind.

        Args:
          step: number of steps done after the call.
          skipped: (n_jitted_steps,), 1 for a step that was skipped.
          batch: what the call was given.

        Raises:
          FloatingPointError: if `training.max_skipped` is exceeded.
        """
        if not skipped.any():
            return
        self._skipped += int(skipped.sum())
        path, most = os.path.join(self.workdir, "skipped.npz"), self.config.training.max_skipped
        if parallel.is_primary():
            save_npz(path, step=np.array(step), **batch)
        line = f"the loss or its gradient is not finite at step {step}; its batch is in {path}"
        if self._skipped <= most:
            log.warning("%s, and it is skipped (%d of %d)", line, self._skipped, most)
        else:
            self._stop(f"{line}, and training.max_skipped={most} is exceeded")

    def _stop(self, line: str) -> NoReturn:
        """Raises the error of a training run that has diverged."""
        lr = self.config.optim.lr
        raise FloatingPointError(
            f"{line}; lower optim.lr: the same command with "
            f"--config.optim.lr={lr / 4 if lr < 0.01 else 2e-4:g} continues from step "
            f"{self.checkpoints.latest_step() or 0}"
        )

    def save(self, state: losses.State, next_batch: int) -> None:
        """Writes a checkpoint.

        Raises:
          FloatingPointError: if a parameter is not finite.
        """
        step = int(state.step)
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(state.params)):
            self._stop(f"a parameter is not finite at step {step}, which is not saved")
        self.writer.flush()  # what a run that is killed has logged before its last checkpoint stays
        self.checkpoints.save(step, state, {"next_batch": next_batch}, self.config)
        if parallel.is_primary():
            seconds = round(self._seconds + time.monotonic() - self._began, 1)
            progress = {"step": step, "seconds": seconds, "command": shlex.join(sys.argv)}
            write_json(self._progress, progress)

    def sample_path(self, step: int) -> str:
        """The path of the picture drawn at a step."""
        return os.path.join(self.workdir, "samples", f"step_{step}.png")

    def draw(self, state: losses.State) -> None:
        """Draws the picture of a step: samples or, for a noise classifier, its accuracy.

        Raises:
          Stopped: if a signal arrived before it was drawn.
        """
        rng = jax.random.fold_in(jax.random.key(self.config.seed), int(state.step))
        if self.experiment.network == CLASSIFIER:
            self._plot_accuracy(rng, state)
        else:
            self._draw_samples(rng, state)
        self.meter.restart(int(state.step))

    def _plot_accuracy(self, rng: jax.Array, state: losses.State) -> None:
        """Plots accuracy against noise level; TensorBoard gets the mean over the levels."""
        step = int(state.step)
        self._curve = self._curve or AccuracyCurve(self.experiment)
        accuracy = self._curve.in_training(rng, state)
        self.writer.scalars(step, {"accuracy": float(accuracy.mean())})
        if parallel.is_primary():
            self._curve.save_plot(self.sample_path(step), accuracy, step)
        line = "accuracy of step %d: %.3f, the mean over noise levels: %s"
        log.info(line, step, accuracy.mean(), self.sample_path(step))

    def _draw_samples(self, rng: jax.Array, state: losses.State) -> None:
        """Draws samples and writes them as a picture, to a file and for TensorBoard."""
        step = int(state.step)
        self._sampler = self._sampler or BatchSampler(self.experiment)
        try:
            x = self._sampler(rng, state)
        except FloatingPointError as e:  # the sampler failed, but training may be going well
            log.warning("no picture of step %d: %s", step, e)
        else:
            self.write_picture(step, "samples", x)
            if parallel.is_primary():
                self.pictures.save(self.sample_path(step), x)
            log.info("samples of step %d: %s", step, self.sample_path(step))

    def write_picture(self, step: int, name: str, x: np.ndarray) -> None:
        """Shows examples beside the scalars."""
        self.writer.images(step, name, self.pictures.draw(x[:64], None, None))

    def finish(self, state: losses.State) -> None:
        """Draws the last picture of a finished run, unless it was drawn before a restart.

        Raises:
          Stopped: as `draw` does.
        """
        step = int(state.step)
        path = self.sample_path(step)
        drawn = parallel.any_process(os.path.exists(path))
        if self.config.training.snapshot_sampling and not drawn:
            self.draw(state)
            drawn = parallel.any_process(os.path.exists(path))
        what = "accuracy" if self.experiment.network == CLASSIFIER else "samples"
        picture = f"; {what}: {path}" if drawn else ""
        log.info("finished: step %d of %d%s", step, self.config.training.n_iters, picture)


def _open_checkpoints(config: ml_collections.ConfigDict, workdir: str) -> Checkpoints:
    directory = os.path.join(workdir, "checkpoints")
    return Checkpoints(directory, config.training.snapshot_freq, cleanup=True)


def train(config: ml_collections.ConfigDict, workdir: str) -> losses.State:
    """Trains, or continues a run that was stopped, and draws samples at the end.

    Args:
      config: the experiment.
      workdir: directory of the run, local or remote ("gs://bucket/run").

    Returns:
      The last state, on the host.

    Raises:
      ValueError: for a bad config, missing data, or a workdir that belongs to another config.
      FloatingPointError: if training diverges.
    """
    with mirrored(workdir, exclusive=True) as folder:
        return _train(config, folder)


def _train(config: ml_collections.ConfigDict, workdir: str) -> losses.State:
    """See `train`; the directory is local."""
    check_folder(workdir)
    check_project(config.training.wandb)
    source = get_source(config, "train")
    config = _with_facts(config, source)
    experiment = _build(config)
    batches, held_out = get_dataset(config, "train", source=source), get_dataset(config, "test")
    unusual = _check_data(experiment, source)
    initial = _get_initial(experiment, workdir)
    iterator = get_iterator(batches, config)
    # Nothing is written until everything above has succeeded.
    with claim(workdir), logging_errors(workdir), contextlib.ExitStack() as stack:
        # The signals first, so that the last checkpoint is written to its end.
        stop = stack.enter_context(StopSignal())
        stack.enter_context(contextlib.closing(iterator))
        checkpoints = stack.enter_context(contextlib.closing(_open_checkpoints(config, workdir)))
        with elapsing("preparing the network"):
            state = _restore_or_init(experiment, checkpoints, iterator, initial)
        log.info("train: %s", describe(source))
        for warning in unusual:
            log.warning("%s", warning)
        _describe(config, workdir, state)
        run = Run(experiment, workdir, checkpoints, int(state.step))
        stack.enter_context(contextlib.closing(run.writer))
        if int(state.step) == 0:
            run.write_picture(0, "data", get_data_inverse_scaler(config)(batches[0]["image"]))
        if int(state.step) < config.training.n_iters:
            state = _train_steps(run, state, iterator, held_out, stop)
        if not parallel.any_process(stop.received is not None):
            with contextlib.suppress(Stopped):
                run.finish(state)
                return state
        saved = ", which is saved" if checkpoints.latest_step() is not None else ""
        line = "stopped at step %d of %d%s; the same command continues"
        log.info(line, int(state.step), config.training.n_iters, saved)
    return state


def _with_facts(config: ml_collections.ConfigDict, source: Source) -> ml_collections.ConfigDict:
    """A copy of the config with what is known of the data: names of classes, and statistics.

    Raises:
      ValueError: if the config has other names.
    """
    names, found = tuple(config.data.classes), tuple(source.classes)
    if names and found and names != found:
        raise ValueError(
            f"data.classes={names}, but the classes of the data are {found}; leave it empty"
        )
    config = config.copy_and_resolve_references()
    config.data.classes = names or found
    if not (config.data.mean and config.data.scale):
        config.data.mean, config.data.scale = get_statistics(config, source)
    return config


def _check_data(experiment: Experiment, source: Source) -> list[str]:
    """Checks the labels of all examples, and returns what is unusual about data and averaging."""
    config, found = experiment.config, []
    if config.model.num_classes:
        found.append(experiment.check_labels(source.all_labels()))
    rate, steps = config.model.ema_rate, config.training.n_iters
    kept = 0.0 if config.model.ema_warmup or config.training.init_from else rate**steps
    if kept > 0.01:
        found.append(
            f"model.ema_rate={rate:g} is slow for training.n_iters={steps}: {kept:.0%} of the "
            f"averaged weights will be their random start; set --config.model.ema_warmup=True, or "
            f"--config.model.ema_rate={max(0.0, 1 - 5 / steps):.4g}"
        )
    return [line for line in found if line]


def _get_initial(experiment: Experiment, workdir: str) -> losses.State | None:
    """The weights from which a new run starts; None for a random start, or a run to continue."""
    if not experiment.config.training.init_from:
        return None
    directory = pathlib.Path(workdir, "checkpoints")
    started = directory.is_dir() and any(path.name.isdecimal() for path in directory.iterdir())
    return None if started else loading.load_initial(experiment)


def _restore_or_init(
    experiment: Experiment,
    checkpoints: Checkpoints,
    iterator: BatchIterator,
    initial: losses.State | None = None,
) -> losses.State:
    """Restores the newest checkpoint and the iterator's position, or returns a new run's state.

    Raises:
      ValueError: if the checkpoint does not match the config, or its step is not a multiple of
        `training.n_jitted_steps`.
    """
    if checkpoints.latest_step() is None:
        state = jax.device_get(experiment.init_state())
        if initial is None:
            return state
        # Adam starts afresh, and so does the average.
        log.info("starting from the weights of %s", experiment.config.training.init_from)
        return state.replace(params=initial.params_ema, params_ema=initial.params_ema)
    state, data_state, saved, _ = loading.restore(experiment, checkpoints, training=True)
    n = experiment.config.training.n_jitted_steps
    if int(state.step) % n:
        raise ValueError(
            f"training.n_jitted_steps={n} does not divide the {int(state.step)} steps done; "
            "continue with a number that does, such as 1"
        )
    iterator.set_state(data_state["next_batch"])
    for change in check_config(saved, experiment.config.to_dict()):
        log.info("changed since the checkpoint: %s", change)
    return state


def _describe(config: ml_collections.ConfigDict, workdir: str, state: losses.State) -> None:
    """Writes the config and the versions of packages to the run's directory, and logs a summary."""
    if parallel.is_primary():
        set_aside_if_damaged(os.path.join(workdir, "config.json"))
        write_json(os.path.join(workdir, "config.json"), config.to_dict())
        write_json(os.path.join(workdir, "versions.json"), versions())
    n_params = sum(x.size for x in jax.tree.leaves(state.params))
    line = "%s: %s parameters, step %d of %d, devices: %d"
    steps = int(state.step), config.training.n_iters
    log.info(line, workdir, f"{n_params:,}", *steps, parallel.device_count())


def _train_steps(
    run: Run,
    state: losses.State,
    iterator: BatchIterator,
    held_out: Any,
    stop: StopSignal,
) -> losses.State:
    """Takes the remaining steps, and calls the methods of `run` at their intervals.

    Returns:
      The last state, on the host: after a signal, the last one that is saved.
    """
    t = run.config.training
    n, step, meter = t.n_jitted_steps, int(state.step), run.meter
    steps = Steps(run.experiment, state)
    due = lambda every: step % every == 0  # noqa: E731
    metrics = previous = None
    trace = Trace(os.path.join(run.workdir, "profile"), t.profile_steps)
    with progress_bar(t.n_iters, step, "training") as bar, contextlib.closing(trace):
        while True:
            with meter.waiting():
                batches = [next(iterator) for _ in range(n)]
            batch = jax.tree.map(lambda *x: np.concatenate(x), *batches)
            trace.step()
            try:
                new_metrics = steps.train(batch)
            except Stopped:  # while the first step was compiled, so that nothing can be lost
                break
            # Waits for the previous step only, which keeps the device busy and the host close by.
            if metrics is not None:
                done = steps.on_host(metrics)
                run.check_skipped(step, done["skipped"], previous)
                bar.set_postfix(loss=f"{done['loss'][-1]:.4g}", refresh=False)
            else:
                jax.block_until_ready(new_metrics)
                bar.unpause()  # compile time must not affect the estimate of the remaining time
                meter.flops = steps.flops
                meter.restart(step + n)
            metrics, previous, step = new_metrics, batch, step + n
            bar.update(n)
            if due(t.log_freq):
                run.log_metrics(step, {k: float(v[-1]) for k, v in steps.on_host(metrics).items()})
            if due(t.eval_freq):
                with contextlib.suppress(Stopped):
                    loss = steps.evaluate(held_out[step // t.eval_freq - 1])
                    run.writer.scalars(step, {"eval_loss": loss})
            stopping = stop.received is not None
            if parallel.process_count() > 1:
                stopping = due(t.log_freq) and parallel.any_process(stopping)
            last = stopping or step >= t.n_iters
            if last or due(t.snapshot_freq_for_preemption) or due(t.snapshot_freq):
                state = steps.state()
                run.save(state, iterator.get_state())
            if last:
                break
            if t.snapshot_sampling and due(t.snapshot_freq):
                try:
                    run.draw(state)
                except Stopped:
                    break
                bar.unpause()
    return state


def evaluate(
    config: ml_collections.ConfigDict, workdir: str, eval_folder: str = "eval"
) -> dict[str, Any]:
    """Runs the tasks of `config.eval.tasks` on a checkpoint, or continues a stopped evaluation.

    If `config.eval.checkpoint` names exported weights, these are evaluated, and no run is needed.

    The report is written after every task. A task whose numbers are already in the report, with the
    same settings, is not repeated.

    Args:
      config: the experiment.
      workdir: directory of the run, local or remote, to which results are written.
      eval_folder: folder in `workdir` for the results; it has a folder for each checkpoint.

    Returns:
      The report, which is also written to `report.json` in the checkpoint's folder. It holds the
      numbers of each task under the task's name, and the settings they depend on under "settings".

    Raises:
      ValueError: for a bad config, or if there is no checkpoint that matches it.
      FloatingPointError: if samples are not finite.
    """
    with mirrored(workdir, exclusive=False, step=loading.named_step(config)) as folder:
        return _evaluate(config, folder, eval_folder)


def _evaluate(config: ml_collections.ConfigDict, workdir: str, eval_folder: str) -> dict[str, Any]:
    """See `evaluate`; the directory is local."""
    check_folder(workdir, eval_folder)
    config = loading.with_facts(config, workdir)
    experiment = _build(config)
    loading.find_weights(config, workdir)  # raises if there are none, before anything is written
    with logging_errors(workdir), StopSignal() as stop:
        with elapsing("reading the weights"):
            state, _ = loading.load_state(experiment, workdir)
        folder = os.path.join(workdir, eval_folder, _result_name(config, state))
        report = evaluators.read_report(folder)
        report |= {"step": int(state.step), "versions": versions()}
        for task in evaluators.in_order(config.eval.tasks):
            try:
                _evaluate_task(task, experiment, state, folder, report)
                stopped = parallel.any_process(stop.received is not None)
            except Stopped as e:
                log.info("%s", f"{task}: stopped {e}".rstrip())
                stopped = True
            if stopped:
                log.info("stopped; what is done is kept, and the same command continues")
                break
        else:
            log.info("report: %s", os.path.join(folder, evaluators.REPORT))
    return report


def _result_name(config: ml_collections.ConfigDict, state: losses.State) -> str:
    """Name of the folder with a checkpoint's results: step_2400, or pretrained_mnist_ve."""
    checkpoint = config.eval.checkpoint
    if not checkpoint or checkpoint.isdecimal():
        return f"step_{int(state.step)}"
    return "_".join(part for part in pathlib.Path(checkpoint).parts if part.strip("./"))


def _evaluate_task(
    task: str, experiment: Experiment, state: losses.State, folder: str, report: dict[str, Any]
) -> None:
    """Runs a task and writes its numbers to the report, unless the report already has them."""
    evaluator = EVALUATORS[task]
    settings = evaluator.settings(experiment, state)
    changes = evaluator.find_changes(report, settings, folder)
    # The primary process decides, because the others may not see its files yet.
    if not parallel.any_process(parallel.is_primary() and bool(changes)):
        log.info("%s: done before with the same settings", task)
    else:
        if task in report:
            log.info("%s: done again, because of %s", task, "; ".join(changes))
        report[task] = evaluator(experiment, state, folder)
        report.setdefault("settings", {})[task] = settings
        if parallel.keeps_files():
            write_json(os.path.join(folder, evaluators.REPORT), report)
    if parallel.keeps_files():
        shutil.rmtree(evaluators.rounds_folder(folder, task), ignore_errors=True)
