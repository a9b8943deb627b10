"""NCSN++ with EDM preconditioning under the VE SDE on 5,000 real MNIST digits.

    python main.py --config configs/ve/mnist.py --mode train

Measured on two cores of a Xeon with little else running: 11 minutes, samples included. Of 256
samples: mean confidence of an independent classifier .884 (real digits .985), Fréchet distance on
its features 16.4 (real digits 5.9); about 52 of 64 digits clearly legible (benchmarks/RESULTS.md).
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    parts.mnist(c)
    parts.edm(c)
    return parts.finish(c, variant)
