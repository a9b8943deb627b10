"""Command line: python main.py --config configs/ve/mnist.py --mode train."""

import logging
import os
import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment: a file under configs/, with :smoke for its tiny variant; any field "
    "can be changed with --config.SECTION.FIELD=VALUE.",
    lock_config=True,
)
flags.DEFINE_enum("mode", None, ["train", "eval"], "Train (or continue), or evaluate a checkpoint.")
flags.DEFINE_string(
    "workdir", None, "Directory of the run; by default runs/ and the path of the config."
)
flags.DEFINE_string("eval_folder", "eval", "Where in workdir the results of --mode eval go.")
flags.mark_flags_as_required(["config", "mode"])


def default_workdir(config_path: str) -> str:
    """configs/ve/mnist.py:smoke -> runs/ve/mnist_smoke."""
    path, _, variant = config_path.partition(":")
    path = pathlib.Path(os.path.relpath(path)).with_suffix("")
    parts = [p for p in path.parts if p not in ("..", "/")]
    name = "/".join(parts[1:] if parts[0] == "configs" else parts)
    return os.path.join("runs", name + (f"_{variant}" if variant else ""))


def main(argv: list[str]) -> None:
    """Dispatches on --mode."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    import run_lib  # after the flags: --help needs no JAX
    from utils import parallel

    parallel.initialize()
    workdir = FLAGS.workdir or default_workdir(config_flags.get_config_filename(FLAGS["config"]))
    try:
        if FLAGS.mode == "train":
            run_lib.train(FLAGS.config, workdir)
        else:
            run_lib.evaluate(FLAGS.config, workdir, FLAGS.eval_folder)
    except ValueError as e:
        # One sentence for the user; where it came from is in the log file, if there is one yet.
        logging.getLogger(__name__).debug("", exc_info=True)
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    app.run(main)
