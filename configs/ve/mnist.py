"""NCSN++ with EDM preconditioning under the VE SDE on 5,000 real MNIST digits.

    python main.py --config configs/ve/mnist.py --mode train

FINAL_VE
"""

import ml_collections

from configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    parts.mnist(c)
    parts.edm(c)
    return parts.finish(c, variant)
