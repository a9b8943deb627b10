"""Files of weights: detects formats by content; reads and writes safetensors, msgpack, folders.

This module handles arrays and their names, and does not interpret them. Files appear under their
final name only when they are complete.
"""

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

import flax.serialization
import numpy as np
import safetensors
import safetensors.numpy

from scorax.weights import torch_files

Arrays = dict[str, np.ndarray]
# format -> its name in messages
FORMATS = {
    "torch": "a .pth of score_sde_pytorch",
    "flax": "a checkpoint_N of score_sde (msgpack)",
    "diffusers": "a directory of diffusers",
    "safetensors": "a .safetensors file",
    "weights": "a directory of exported weights",
}
_MAX_HEADER = 100_000_000  # largest number of bytes of the JSON header of a safetensors file
_UNET = "diffusion_pytorch_model"  # file name of the arrays of a diffusers model, without suffix
_EXPORTED = "model.safetensors"  # file name of the arrays of exported weights


def detect(path: str | os.PathLike) -> str:
    """Returns which of `FORMATS` a file or directory has, according to its content.

    Raises:
      ValueError: if the format is unknown, or there is no such file.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        if is_exported(path):
            return "weights"
        if os.path.exists(os.path.join(_model_folder(path), "config.json")):
            return "diffusers"
        raise ValueError(
            f"{path} has no config.json, so it is no directory of diffusers or exported weights"
        )
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as e:
        raise ValueError(f"cannot read {path}: {e.strerror}") from e
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER:
        return "safetensors"
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        return "torch"
    if head[:1] in _MSGPACK_MAPS:
        return "flax"
    hints = {b"<": " (it is a web page)", b"v": " (it may be a Git LFS pointer)"}
    raise ValueError(
        f"{path} has none of the formats that can be read{hints.get(head[:1], '')}; "
        f"give {', '.join(FORMATS.values())}"
    )


def read_msgpack(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the nested dict in a file that `flax.serialization.to_bytes` made.

    Raises:
      ValueError: if the file is damaged.
    """
    try:
        with open(path, "rb") as file:
            tree = flax.serialization.msgpack_restore(file.read())
    except (ValueError, TypeError, LookupError) as e:
        raise ValueError(f"{os.fspath(path)} is damaged or incomplete ({e})") from e
    return tree


def read_safetensors(path: str | os.PathLike) -> tuple[Arrays, dict[str, str]]:
    """Returns the arrays and metadata of a safetensors file.

    Raises:
      ValueError: if the file is damaged.
    """
    try:
        with safetensors.safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as e:
        raise ValueError(f"cannot read {os.fspath(path)}: {e}; get the file again") from e


def write_safetensors(
    path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file; its metadata declare PyTorch's layouts, unless given otherwise."""
    path = os.fspath(path)
    partial = f"{path}.partial"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    try:
        safetensors.numpy.save_file(dict(arrays), partial, {"format": "pt", **metadata})
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def read_diffusers(path: str | os.PathLike) -> tuple[dict, Arrays, dict[str, str]]:
    """Returns config, arrays and metadata of a diffusers model, or of the model in a pipeline.

    Arrays are read from the safetensors file or, if there is none, from the older .bin file.

    Raises:
      ValueError: if a file is missing or damaged.
    """
    folder = _model_folder(os.fspath(path))
    config = _read_config(folder)
    new, old = (os.path.join(folder, f"{_UNET}.{suffix}") for suffix in ("safetensors", "bin"))
    if os.path.exists(new):
        return config, *read_safetensors(new)
    if os.path.exists(old):
        return config, torch_files.load(old), {}
    raise ValueError(f"{folder} has neither {os.path.basename(new)} nor {os.path.basename(old)}")


def write_diffusers(
    path: str | os.PathLike,
    files: Mapping[str, dict],
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes a directory in the format of diffusers.

    Args:
      path: the directory, which must not exist.
      files: names of JSON files to their contents.
      arrays, metadata: see `write_safetensors`.
    """
    _write_folder(path, files, f"{_UNET}.safetensors", arrays, metadata)


def is_exported(path: str | os.PathLike) -> bool:
    """Returns whether a directory holds exported weights."""
    return os.path.isfile(os.path.join(path, _EXPORTED))


def read_exported(path: str | os.PathLike) -> tuple[dict, Arrays, dict[str, str]]:
    """Returns config, arrays and metadata of exported weights.

    Raises:
      ValueError: if a file is missing or damaged.
    """
    folder = os.fspath(path)
    return _read_config(folder), *read_safetensors(os.path.join(folder, _EXPORTED))


def write_exported(
    path: str | os.PathLike,
    config: dict,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes a directory of exported weights, `config.json` and `model.safetensors`.

    Args:
      path: the directory, which must not exist.
      config: the config that the network was trained with.
      arrays, metadata: see `write_safetensors`.
    """
    _write_folder(path, {"config.json": config}, _EXPORTED, arrays, metadata)


def _read_config(folder: str) -> dict:
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (ValueError, OSError) as e:
        raise ValueError(f"cannot read {path}: {e}") from e


def _write_folder(
    path: str | os.PathLike,
    files: Mapping[str, dict],
    name: str,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes JSON files and the safetensors file `name` to a new directory, atomically."""
    path = os.path.abspath(path)
    partial = f"{path}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    try:
        for file_name, content in files.items():
            with open(os.path.join(partial, file_name), "w", encoding="utf-8") as file:
                file.write(json.dumps(content, indent=2) + "\n")
        write_safetensors(os.path.join(partial, name), arrays, metadata)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _model_folder(path: str) -> str:
    """Returns the folder of the model, which in a pipeline may be the subfolder `unet`."""
    below = os.path.join(path, "unet")
    return below if os.path.isdir(below) else path


_MSGPACK_MAPS = {bytes([b]) for b in (*range(0x81, 0x90), 0xDE, 0xDF)}
