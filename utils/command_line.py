"""Parses command lines, with or without a config, and reports every mistake in one sentence.

Without this module, a mistake in a config raises one of a dozen kinds of errors of absl and
ml_collections, most of them with a traceback.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from typing import NoReturn

import ml_collections
from absl import app, flags

from scorax.utils.config_files import find_config


class Parser(argparse.ArgumentParser):
    """Raises ValueError for a mistake in a command line, so that one place shows all errors."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def size(text: str) -> int | tuple[int, int]:
    """Reads the side of a square, as in 64, or height and width, as in 24x40.

    Raises:
      argparse.ArgumentTypeError: for anything else.
    """
    sides = re.split("[x,]", text)
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; give a number of pixels, or HEIGHTxWIDTH as in 24x40"
        )
    return int(text) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def run_tool(run: Callable[[list[str]], None]) -> None:
    """Runs a command; prints a ValueError without a traceback, and exits with status 2."""
    try:
        run(sys.argv)
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)


def parse(argv: list[str], default: ml_collections.ConfigDict) -> None:
    """Parses the flags; `--config` must have been defined with `DEFINE_config_file`.

    Args:
      argv: the command line, including the program's name.
      default: a config with every existing field.

    Raises:
      ValueError: for a command line that cannot be understood.
    """
    app.define_help_flags()
    argv = _with_config_path(argv)
    try:
        _check_fields(argv, default)
        argv = _with_tuples(argv, default)
        extra = flags.FLAGS(argv)[1:]
        if flags.FLAGS.config is not None:
            flags.FLAGS.config.lock()  # raises if the config file could not be read
    except (flags.Error, OSError, SyntaxError) as e:
        # An error in a config file comes with its traceback, and its last line says what is wrong.
        reason = str(e).strip().splitlines()[-1].strip()
        reason = re.sub(r"^(ValueError: |.*\[Errno \d+\] )", "", reason)
        raise ValueError(
            f"{reason.rstrip('.')}; see --help, and configs/base.py for fields and types"
        ) from e
    except AttributeError as e:
        if e.name != "get_config":
            raise
        raise ValueError(f"{e.obj.__file__} is no config; it needs a get_config(variant)") from e
    if extra:
        raise ValueError(f"{' '.join(extra)!r} belongs to no flag; --help lists them")


def _with_config_path(argv: list[str]) -> list[str]:
    """Replaces the name of a config in a command line by the path of the config file."""
    argv = list(argv)
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config") and equals:
            argv[i] = f"{flag}={find_config(value)}"
        elif flag in ("--config", "-config") and i + 1 < len(argv):
            argv[i + 1] = find_config(argv[i + 1])
    return argv


def _with_tuples(argv: list[str], default: ml_collections.ConfigDict) -> list[str]:
    """Quotes the words of a tuple, as in --config.eval.tasks=samples,fd."""
    quoted = []
    for argument in argv:
        match = re.fullmatch(r"(--?config\.(\w+)\.(\w+)=)([^()\[\]'\"]*,[^()\[\]'\"]*)", argument)
        if match and isinstance(default[match[2]][match[3]], tuple):
            words = [word.strip() for word in match[4].split(",") if word.strip()]
            if any(re.search("[A-Za-z_]", word) for word in words):
                words = [word if word.isdecimal() else repr(word) for word in words]
                argument = f"{match[1]}({', '.join(words)},)"
        quoted.append(argument)
    return quoted


def _check_fields(argv: list[str], default: ml_collections.ConfigDict) -> None:
    sections = default.to_dict()
    known = [f"{s}.{key}" for s in sections if isinstance(sections[s], dict) for key in sections[s]]
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        if match and match[1] not in (*known, *sections):
            near = difflib.get_close_matches(match[1], known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"unknown field --config.{match[1]}; {hint}configs/base.py lists them all"
            )
