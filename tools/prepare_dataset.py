"""Converts images of any size to array_record files of images of one size.

python -m tools.prepare_dataset SOURCE DEST --size 256

SOURCE is a folder or a .zip of images, or a .tfrecords file of StyleGAN. Images are in
train/CLASS/*.png and test/CLASS/*.png; class folders and split folders may be left out. DEST
appears when everything is written. A config reads it with data.dataset=array_record and
data.dir=DEST.

An image that cannot be used is an error, and the message names it. With --skip-corrupt such images
are left out and listed in DEST/skipped.txt.
"""

import argparse
import signal
import sys
from collections.abc import Iterable
from typing import Any

from scorax.data_sources import preparation
from scorax.data_sources.source import SPLITS
from scorax.data_sources.values import BACKGROUNDS, Values
from scorax.utils import command_line
from scorax.utils.bars import Bar


def _progress(items: Iterable[Any], total: int, split: str) -> Iterable[Any]:
    return Bar(items, total=total, desc=split, unit=" images")


def _get_parser() -> command_line.Parser:
    parser = command_line.Parser(
        "python -m tools.prepare_dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    defaults = preparation.Settings._field_defaults
    parser.add_argument("source", help="a folder, a .zip or a .tfrecords file")
    parser.add_argument("dest", help="the folder to write; it must not exist")
    parser.add_argument(
        "--size",
        type=command_line.size,
        required=True,
        help="pixels of a square, or HEIGHTxWIDTH as in 24x40",
    )
    parser.add_argument(
        "--channels",
        type=int,
        default=defaults["channels"],
        help="3 for colour (default), 1 for grey; 4 and 2 keep the transparency",
    )
    parser.add_argument(
        "--background",
        choices=BACKGROUNDS,
        default="white",
        help="what transparent images are composed over; refuse: they are errors",
    )
    parser.add_argument(
        "--value-range",
        nargs=2,
        type=float,
        default=(),
        metavar=("LOW", "HIGH"),
        help="values of black and white of images that are no bytes (default: of their type)",
    )
    parser.add_argument(
        "--crop",
        choices=list(preparation.CROPS),
        default=defaults["crop"],
        help="center: the largest middle part (default); none: images must have the shape; celeba, "
        "lsun: as in score_sde",
    )
    parser.add_argument("--format", choices=list(preparation.FORMATS), default=defaults["format"])
    parser.add_argument(
        "--quality", type=int, default=defaults["quality"], help="quality of jpeg files, 1 to 100"
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument(
        "--workers", type=int, default=0, help="number of processes; 0 (default): one per CPU core"
    )
    parser.add_argument(
        "--skip-corrupt", action="store_true", help="leave out images that cannot be used"
    )
    return parser


def run(argv: list[str]) -> None:
    """Prepares a data set, and prints what was done."""
    arguments = vars(_get_parser().parse_args(argv[1:]))
    arguments["splits"] = tuple(arguments["splits"])
    values = tuple(arguments.pop("value_range")), arguments.pop("background")
    arguments["values"] = Values(*values)
    settings = preparation.Settings(
        **{key: arguments.pop(key) for key in preparation.Settings._fields}
    )
    info = preparation.prepare(**arguments, settings=settings, progress=_progress)
    counts = ", ".join(f"{number} {split}" for split, number in info["examples"].items())
    print(f"{arguments['dest']}: {counts} images, {info['skipped']} skipped")
    if info["classes"] != [""]:
        names = ", ".join(f"{i} {name}" for i, name in enumerate(info["classes"]))
        print(f"{len(info['classes'])} classes: {names}".encode(errors="replace").decode())
    if info["left_out"]:
        print(f"not used: {info['left_out']}".encode(errors="replace").decode())


def main() -> None:
    """Runs the tool; prints errors that a user can fix as one sentence, without a traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to clean up as after Ctrl-C
    try:
        command_line.run_tool(run)
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")


if __name__ == "__main__":
    main()
