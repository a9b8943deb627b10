"""NCSN++ with EDM preconditioning under the VP SDE on 5,000 real MNIST digits.

    python main.py --config configs/vp/mnist.py --mode train

Uses the recipe of ve/mnist, which takes 11 minutes on two CPU cores. Here: not run in full;
500 of its 2,400 steps gave strokes like the strokes of digits.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c)
    parts.ncsnpp(c)
    parts.mnist(c)
    parts.edm(c)
    return parts.finish(c, variant)
