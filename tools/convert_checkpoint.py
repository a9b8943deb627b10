"""Published weights in, and a run's weights out again.

python -m tools.convert_checkpoint SOURCE --config CONFIG --workdir WORKDIR
python -m tools.convert_checkpoint WORKDIR --config CONFIG --to diffusers DIRECTORY
python -m tools.convert_checkpoint WORKDIR --config CONFIG --to safetensors FILE.safetensors
python -m tools.convert_checkpoint WORKDIR --config CONFIG --to weights DIRECTORY

The first makes WORKDIR, a run that `python main.py --mode eval` samples from and `--mode train`
continues. SOURCE is a .pth of score_sde_pytorch, a checkpoint_N of score_sde, a directory of
diffusers (google/ncsnpp-*) or a .safetensors file with the names of score_sde_pytorch; which of
them is told by its content. Averaged (EMA) weights are what is sampled from; raw weights, step and
the state of Adam come along where the source has them. No code in a file is ever run.

The others write the averaged weights of a run, for diffusers as a UNet2DModel with its pipeline
(only networks like those of google/ncsnpp-* have one), or under the names of score_sde_pytorch, or
under our own, with the config: what --config.eval.checkpoint=DIRECTORY evaluates without the run.
All can be a SOURCE again. --config.eval.checkpoint=STEP writes another step than the latest.

CONFIG is as in main.py, with :smoke if need be; single fields are set with
--config.SECTION.FIELD=VALUE.
"""

import argparse

from absl import flags
from ml_collections import config_flags

from scorax.configs import base
from scorax.utils import command_line


def run(argv: list[str]) -> None:
    """Converts, and prints what was done."""
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
    from scorax import conversion  # after the flags: --help needs no JAX

    config = flags.FLAGS.config
    if arguments.to is None:
        lines = conversion.import_checkpoint(arguments.source, config, arguments.workdir)
    else:
        lines = conversion.export_weights(arguments.source, config, *arguments.to)
    print("\n".join(lines))


def main() -> None:
    """Runs; what a user can mend is told in one sentence, without a traceback."""
    command_line.run_tool(run)


if __name__ == "__main__":
    main()
