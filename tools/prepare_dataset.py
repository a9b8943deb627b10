"""Images of any size in, array_record files of one size out.

python -m tools.prepare_dataset SOURCE DEST --size 256

SOURCE is a folder or a .zip of images (train/CLASS/*.png, test/CLASS/*.png; without class folders;
or without splits), or a .tfrecords file of StyleGAN. DEST appears when all of it is written. A
config reads it with data.dataset=array_record and data.dir=DEST.

An image that cannot be used is an error which names it; with --skip-corrupt it is left out and
listed in DEST/skipped.txt.
"""

import argparse
import signal
import sys
from collections.abc import Iterable
from typing import Any

import tqdm

from scorax.data_sources import preparation
from scorax.data_sources.arrays import SPLITS
from scorax.utils import command_line


def _progress(items: Iterable[Any], total: int, split: str) -> Iterable[Any]:
    return tqdm.tqdm(items, total=total, desc=split, unit=" images")


def run(argv: list[str]) -> None:
    """Prepares, and prints what was done."""
    parser = command_line.Parser(
        "python -m tools.prepare_dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    defaults = preparation.Settings._field_defaults
    parser.add_argument("source", help="a folder, a .zip or a .tfrecords file")
    parser.add_argument("dest", help="the folder to write; it must not exist")
    parser.add_argument("--size", type=int, required=True, help="pixels, height and width")
    parser.add_argument(
        *("--channels",), type=int, default=defaults["channels"], help="3 (colour, default) or 1"
    )
    parser.add_argument(
        "--crop",
        choices=list(preparation.CROPS),
        default=defaults["crop"],
        help="center: the middle square (default); none: images must be square; celeba, lsun: as "
        "published",
    )
    parser.add_argument("--format", choices=list(preparation.FORMATS), default=defaults["format"])
    parser.add_argument("--quality", type=int, default=defaults["quality"], help="of jpeg")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a CPU core")
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out what is unusable")
    arguments = vars(parser.parse_args(argv[1:]))
    arguments["splits"] = tuple(arguments["splits"])
    settings = preparation.Settings(
        **{key: arguments.pop(key) for key in preparation.Settings._fields}
    )
    info = preparation.prepare(**arguments, settings=settings, progress=_progress)
    counts = ", ".join(f"{number} {split}" for split, number in info["examples"].items())
    print(f"{arguments['dest']}: {counts} images, {info['skipped']} skipped")


def main() -> None:
    """Runs; what a user can mend is told in one sentence, without a traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up like Ctrl-C
    try:
        command_line.run_tool(run)
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")


if __name__ == "__main__":
    main()
