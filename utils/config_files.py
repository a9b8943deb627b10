"""Finds and reads config files by path (`configs/ve/mnist.py`) or by name (`ve/mnist:smoke`)."""

import difflib
import os
import runpy
from pathlib import Path

import ml_collections

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def find_config(name: str) -> str:
    """Returns the path of a config file.

    Args:
      name: an existing path, or the name of one of this package's configs, relative to `configs/`,
        such as "ve/mnist". A suffix ":VARIANT" is kept.

    Raises:
      ValueError: if there is no such file; the message names configs with similar names.
    """
    path, colon, variant = name.partition(":")
    if os.path.isfile(path):
        return name
    known = {
        p.relative_to(CONFIGS).with_suffix("").as_posix(): p for p in CONFIGS.glob("*/**/*.py")
    }
    wanted = path.removeprefix("configs/").removesuffix(".py")
    if wanted in known:
        return f"{known[wanted]}{colon}{variant}"
    near = difflib.get_close_matches(wanted, known, 3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"{CONFIGS} has those of this package"
    raise ValueError(f"No such file or directory: {path!r}, and no config of this name; {hint}")


def read_config(name: str) -> ml_collections.ConfigDict:
    """Returns the config of a file that `find_config` finds.

    Raises:
      ValueError: if there is no such file, or it has no `get_config(variant)`.
    """
    path, _, variant = find_config(name).partition(":")
    module = runpy.run_path(path)
    if "get_config" not in module:
        raise ValueError(f"{path} is no config; it needs a get_config(variant)")
    return module["get_config"](variant)
