"""Defines a task of `--mode eval`, and decides whether the numbers in a report are still valid."""

import dataclasses
import json
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import ml_collections
import numpy as np

from scorax import losses
from scorax.configs import base
from scorax.datasets import get_source
from scorax.evaluators.context import Numbers, TaskContext
from scorax.experiment import SCORE, Experiment
from scorax.utils.options import keys_of, value_of

# Prefixes of the config keys that every task depends on. Images are identified by their content,
# and not by the place where they are.
_ALWAYS = (
    *("seed", "data.image_size", "data.num_channels", "data.centered"),
    *("data.kind", "data.length", "data.embedding", "data.delay", "data.n_fft", "data.hop"),
    *("data.mean", "data.scale"),
    *("model.", "training.sde", "training.continuous"),
)
# Keys that may name a file whose content counts.
_FILES = ("eval.mask", "eval.stats", "eval.inception_path", "eval.features_path")


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
      kinds: the kinds of data that the task works with.
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
    kinds: tuple[str, ...] = ("images",)
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
        named = ("data.classes",) if experiment.config.model.num_classes else ()
        keys = _ALWAYS + named + self.keys
        chosen = {k: v for k, v in config.items() if k.startswith(keys)}
        checkpoint = {"step": int(state.step), "checksum": crc32_of(state)}
        inputs = self._get_contents(experiment.config) | self.get_inputs(experiment)
        return json.loads(json.dumps(checkpoint | chosen | inputs))

    def _get_contents(self, config: ml_collections.ConfigDict) -> Numbers:
        """What identifies the images and files that the task reads."""
        found: Numbers = {}
        own = [f for f in ("images", "measurements") if f"eval.{f}" in self.keys and config.eval[f]]
        for field in own:
            found[f"content of eval.{field}"] = crc32_of_files(config.eval[field])
        if "eval.split" in self.keys and not own:
            found["content of eval.split"] = get_source(config, config.eval.split).content()
        for key in _FILES:
            path = value_of(config, key)
            if key in self.keys and os.path.exists(path):
                found[f"content of {key}"] = crc32_of_files(path)
        return found

    def find_changes(self, report: Numbers, settings: Numbers, folder: str) -> list[str]:
        """Finds the reasons why a task has to run, even if its numbers are in the report.

        Returns:
          What is missing or has changed, such as "sampling.snr: 0.1 -> 0.2"; empty if the numbers
          in the report are still valid.
        """
        if self.name not in report:
            return ["no numbers of it"]
        old, new = report.get("settings", {}).get(self.name), settings
        if self.made_with is not None:
            # An evaluation killed before it could write its report leaves newer files.
            old = self.made_with(folder)
        if old is None:
            return ["no settings of it"]
        if self.at_least and old.get(self.at_least, 0) >= new[self.at_least]:
            old = old | {self.at_least: new[self.at_least]}
        return differences(old, new)


def differences(old: Numbers, new: Numbers) -> list[str]:
    """The settings in `new` that were not the same, such as "sampling.snr: 0.1 -> 0.2".

    Settings that no longer count do not matter, and those that are newer than the results had their
    default.
    """
    known = flax.traverse_util.flatten_dict(base.get_config().to_dict(), sep=".")
    old = json.loads(json.dumps({k: known[k] for k in new if k in known})) | old
    return [
        f"{k}: {old.get(k, '(not there)')} -> {value}"
        for k, value in new.items()
        if k not in old or old[k] != value
    ]


def crc32_of_files(path: str) -> int:
    """CRC-32 of a file, or of the names and contents of all files in a folder."""
    paths = [path]
    if os.path.isdir(path):
        found = (os.path.join(folder, f) for folder, _, fs in os.walk(path) for f in fs)
        paths = sorted(found)
    crc = 0
    for each in paths:
        crc = zlib.crc32(os.path.relpath(each, path).encode(errors="surrogateescape"), crc)
        with open(each, "rb") as file:
            while part := file.read(2**24):
                crc = zlib.crc32(part, crc)
    return crc


def crc32_of(state: losses.State) -> int:
    """CRC-32 of the averaged parameters, because other weights may have the same step."""
    crc = 0
    for x in jax.tree.leaves((state.params_ema, state.model_state)):
        crc = zlib.crc32(np.ascontiguousarray(x), crc)
    return crc
