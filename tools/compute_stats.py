"""Computes the reference statistics of a data set that FID, KID and other metrics compare with.

python -m tools.compute_stats --config configs/vp/cifar10_ddpmpp.py --out cifar10.npz \\
    --config.eval.inception_path=pt_inception-2015-12-05-6726825d.pth
python -m tools.compute_stats --config configs/ve/mnist.py --features classifier --out mnist.npz

The statistics cover all images of the split, without flips. The file holds the mean and covariance
of their features, the features of the images that --keep selects, and a record of the data and the
network. A run uses it with --config.eval.stats=FILE and the same eval.features. Single fields of
the config are set with --config.SECTION.FIELD=VALUE.
"""

import argparse
import sys
from collections.abc import Iterable

from absl import flags
from ml_collections import config_flags

from scorax.configs import base
from scorax.data_sources.source import SPLITS
from scorax.utils import command_line
from scorax.utils.bars import Bar, elapsing


def _progress(parts: Iterable, total: int) -> Iterable:
    return Bar(parts, "features", total, unit=" parts")


def run(argv: list[str]) -> None:
    """Computes and writes the statistics, and prints a summary."""
    parser = command_line.Parser(
        "python -m tools.compute_stats",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="the experiment, as in main.py")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--features", help="inception or classifier: eval.features of the config")
    parser.add_argument(
        "--keep",
        type=int,
        help="number of images, evenly spread, whose features are kept; KID, precision, recall, "
        "density and coverage need them (default: all)",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the .npz file to write")
    arguments, fields = parser.parse_known_args(argv[1:])
    config_flags.DEFINE_config_file("config")
    command_line.parse([argv[0], f"--config={arguments.config}", *fields], base.get_config())
    with elapsing("loading the network"):
        from scorax import datasets
        from scorax.metrics import features  # imported late, so that --help does not load JAX

        config = flags.FLAGS.config
        config.eval.features = arguments.features or config.eval.features
        extractor = features.get_feature_extractor(config)
    statistics = features.get_statistics(
        config, extractor, arguments.split, arguments.keep, _progress
    )
    features.save_statistics(arguments.out, statistics)
    print(datasets.describe(datasets.get_source(config, arguments.split)), file=sys.stderr)
    kept = 0 if statistics.features is None else len(statistics.features)
    print(
        f"{arguments.out}: {statistics.num} images of the {arguments.split} split, "
        f"{len(statistics.mean)} features of {extractor.name}, those of {kept} images kept"
    )


def main() -> None:
    """Runs the tool; prints errors that a user can fix as one sentence, without a traceback."""
    command_line.run_tool(run)


if __name__ == "__main__":
    main()
