"""Defines a task of `--mode eval`, and decides whether the numbers in a report are still valid."""

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from scorax import losses
from scorax.evaluators.context import Numbers, TaskContext
from scorax.experiment import SCORE, Experiment
from scorax.utils.options import keys_of

# Prefixes of the config keys that every task depends on, and keys that never affect a result.
_ALWAYS = ("seed", "data.", "model.", "training.sde", "training.continuous")
_NEVER = ("data.num_threads",)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A task: `(experiment, state, folder) -> numbers for the report`.

    Attributes:
      name: name of the task.
      run: computes the numbers.
      depends_on: what the result depends on besides `_ALWAYS`: prefixes of config keys, and tables
        or rows whose options are read.
      check: builds what the task needs, to find out whether something is missing.
      after: tasks whose files this task reads.
      made_with: reads, from a folder, the settings with which the task's files were made, if the
        files record them. None: the settings in the report are used.
      at_least: a key whose value may be smaller than before without changing the result.
      networks: the kinds of network that the task works with, see `Experiment.network`.
      get_inputs: what the result depends on besides config and checkpoint, of JSON types.
    """

    name: str
    run: Callable[[TaskContext], Numbers]
    depends_on: tuple[str | Callable | Mapping[str, Callable], ...]
    check: Callable[[Experiment], Any] = lambda experiment: None
    after: tuple[str, ...] = ()
    made_with: Callable[[str], Numbers] | None = None
    at_least: str | None = None
    networks: tuple[str, ...] = (SCORE,)
    get_inputs: Callable[[Experiment], Numbers] = lambda experiment: {}

    def __call__(self, experiment: Experiment, state: losses.State, folder: str) -> Numbers:
        settings = self.settings(experiment, state)
        return self.run(TaskContext(self.name, experiment, state, folder, settings))

    @property
    def keys(self) -> tuple[str, ...]:
        """Prefixes of all config keys that the result depends on, besides `_ALWAYS`."""
        parts = ((part,) if isinstance(part, str) else keys_of(part) for part in self.depends_on)
        return tuple(key for keys in parts for key in keys)

    def settings(self, experiment: Experiment, state: losses.State) -> Numbers:
        """Everything that the numbers depend on, by key, in the form that JSON restores."""
        config = flax.traverse_util.flatten_dict(experiment.config.to_dict(), sep=".")
        keys = _ALWAYS + self.keys
        chosen = {k: v for k, v in config.items() if k.startswith(keys) and k not in _NEVER}
        checkpoint = {"step": int(state.step), "checksum": crc32_of(state)}
        return json.loads(json.dumps(checkpoint | chosen | self.get_inputs(experiment)))

    def find_changes(self, report: Numbers, settings: Numbers, folder: str) -> list[str]:
        """Finds the reasons why a task has to run, even if its numbers are in the report.

        Returns:
          What is missing or has changed, such as "sampling.snr: 0.1 -> 0.2"; empty if the numbers
          in the report are still valid.
        """
        if self.name not in report:
            return ["no numbers of it"]
        old, new = report.get("settings", {}).get(self.name, {}), settings
        if self.made_with is not None:
            # An evaluation killed before it could write its report leaves newer files.
            old = self.made_with(folder)
        if self.at_least and old.get(self.at_least, 0) >= new[self.at_least]:
            old = old | {self.at_least: new[self.at_least]}
        keys = [k for k in old | new if k not in old or k not in new or old[k] != new[k]]
        return [f"{k}: {old.get(k, '(not there)')} -> {new.get(k, '(not there)')}" for k in keys]


def crc32_of(state: losses.State) -> int:
    """CRC-32 of the averaged parameters, because other weights may have the same step."""
    crc = 0
    for x in jax.tree.leaves((state.params_ema, state.model_state)):
        crc = zlib.crc32(np.ascontiguousarray(x), crc)
    return crc
