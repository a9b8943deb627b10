"""Saving a run and finding it again, with orbax.

`<directory>/<step>` holds four items: `state`, every array of the training state under its path
("params/Dense_0/kernel"), so that nothing depends on classes or on how containers are pickled;
`data`, the position in the data as JSON; `config`, the config as JSON; `meta`, the format version
and a checksum of everything else. Orbax notices a truncated file but not a flipped bit inside an
array (measured: a changed weight restores without a word), hence the checksums.

Arrays are those of one replica, on the host. Every process of a pod calls every function of this
file with the same arguments; the primary process writes.
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

# Keys of a checkpoint's config that may change within a run although their section may not.
_FREE_MODEL_KEYS = ("ema_rate", "ema_warmup", "dropout", "label_dropout", "dtype", "remat")
_FIXED_KEYS = (
    "data.dataset",
    "data.image_size",
    "data.num_channels",
    "data.centered",
    "training.sde",
    "training.continuous",
)
_FIXED_KEYS_OF_TRAINING = ("training.objective", "optim.optimizer")

_log = logging.getLogger(__name__)


class DamagedError(ValueError):
    """A checkpoint that is there but cannot be read back as it was written."""


class Checkpoints:
    """The checkpoints of one run: the newest two, and every multiple of `keep_period` steps.

    Two, so that there is one to go back to if the newest turns out to be damaged.
    """

    def __init__(self, directory: str | os.PathLike, keep_period: int) -> None:
        """Opens `directory`, and creates it if need be.

        Args:
          directory: parent of the checkpoints.
          keep_period: steps; checkpoints at its multiples are never deleted.

        Raises:
          ValueError: if keep_period is not positive.
        """
        if keep_period < 1:
            raise ValueError(
                f"checkpoints are kept every {keep_period} steps; set a positive number"
            )
        path = os.fspath(directory)
        self.directory = path if "://" in path else os.path.abspath(path)
        policies = ocp.checkpoint_managers
        keep = policies.AnyPreservationPolicy(
            [policies.LatestN(2), policies.EveryNSteps(keep_period)]
        )
        options = ocp.CheckpointManagerOptions(preservation_policy=keep)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(
        self, step: int, state: Tree, data_state: dict, config: ml_collections.ConfigDict
    ) -> None:
        """Starts to save; the arrays may change or be donated as soon as this returns.

        A step that this directory already has is left as it is: all randomness is a function of
        seed and step, and `restore` has moved damaged steps out of the way.

        Args:
          step: training steps done.
          state: pytree of arrays on the host or on one device, none of them empty.
          data_state: position in the data, of JSON types.
          config: the config of the run.

        Raises:
          ValueError: if a later step is there already; it would be the one to resume from.
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
        # Without force orbax may decide for itself not to save, and says nothing.
        self._manager.save(step, args=args, force=True)

    def restore(
        self,
        template: Tree,
        step: int | None = None,
        check: Callable[[dict], Any] | None = None,
    ) -> tuple[Tree, dict, dict, int]:
        """Reads the newest readable checkpoint, or that of `step`.

        A damaged one is reported and passed over, and renamed to `<step>.damaged` once an older one
        has been read; nothing is deleted. Without any that is readable all stay where they are, so
        that the next start finds them again and not an empty directory. A `step` asked for by
        number is not replaced by another.

        Args:
          template: pytree of arrays or ShapeDtypeStructs: the structure, shapes and dtypes to
            return. A part of the state that is left out (`opt_state=()`) is not compared.
          step: training steps done; None for the newest.
          check: called with the saved config before the arrays are compared with the template;
            what it raises is raised.

        Returns:
          (state, data_state, config, step): NumPy arrays, bit for bit those that were saved, in
          the template's structure; the rest as JSON gives it back (tuples come back as lists).

        Raises:
          ValueError: if there is no such checkpoint, none that is readable, or the arrays are not
            those of the template.
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
        """The newest step saved, or being saved; None without any."""
        return max(self.all_steps(), default=None)

    def all_steps(self) -> list[int]:
        """The steps saved, or being saved, in ascending order."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Returns when what was saved is on the disk; raises what went wrong meanwhile."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the threads that write."""
        self._manager.close()

    def _restore_step(self, template: Tree, step: int, check: Callable | None) -> tuple:
        where = os.path.join(self.directory, str(step))
        items = self._read(step, where)
        if check is not None:
            check(items["config"])
        state = fill(template, items["state"], where)
        return state, items["data"], items["config"], step

    def _read(self, step: int, where: str) -> dict:
        """The items of a checkpoint, with all their checksums right."""
        version, items, error = FORMAT, {}, None
        try:
            meta = self._manager.restore(step, args=_restore_args("meta"))["meta"]
            version = meta["format"]
            if version == FORMAT:
                items = self._manager.restore(step, args=_restore_args("state", "data", "config"))
                _verify(items, meta["crc32"])
        except (MemoryError, PermissionError):
            raise  # the checkpoint may well be whole
        except Exception as e:  # whatever orbax stumbles over in a damaged file
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
        """Renames damaged checkpoints to names that orbax does not take for steps."""
        if steps and parallel.is_primary():
            for step in steps:
                source = self._manager.directory / str(step)
                target = _unused(source.with_name(f"{step}.damaged"))
                source.rename(target)
                _log.warning("moved the damaged checkpoint %s to %s", source, target)
        if steps:
            parallel.any_process(False)  # nobody looks before the primary process is done
            self._manager.reload()


def check_config(saved: dict, current: dict, training: bool = True) -> list[str]:
    """Compares a checkpoint's config with the present one.

    What must agree: `model` (except averaging, dropout, dtype and remat), the data set and its
    shape and range, the SDE; to go on training also the objective and the optimizer. A key that
    only one side has never raises, since keys come and go with versions of the code, and a
    network that is not the saved one is found by its arrays; it is listed as a difference.

    Args:
      saved: config of the checkpoint, as `restore` returns it.
      current: present config, `config.to_dict()`.
      training: whether training goes on, rather than evaluation.

    Returns:
      The other differences, as "training.n_iters: 10 -> 20".

    Raises:
      ValueError: if the checkpoint is that of another config, naming the fields.
    """
    old, new = _flatten(saved), _flatten(current)
    keys = [k for k in old | new if k not in old or k not in new or old[k] != new[k]]
    wrong = [k for k in keys if k in old and k in new and _must_agree(k, training)]
    if wrong:
        fields = "; ".join(f"{k} is {new[k]!r}, the checkpoint has {old[k]!r}" for k in wrong)
        raise ValueError(
            f"the checkpoint is that of another config: {fields}; "
            "use another --workdir, or the original values"
        )
    return [f"{k}: {old.get(k, '(not there)')} -> {new.get(k, '(not there)')}" for k in keys]


def _must_agree(key: str, training: bool) -> bool:
    section, _, name = key.partition(".")
    if section == "model":
        return name not in _FREE_MODEL_KEYS
    return key in _FIXED_KEYS or (training and key in _FIXED_KEYS_OF_TRAINING)


def _flatten(config: dict, prefix: str = "") -> dict[str, Any]:
    """{"section": {"field": value}} -> {"section.field": value}, values as JSON has them."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.loads(json.dumps(value))
    return flat


def _unused(path: Any) -> Any:
    """The path itself, or with the first number behind it that is not taken."""
    tries = [path, *(path.with_name(f"{path.name}-{n}") for n in range(2, 1000))]
    return next(p for p in tries if not p.exists())


def _restore_args(*names: str) -> ocp.args.Composite:
    json_args = {name: ocp.args.JsonRestore() for name in names if name != "state"}
    state_args = {"state": ocp.args.StandardRestore()} if "state" in names else {}
    return ocp.args.Composite(**json_args, **state_args)


def _named_leaves(tree: Tree) -> dict[str, Any]:
    """Leaves by their path, in the order of the tree."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in paths}


def _checksums(leaves: dict[str, np.ndarray], items: dict[str, dict]) -> dict[str, int]:
    """CRC-32 of every array and of every JSON item."""
    arrays = {f"state/{name}": zlib.crc32(x.tobytes()) for name, x in leaves.items()}
    texts = {name: json.dumps(item, sort_keys=True) for name, item in items.items()}
    return arrays | {name: zlib.crc32(text.encode()) for name, text in texts.items()}


def _verify(items: dict, expected: dict[str, int]) -> None:
    found = _checksums(items["state"], {name: items[name] for name in ("data", "config")})
    wrong = [k for k in expected | found if expected.get(k) != found.get(k)]
    if wrong:
        raise ValueError(f"the checksum of {_some(wrong)} is wrong")


def fill(template: Tree, leaves: dict[str, np.ndarray], where: str) -> Tree:
    """The template with its leaves replaced by those of the same path ("Dense_0/kernel").

    Leaves beyond those of the parts that the template has are left out.

    Raises:
      ValueError: if one is missing, or has another shape or type.
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
    """The first few of a list, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
