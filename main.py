"""Command line: python main.py --config configs/ve/mnist.py --mode train.

The exit status is 0 once the work is done, 1 after an error, and 128 plus the number of the signal
after a signal, so that a scheduler starts a preempted run again.
"""

from scorax.utils import signals

if __name__ == "__main__":
    signals.stop_at_once()  # before the imports, which take seconds and would drop a Ctrl-C

# ruff: noqa: E402
import os
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from scorax.configs import base
from scorax.utils import bars, command_line, programs

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment: a config file, or the name of one below configs/ such as ve/mnist; with :smoke "
    "its tiny variant. Any field can be changed with --config.SECTION.FIELD=VALUE.",
    lock_config=True,
)
flags.DEFINE_enum("mode", None, ["train", "eval"], "Train (or continue), or evaluate a checkpoint.")
flags.DEFINE_string(
    "workdir", None, "Directory of the run; by default runs/ and the path of the config."
)
flags.DEFINE_string("eval_folder", "eval", "Where in workdir the results of --mode eval go.")
for name in ("config", "mode", "workdir", "eval_folder"):
    # --help lists the flags defined by the program that runs, which may be the command `scorax`.
    FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])


def default_workdir(config_path: str) -> str:
    """configs/ve/mnist.py:smoke -> runs/ve/mnist_smoke."""
    path, _, variant = config_path.partition(":")
    parts = pathlib.Path(os.path.abspath(path)).with_suffix("").parts
    after = len(parts) - parts[::-1].index("configs") if "configs" in parts else len(parts) - 1
    return os.path.join("runs", *parts[after:]) + (f"_{variant}" if variant else "")


def run() -> None:
    """Parses the command line, and trains or evaluates."""
    command_line.parse(sys.argv, base.get_config())
    if FLAGS.config is None or FLAGS.mode is None:
        example = "python main.py --config configs/ve/mnist.py --mode train"
        raise ValueError(f"give --config and --mode, as in: {example}")
    with bars.elapsing("starting"):  # until the log begins
        from scorax import run_lib  # imported late, because --help needs no JAX
        from scorax.utils import parallel

        programs.keep_compiled()
        parallel.initialize()
        path = config_flags.get_config_filename(FLAGS["config"])
        workdir = FLAGS.workdir or default_workdir(path)
        if FLAGS.mode == "train":
            run_lib.train(FLAGS.config, workdir)
        else:
            run_lib.evaluate(FLAGS.config, workdir, FLAGS.eval_folder)


def main() -> None:
    """Runs the command line; errors that a user can fix are one sentence, without a traceback."""
    programs.run_program(run)


if __name__ == "__main__":
    main()
