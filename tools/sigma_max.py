"""Computes the largest distance between two images of a data set: the sigma_max of a VE model.

python -m tools.sigma_max --config configs/ve/mnist.py
python -m tools.sigma_max FOLDER --size 64

The first command takes data set, resolution and range of the data from the config; single fields
are set with --config.SECTION.FIELD=VALUE. The second command takes a folder or .zip of images,
scales the central square of each to --size, and uses the range [0, 1]. Random flips and
dequantisation are left out. The result is exact, because every pair that may be the farthest is
compared. Pixels are kept in memory, one byte each, if they fit into 4 GiB; a larger data set is
read several times.
"""

import argparse
from collections.abc import Iterable
from typing import Any

from absl import flags
from ml_collections import config_flags

from scorax.configs import base
from scorax.data_sources import images
from scorax.utils import command_line
from scorax.utils.bars import Bar, elapsing


def _progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    return Bar(items, total=total, unit=f" {what}")


def run(argv: list[str]) -> None:
    """Computes the distance, and prints it."""
    parser = command_line.Parser(
        "python -m tools.sigma_max",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", nargs="?", help="a folder or .zip of images")
    parser.add_argument(
        "--size", type=command_line.size, help="pixels for the images in FOLDER, or HEIGHTxWIDTH"
    )
    parser.add_argument(
        "--channels", type=int, default=3, help="channels for the images in FOLDER: 1 to 4"
    )
    parser.add_argument("--config", help="the experiment, as in main.py")
    parser.add_argument("--data-dir", help="location of the data: data.dir of the config")
    parser.add_argument(
        "--max-images", type=int, help="compare at most this many images, drawn at random"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random draw")
    arguments, fields = parser.parse_known_args(argv[1:])
    if (arguments.folder is None) == (arguments.config is None):
        raise ValueError("give either --config CONFIG, or FOLDER and --size; see --help")
    if arguments.config is None and (fields or arguments.data_dir or not arguments.size):
        raise ValueError("with FOLDER give --size, 1 or more pixels, and no options of a config")
    with elapsing("opening the data"):
        if arguments.config is not None:
            source, width = _configured(arguments.config, arguments.data_dir, fields)
        else:
            source = images.load(arguments.folder, "train", arguments.size, arguments.channels)
            width = 1
        from scorax.data_sources import distances

    found = distances.farthest_pair(source, arguments.max_images, arguments.seed, _progress)
    distance = width * found.distance
    print(
        f"{distance:.4f} is the largest distance, between images {found.pair[0]} and "
        f"{found.pair[1]} of {found.images} (of {len(source)} in the data set), with data in a "
        f"range of width {width}; {found.compared:.0%} of the pairs of blocks were compared, all "
        f"pixels {'held in memory' if found.held else 'read again for each block'}\n"
        f"--config.model.sigma_max={distance:.4g}"
    )


def _configured(path: str, data_dir: str | None, fields: list[str]) -> tuple[Any, float]:
    """Returns the training data of a config and the width of the model's range."""
    config_flags.DEFINE_config_file("config")
    command_line.parse(["", f"--config={path}", *fields], base.get_config())
    from scorax import datasets  # imported late, so that --help does not load JAX

    config = flags.FLAGS.config
    config.data.dir = config.data.dir if data_dir is None else data_dir
    scaler = datasets.get_data_scaler(config)
    return datasets.get_source(config), scaler(1.0) - scaler(0.0)


def main() -> None:
    """Runs the tool; prints errors that a user can fix as one sentence, without a traceback."""
    command_line.run_tool(run)


if __name__ == "__main__":
    main()
