"""Imports published weights, and exports the weights of a run.

python -m tools.convert_checkpoint SOURCE --config CONFIG --workdir WORKDIR
python -m tools.convert_checkpoint WORKDIR --config CONFIG --to diffusers DIRECTORY
python -m tools.convert_checkpoint WORKDIR --config CONFIG --to safetensors FILE.safetensors
python -m tools.convert_checkpoint WORKDIR --config CONFIG --to weights DIRECTORY

The first command makes WORKDIR, a run that `python main.py --mode eval` samples from and `--mode
train` continues. SOURCE is a .pth file of score_sde_pytorch, a checkpoint_N of score_sde, a
directory of diffusers (google/ncsnpp-*) or a .safetensors file with the names of score_sde_pytorch;
the format is detected from the content. Sampling uses the averaged (EMA) weights. Raw weights, step
and the state of Adam are imported too if SOURCE has them. Code inside a file is never run.

The other commands write the averaged weights of a run. The format `diffusers` is a UNet2DModel with
its pipeline, which exists only for networks like google/ncsnpp-*. The format `safetensors` uses the
names of score_sde_pytorch. The format `weights` uses our own names and includes the config, so that
--config.eval.checkpoint=DIRECTORY can evaluate it without the run. Each output can serve as SOURCE
again. --config.eval.checkpoint=STEP writes this step instead of the latest.

CONFIG is as in main.py, with :smoke if needed; single fields are set with
--config.SECTION.FIELD=VALUE.
"""

import argparse

from absl import flags
from ml_collections import config_flags

from scorax.configs import base
from scorax.utils import bars, command_line


def run(argv: list[str]) -> None:
    """Converts weights, and prints what was done."""
    parser = command_line.Parser(
        "python -m tools.convert_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("source", help="weights to read; with --to, the directory of a run")
    parser.add_argument("--config", required=True, help="the experiment whose network it is")
    parser.add_argument("--workdir", help="directory of the run to make")
    parser.add_argument("--to", nargs=2, metavar=("FORMAT", "TARGET"), help="what to write, where")
    arguments, fields = parser.parse_known_args(argv[1:])
    if (arguments.workdir is None) == (arguments.to is None):
        raise ValueError("give --workdir WORKDIR to read weights, or --to FORMAT TARGET to write")
    config_flags.DEFINE_config_file("config")
    command_line.parse([argv[0], f"--config={arguments.config}", *fields], base.get_config())
    with bars.elapsing("converting"):
        from scorax import conversion  # imported late, so that --help does not load JAX

        config = flags.FLAGS.config
        if arguments.to is None:
            lines = conversion.import_checkpoint(arguments.source, config, arguments.workdir)
        else:
            lines = conversion.export_weights(arguments.source, config, *arguments.to)
    print("\n".join(lines))


def main() -> None:
    """Runs the tool; prints errors that a user can fix as one sentence, without a traceback."""
    command_line.run_tool(run)


if __name__ == "__main__":
    main()
