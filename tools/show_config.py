"""Shows every value of a config and what set it, and how large the experiment is.

python -m tools.show_config configs/ve/mnist.py
python -m tools.show_config ve/mnist:smoke --changed --config.optim.lr=1e-3

The last column names what set the value: base (`configs/base.py`), a part of `configs/parts.py`
(`mnist > small` is the part `small`, called by the part `mnist`), a line of the file, or the
command line. The list ends with the sampler, its network evaluations for one sample (NFE), and the
number of parameters, which are found without running or even allocating the network.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags
from ml_collections.config_dict import config_dict

from scorax.configs import base, order, parts
from scorax.utils import command_line
from scorax.utils.bars import elapsing
from scorax.utils.config_files import find_config

ROOT = Path(__file__).resolve().parent.parent
Setters = dict[tuple[int, str], str]  # (id of the section, key) -> what set it last


@contextlib.contextmanager
def record_setters(file: str) -> Iterator[Setters]:
    """Records what sets each key of every config that is made or changed in this context.

    Args:
      file: the config file, which is called "the file".
    """
    setters: Setters = {}
    set_item = ml_collections.ConfigDict.__setitem__

    def set_and_record(section: ml_collections.ConfigDict, key: str, value: object) -> None:
        set_item(section, key, value)
        setters[id(section), key] = _caller(file)

    ml_collections.ConfigDict.__setitem__ = set_and_record
    try:
        yield setters
    finally:
        ml_collections.ConfigDict.__setitem__ = set_item


def _caller(file: str) -> str:
    """Names the code that is setting a key: the first frames outside of ml_collections."""
    chain: list[str] = []
    frame = sys._getframe(2)
    while True:
        module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if module == parts.__name__ and function != parts.finish.__name__:
            chain.insert(0, function)
        elif module not in (config_dict.__name__, order.__name__):
            break
        frame = frame.f_back
    if chain:
        return " > ".join(chain)
    if module == base.__name__:
        return "base"
    if module.startswith(config_flags.__name__):
        return "the command line"
    path = frame.f_code.co_filename
    same = os.path.realpath(path) == os.path.realpath(file)
    return f"{'the file' if same else os.path.relpath(path, ROOT)}, line {frame.f_lineno}"


def _fields(config: ml_collections.ConfigDict) -> Iterator[tuple[str, Any, str]]:
    """Yields ("model.nf", config.model, "nf") and so on; what is in no section comes first."""
    in_section = {name: isinstance(value, type(config)) for name, value in config.items()}
    for name in sorted(in_section, key=in_section.get):
        if in_section[name]:
            yield from ((f"{name}.{key}", config[name], key) for key in config[name])
        else:
            yield name, config, name


def table(config: ml_collections.ConfigDict, setters: Setters, changed: bool = False) -> str:
    """Returns one aligned line for each key, with an empty line between sections.

    Args:
      config: a config that was made in the context of `record_setters`.
      setters: what that recorded.
      changed: leave out the values that are those of `configs/base.py`.
    """
    default = {field: section[key] for field, section, key in _fields(base.get_config())}
    rows = [
        (field, repr(section[key]), setters.get((id(section), key), "the file"))
        for field, section, key in _fields(config)
        if not changed or field not in default or section[key] != default[field]
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    lines, last = [], None
    for field, value, setter in rows:
        section = field.rpartition(".")[0]
        if last not in (None, section):
            lines.append("")
        lines.append(f"{field:{widths[0]}}  {value:{widths[1]}}  {setter}")
        last = section
    return "\n".join(lines)


def summary(config: ml_collections.ConfigDict) -> str:
    """Returns the sampler, its NFE and the number of parameters, a line each.

    Raises:
      ValueError: for a config that cannot be built.
    """
    from scorax import experiment  # imported late, so that --help does not load JAX
    from scorax.tools import list_configs

    built, s = experiment.build(config), config.sampling
    nfe = list_configs.evaluations(built)
    sampler = f"{s.method} ({s.predictor}, {s.corrector})" if s.method == "pc" else s.method
    return (
        f"sampler     {sampler if nfe else f'none, as the network is {built.network}'}\n"
        f"NFE         {nfe or 'none'}\n"
        f"parameters  {list_configs.parameters(built)}"
    )


def run(argv: list[str]) -> None:
    """Prints the table of a config, and below it the summary."""
    parser = command_line.Parser(
        "python -m tools.show_config",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="FILE", help="the experiment, as --config of main.py")
    parser.add_argument(
        "--changed", action="store_true", help="leave out the values of configs/base.py"
    )
    arguments, fields = parser.parse_known_args(argv[1:])
    name = os.path.relpath(find_config(arguments.config))
    config_flags.DEFINE_config_file("config")
    with record_setters(name.partition(":")[0]) as setters:
        command_line.parse([argv[0], f"--config={name}", *fields], base.get_config())
    config = flags.FLAGS.config
    print(f"{name}\n\n{table(config, setters, arguments.changed)}\n", flush=True)
    with elapsing("counting the parameters"):
        said = summary(config)
    print(said)


def main() -> None:
    """Runs the tool; prints errors that a user can fix as one sentence, without a traceback."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a traceback
    command_line.run_tool(run)


if __name__ == "__main__":
    main()
