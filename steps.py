"""The compiled train and eval step of an experiment, and its state on the devices.

`config.parallel.strategy` chooses how state and batches lie there, see `utils.strategies`. States
and batches come from the host and return to it whole.
"""

from typing import Any

import jax

from scorax import losses
from scorax.experiment import Experiment
from scorax.utils.logging import clock
from scorax.utils.strategies import STRATEGIES, Replicated, Sharded
from scorax.utils.tables import lookup

Strategy = Replicated | Sharded


def get_strategy(experiment: Experiment) -> Strategy:
    """How the devices are used in training.

    Raises:
      ValueError: for an unknown strategy.
    """
    name = experiment.config.parallel.strategy
    return lookup(STRATEGIES, name, "strategy (parallel.strategy)")()


def compile_train(experiment: Experiment, strategy: Strategy, state: Any, batches: Any) -> Any:
    """Compiles `training.n_jitted_steps` training steps, for arrays or shapes as placed."""
    t, m = experiment.config.training, experiment.config.model
    step_fn = losses.get_step_fn(
        strategy.wrap(experiment.loss_fn(train=True)),
        experiment.optimizer,
        experiment.config.seed,
        m.ema_rate,
        m.ema_warmup,
        strategy.axis_name,
        t.accumulate,
    )
    step_fn = losses.repeat_step(step_fn, t.n_jitted_steps)
    return strategy.compile(step_fn, state, batches, donate=True)


def compile_eval(experiment: Experiment, strategy: Strategy, state: Any, batches: Any) -> Any:
    """Compiles the loss of one batch, for arrays or shapes as placed, with n_steps = 1."""
    loss_fn = strategy.wrap(experiment.loss_fn(train=False))
    eval_fn = losses.get_eval_step_fn(loss_fn, experiment.config.seed, strategy.axis_name)

    def eval_one(state: losses.State, batches: losses.Batch) -> jax.Array:
        return eval_fn(state, jax.tree.map(lambda x: x[0], batches))

    return strategy.compile(eval_one, state, batches)


def step_flops(experiment: Experiment, compiled: Any) -> float:
    """Operations of one training step on each device, as the compiler counts; 0 if it does not.

    The body of a loop is counted once, so parts of a batch are multiplied out here.
    """
    cost = compiled.cost_analysis() or {}
    return cost.get("flops", 0.0) * experiment.config.training.accumulate


class Steps:
    """Trains a state that lies on the devices.

    Each step is compiled when it is first taken.

    Attributes:
      flops: operations of one training step on each device; 0 before the first, or if not known.
    """

    def __init__(self, experiment: Experiment, state: losses.State) -> None:
        """Copies a state from the host to the devices."""
        self._experiment, self._strategy = experiment, get_strategy(experiment)
        self._state = self._strategy.place(state)
        self._train, self._eval, self.flops = None, None, 0.0

    def train(self, batches: losses.Batch) -> dict[str, jax.Array]:
        """Takes `training.n_jitted_steps` steps.

        Args:
          batches: this process's part of so many batches, (n_jitted_steps * B, *S).

        Returns:
          The metrics of each step on the devices, where they may not be ready yet; see `on_host`.

        Raises:
          Stopped: if a signal arrived while the step was compiled; it is then not taken.
        """
        placed = self._strategy.split(batches, self._experiment.config.training.n_jitted_steps)
        if self._train is None:
            self._train = clock(
                "compiling the training step, or reading it from the cache",
                lambda: compile_train(self._experiment, self._strategy, self._state, placed),
            )
            self.flops = step_flops(self._experiment, self._train)
        self._state, metrics = self._train(self._state, placed)
        return metrics

    def evaluate(self, batch: losses.Batch) -> float:
        """The loss of the averaged parameters for this process's part of one batch.

        Raises:
          Stopped: if a signal arrived while it was compiled.
        """
        placed = self._strategy.split(batch)
        if self._eval is None:
            self._eval = clock(
                "compiling the loss of held-out data, or reading it from the cache",
                lambda: compile_eval(self._experiment, self._strategy, self._state, placed),
            )
        return float(self.on_host(self._eval(self._state, placed)))

    def on_host(self, metrics: Any) -> Any:
        """Waits for results of a step, and returns them as NumPy arrays."""
        return self._strategy.fetch(metrics)

    def state(self) -> losses.State:
        """Waits for the last step, and returns the whole state on the host."""
        return self._strategy.fetch(self._state)
