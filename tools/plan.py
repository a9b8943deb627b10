"""Shows what a config will take on devices, before they are paid for.

python -m tools.plan --config configs/ve/afhq_512.py --topology v5e:2x4
python -m tools.plan --config ve/cifar10_ncsnpp_continuous --topology v6e:2x4 --compare
python -m tools.plan --config ve/mnist --programs train --largest-batch

Compiles train step, eval step and sampler for a TPU that need not be there, or, without --topology,
for the devices at hand, and prints for each device the memory of every program, operations, and
what collective operations move. Needs the TPU compiler, which docs/scaling.md says how to install.
Large networks take minutes to compile. Single fields are set with --config.SECTION.FIELD=VALUE.
"""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from scorax.configs import base
from scorax.utils import bars, command_line
from scorax.utils.config_files import find_config

_PROGRAMS = ("train", "eval", "sample")


def _parser() -> command_line.Parser:
    parser = command_line.Parser(
        "python -m tools.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="the experiment, as in main.py")
    parser.add_argument("--topology", help="a TPU: v4:2x2x1, v5e:2x4, v5p:2x2x1, v6e:2x4, ...")
    parser.add_argument(
        "--programs",
        default=",".join(_PROGRAMS),
        help="which of train, eval and sample to compile, separated by commas",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="compile the train step also with model.remat, bfloat16 and the other "
        "parallel.strategy, one at a time",
    )
    parser.add_argument(
        "--largest-batch", action="store_true", help="find the largest training batch that fits"
    )
    parser.add_argument(
        "--utilization",
        type=float,
        default=0.4,
        help="share of the chip's peak that training is assumed to reach (default: 0.4)",
    )
    parser.add_argument("--price", type=float, help="price of one device for an hour")
    parser.add_argument("--save", metavar="FILE", help="a JSON file to add the numbers to")
    parser.add_argument(
        "--table", metavar="FILE", help="print what such a file has, and nothing else"
    )
    return parser


def run(argv: list[str]) -> None:
    """Compiles, and prints a table."""
    arguments, fields = _parser().parse_known_args(argv[1:])
    if arguments.table:
        from scorax import planning

        print(planning.table(arguments.table))
        return
    if arguments.config is None:
        raise ValueError("give --config CONFIG, the experiment that is planned; see --help")
    names = tuple(arguments.programs.split(","))
    if unknown := [name for name in names if name not in _PROGRAMS]:
        raise ValueError(f"--programs {unknown[0]}: choose from: {', '.join(_PROGRAMS)}")
    if not 0 < arguments.utilization <= 1:
        raise ValueError(f"--utilization {arguments.utilization} must lie in (0, 1]")
    name = os.path.relpath(find_config(arguments.config))
    config_flags.DEFINE_config_file("config")
    command_line.parse([argv[0], f"--config={name}", *fields], base.get_config())
    if arguments.topology:  # the compiler must not look for a TPU, nor JAX wait for one
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with bars.elapsing("starting"):
        from scorax import planning  # late, because --help needs no JAX
        from scorax.utils import parallel
        from scorax.utils.logging import read_json

        if arguments.save and Path(arguments.save).exists():
            read_json(arguments.save)  # raises before anything is compiled
        devices = planning.get_topology(arguments.topology) if arguments.topology else []
    with parallel.on(devices):
        record = _plan(flags.FLAGS.config, names, arguments)
    if arguments.save:
        known = Path(name).as_posix().partition("configs/")[2]
        planning.add_record(arguments.save, known or name, flags.FLAGS.config, record)


def _plan(
    config: ml_collections.ConfigDict, names: tuple[str, ...], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Compiles and prints; returns what was printed, as numbers."""
    from scorax import planning

    experiment, target = planning.vary(config), planning.get_target()
    sizes = planning.state_memory(experiment)
    held = ", ".join(f"{_gib(size)} of {name}" for name, size in sizes.items())
    memory = f"{_gib(target.memory)} each" if target.memory else "of unknown memory"
    print(f"{target.count} x {target.kind}, {memory}, which holds {held}\n")
    print(_row("GiB on each", *planning.COLUMNS), flush=True)
    programs = []

    def show(name: str, program: planning.Program) -> None:
        programs.append(dataclasses.asdict(program) | {"name": name})
        print(_row(name, *planning.columns(program, target)), flush=True)

    for program in planning.compile_programs(experiment, names):
        show(program.name, program)
    for changes in planning.get_variants(config) if arguments.compare else ():
        (program,) = planning.compile_programs(planning.vary(config, **changes), ("train",))
        ((field, value),) = changes.items()
        show(f"train, {field.replace('__', '.')}={value}", program)
    record = {"target": dataclasses.asdict(target), "state": sizes, "programs": programs}
    if arguments.largest_batch:
        largest = planning.largest_batch(
            config, target, lambda size, program: show(f"train, batch {size}", program)
        )
        print(f"\nlargest training.batch_size that fits: {largest}")
        record["largest_batch"] = largest
    flops = sum(program["flops"] for program in programs if program["name"] == "train")
    if hours := planning.training_hours(experiment, flops, target, arguments.utilization):
        all_hours = hours * target.count
        cost = f", which cost {all_hours * arguments.price:,.0f}" if arguments.price else ""
        print(
            f"\n{config.training.n_iters:,} steps at {arguments.utilization:.0%} of the peak of "
            f"{target.peak / 1e12:.0f} TFLOP/s: {hours:,.1f} h, {all_hours:,.0f} device hours{cost}"
        )
    return record


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _row(name: str, *values: str) -> str:
    return f"{name:32}" + "".join(f"{value:>13}" for value in values)


def main() -> None:
    """Runs the tool; prints errors that a user can fix as one sentence, without a traceback."""
    command_line.run_tool(run)


if __name__ == "__main__":
    main()
