"""Saves and restores the state of a run, with orbax.

`<directory>/<step>` holds four items. `state` has every array of the training state under its path
("params/Dense_0/kernel"), so that a checkpoint does not depend on classes or on pickling. `data` is
the position in the data and `config` is the config, both as JSON. `meta` has the version of the
format and CRC-32 checksums of all other items. The checksums are needed because orbax detects a
truncated file, but not a flipped bit inside an array: in a test, a changed weight was restored
without any error.

Arrays come from one replica and are on the host. Every process of a pod must call every function of
this module with the same arguments; the primary process writes.
"""

import json
import logging
import os
import zlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from scorax.utils import parallel

Tree = Any
FORMAT = 1  # version of the layout described above

# Keys of the section `model` that may change within a run; its other keys may not.
_FREE_MODEL_KEYS = ("ema_rate", "ema_warmup", "dropout", "label_dropout", "dtype", "remat")
_FIXED_KEYS = (
    "data.kind",
    "data.image_size",
    "data.length",
    "data.embedding",
    "data.delay",
    "data.n_fft",
    "data.hop",
    "data.num_channels",
    "data.centered",
    "training.sde",
    "training.continuous",
)
_FIXED_KEYS_OF_TRAINING = (
    "data.dataset",
    "data.mean",
    "data.scale",
    "training.objective",
    "optim.optimizer",
)

_log = logging.getLogger(__name__)


class DamagedError(ValueError):
    """A checkpoint exists but cannot be read back as it was written."""


class Checkpoints:
    """The checkpoints of one run: the newest two, and every multiple of `keep_period` steps.

    Two are kept so that the run can go back to the older one if the newest is damaged.
    """

    def __init__(
        self, directory: str | os.PathLike, keep_period: int, cleanup: bool = False
    ) -> None:
        """Opens `directory`, and creates it if it does not exist.

        Args:
          directory: the folder of all checkpoints.
          keep_period: number of steps; checkpoints at its multiples are never deleted.
          cleanup: remove what an interrupted save has left. No other process may be saving.

        Raises:
          ValueError: if `keep_period` is not positive.
        """
        if keep_period < 1:
            raise ValueError(
                f"checkpoints are kept every {keep_period} steps; set a positive number"
            )
        self.directory = os.path.abspath(directory)
        policies = ocp.checkpoint_managers
        keep = policies.AnyPreservationPolicy(
            [policies.LatestN(2), policies.EveryNSteps(keep_period)]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep, cleanup_tmp_directories=cleanup
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(
        self, step: int, state: Tree, data_state: dict, config: ml_collections.ConfigDict
    ) -> None:
        """Starts saving in the background; once it returns, the arrays may change or be donated.

        If the directory already has this step, nothing is written: all randomness is a function of
        seed and step, so the saved state is the same, and `restore` has renamed damaged steps.

        Args:
          step: number of training steps done.
          state: pytree of arrays on the host or on one device, none of them empty.
          data_state: position in the data, of JSON types.
          config: the config of the run.

        Raises:
          ValueError: if the directory already has a later step, from which a run would resume.
        """
        steps = self.all_steps()
        if step in steps:
            _log.info("step %d is already saved in %s", step, self.directory)
            return
        if steps and step < steps[-1]:
            raise ValueError(
                f"cannot save step {step}: {self.directory} already has step {steps[-1]}; "
                "use another --workdir, or move the later checkpoints away"
            )
        leaves = {name: np.asarray(x) for name, x in _named_leaves(state).items()}
        items = {"data": data_state, "config": config.to_dict()}
        meta = {"format": FORMAT, "crc32": _checksums(leaves, items)}
        items = {name: ocp.args.JsonSave(x) for name, x in (items | {"meta": meta}).items()}
        args = ocp.args.Composite(state=ocp.args.StandardSave(leaves), **items)
        # Without `force`, orbax may decide not to save, and gives no notice.
        self._manager.save(step, args=args, force=True)

    def restore(
        self,
        template: Tree,
        step: int | None = None,
        check: Callable[[dict], Any] | None = None,
    ) -> tuple[Tree, dict, dict, int]:
        """Reads the newest readable checkpoint, or the checkpoint of `step`.

        Without `step`, damaged checkpoints are reported and skipped. Once an older checkpoint has
        been read, they are renamed to `<step>.damaged`; nothing is deleted. If no checkpoint is
        readable, none is renamed, so that the next start does not find an empty directory. With
        `step`, no other checkpoint is tried.

        Args:
          template: pytree of arrays or ShapeDtypeStructs that gives the structure, shapes and
            dtypes to return. Parts of the state that it leaves out (`opt_state=()`) are not
            compared.
          step: number of training steps done; None for the newest.
          check: function that is called with the saved config before the arrays are compared with
            the template; its exceptions are passed on.

        Returns:
          (state, data_state, config, step). The state has the structure of the template, with NumPy
          arrays that are bit for bit the saved ones. `data_state` and `config` are as JSON returns
          them, with lists instead of tuples.

        Raises:
          ValueError: if there is no such or no readable checkpoint, or its arrays do not match the
            template.
        """
        self.wait()
        steps = self.all_steps()
        if step is not None and step not in steps:
            raise ValueError(
                f"no checkpoint of step {step} in {self.directory}; "
                f"choose from: {', '.join(map(str, steps)) or 'none there'}"
            )
        if step is not None:
            return self._restore_step(template, step, check)
        damaged = []
        for newest in reversed(steps):
            try:
                restored = self._restore_step(template, newest, check)
            except DamagedError as error:
                _log.warning("%s; going back to an older step", error)
                damaged.append(newest)
                continue
            self._set_aside(damaged)
            return restored
        found = f"{len(steps)} found, all damaged" if steps else "none there"
        raise ValueError(
            f"no readable checkpoint in {self.directory} ({found}); "
            "put back a copy, or train from the start in another --workdir"
        )

    def latest_step(self) -> int | None:
        """Returns the newest step that is saved or being saved; None if there is none."""
        return max(self.all_steps(), default=None)

    def all_steps(self) -> list[int]:
        """Returns the steps that are saved or being saved, in ascending order."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Waits until all checkpoints are on disk; raises errors of the background writes."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does, and ends the threads that write."""
        self._manager.close()

    def _restore_step(self, template: Tree, step: int, check: Callable | None) -> tuple:
        where = os.path.join(self.directory, str(step))
        items = self._read(step, where)
        if check is not None:
            check(items["config"])
        state = fill(template, items["state"], where)
        return state, items["data"], items["config"], step

    def _read(self, step: int, where: str) -> dict:
        """Returns the items of a checkpoint after comparing all checksums."""
        version, items, error = FORMAT, {}, None
        try:
            meta = self._manager.restore(step, args=_restore_args("meta"))["meta"]
            version = meta["format"]
            if version == FORMAT:
                items = self._manager.restore(step, args=_restore_args("state", "data", "config"))
                _verify(items, meta["crc32"])
        except (MemoryError, PermissionError):
            raise  # the checkpoint may be intact
        except Exception as e:  # orbax raises many types for damaged files
            error = e
        if parallel.any_process(error is not None):
            raise DamagedError(
                f"checkpoint {where} is damaged ({error or 'as another process found'}); "
                "put back a copy, or choose another step"
            ) from error
        if version != FORMAT:
            raise ValueError(
                f"checkpoint {where} has format {version} and this code reads format {FORMAT}; "
                "use the version of the code that wrote it"
            )
        return items

    def _set_aside(self, steps: list[int]) -> None:
        """Renames damaged checkpoints, so that orbax no longer takes them for steps."""
        if steps and parallel.keeps_files():
            for step in steps:
                source = self._manager.directory / str(step)
                target = _unused(source.with_name(f"{step}.damaged"))
                source.rename(target)
                _log.warning("moved the damaged checkpoint %s to %s", source, target)
        if steps:
            parallel.any_process(False)  # all processes wait until the primary one is done
            self._manager.reload()


def check_config(saved: dict, current: dict, training: bool = True) -> list[str]:
    """Compares the config of a checkpoint with the current config.

    These must agree: the section `model` (except averaging, dropout, dtype and remat); shape and
    range of the data; the SDE; and, to continue training, the data set, the names of its classes if
    the network is told them, the objective and the optimizer. A key that only one of the configs
    has is listed as a difference but is not an error, because keys come and go with versions of the
    code, and a different network is detected by its arrays.

    Args:
      saved: config of the checkpoint, as `restore` returns it.
      current: current config, `config.to_dict()`.
      training: True to continue training, False to evaluate.

    Returns:
      The allowed differences, as "training.n_iters: 10 -> 20".

    Raises:
      ValueError: if keys that must agree differ; the message names them.
    """
    old, new = _flatten(saved), _flatten(current)
    keys = [k for k in old | new if k not in old or k not in new or old[k] != new[k]]
    wrong = [k for k in keys if k in old and k in new and _must_agree(k, training)]
    clips = {c["optim.grad_clip"] >= 0 for c in (old, new) if "optim.grad_clip" in c}
    if training and len(clips) > 1:  # the state of the optimizer has another structure
        wrong.append("optim.grad_clip")
    classes = [c.get("data.classes") for c in (old, new)]
    if training and new.get("model.num_classes") and all(classes) and classes[0] != classes[1]:
        wrong.append("data.classes")
    if wrong:
        fields = "; ".join(f"{k} is {new[k]!r}, the checkpoint has {old[k]!r}" for k in wrong)
        raise ValueError(
            f"the checkpoint belongs to another config: {fields}; "
            "use another --workdir, or the original values"
            + ("; --config.training.init_from starts a new run from weights" if training else "")
        )
    return [f"{k}: {old.get(k, '(not there)')} -> {new.get(k, '(not there)')}" for k in keys]


def _must_agree(key: str, training: bool) -> bool:
    section, _, name = key.partition(".")
    if section == "model":
        return name not in _FREE_MODEL_KEYS
    return key in _FIXED_KEYS or (training and key in _FIXED_KEYS_OF_TRAINING)


def _flatten(config: dict, prefix: str = "") -> dict[str, Any]:
    """{"section": {"field": value}} -> {"section.field": value}, each as JSON returns it."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.loads(json.dumps(value))
    return flat


def _unused(path: Any) -> Any:
    """Returns the path or, if it exists, the path with the first number that makes it unused."""
    tries = [path, *(path.with_name(f"{path.name}-{n}") for n in range(2, 1000))]
    return next(p for p in tries if not p.exists())


def _restore_args(*names: str) -> ocp.args.Composite:
    json_args = {name: ocp.args.JsonRestore() for name in names if name != "state"}
    state_args = {"state": ocp.args.StandardRestore()} if "state" in names else {}
    return ocp.args.Composite(**json_args, **state_args)


def _named_leaves(tree: Tree) -> dict[str, Any]:
    """Returns the leaves under their paths, in the order of the tree."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in paths}


def _checksums(leaves: dict[str, np.ndarray], items: dict[str, dict]) -> dict[str, int]:
    """Returns the CRC-32 of every array and of every JSON item."""
    arrays = {f"state/{name}": zlib.crc32(x.tobytes()) for name, x in leaves.items()}
    texts = {name: json.dumps(item, sort_keys=True) for name, item in items.items()}
    return arrays | {name: zlib.crc32(text.encode()) for name, text in texts.items()}


def _verify(items: dict, expected: dict[str, int]) -> None:
    found = _checksums(items["state"], {name: items[name] for name in ("data", "config")})
    wrong = [k for k in expected | found if expected.get(k) != found.get(k)]
    if wrong:
        raise ValueError(f"the checksum of {_some(wrong)} is wrong")


def fill(template: Tree, leaves: dict[str, np.ndarray], where: str) -> Tree:
    """Returns the template with each leaf replaced by the one of the same path ("Dense_0/kernel").

    Leaves that belong to parts which the template does not have are ignored.

    Args:
      template: pytree of arrays or ShapeDtypeStructs.
      leaves: arrays under their paths.
      where: the checkpoint, for messages.

    Raises:
      ValueError: if a leaf is missing, unknown, or of another shape or type.
    """
    wanted = _named_leaves(template)
    parts = {name.split("/")[0] for name in wanted}
    found = {name: x for name, x in leaves.items() if name.split("/")[0] in parts}
    old, new = ({k: f"{x.dtype}{list(x.shape)}" for k, x in d.items()} for d in (found, wanted))
    wrong = [k for k in old | new if old.get(k) != new.get(k)]
    if wrong:
        lines = [f"{k} is {new.get(k, 'absent')}, saved {old.get(k, 'nothing')}" for k in wrong]
        raise ValueError(
            f"checkpoint {where} does not fit this config's network or optimizer: "
            f"{_some(lines)}; use another --workdir, or the original values"
        )
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in wanted])


def _some(names: list[str]) -> str:
    """Returns the first three of a list, and how many more there are, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
