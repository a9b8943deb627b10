"""Runs a command of the documentation in a short form; bash calls it instead of `python`.

Training uses the `:smoke` variant of a config. Shipped networks draw few examples, in few steps.
"""

import os
import re
import sys

FEW = {
    **dict.fromkeys(("num_samples", "num_conditioned", "samples_per_image", "num_denoised"), 2),
    **{"num_examples": 4, "batch_size": 4, "frames": 2, "recurrent_steps": 0, "bpd_rtol": 0.1},
}


def shorten(argv):
    """The arguments of the short form."""
    joined = " ".join(argv)
    if argv[0] != "main.py" or "training.n_iters" in joined:
        return argv
    if "checkpoint=pretrained" not in joined:
        argv = [re.sub(r"^((--config=)?configs/.*\.py)(:\w+)?$", r"\1:smoke", a) for a in argv]
    if "--mode eval" in joined:
        argv = [*argv, *(f"--config.eval.{key}={value}" for key, value in FEW.items())]
        argv.append("--config.sampling.steps=25")
        if "class_conditional" in joined:
            argv.append("--config.eval.features=inception")  # no judge, who would be trained
    return argv


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, *shorten(sys.argv[1:])])
