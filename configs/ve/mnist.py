"""NCSN++ with EDM preconditioning under the VE SDE on 5,000 real MNIST digits.

python main.py --config configs/ve/mnist.py --mode train
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
    c.model.sigma_min = 0.01
    c.model.sigma_max = 16.0  # the largest distance between two of these digits is 15.8
    c.model.sigma_data = 0.33
    c.training.p_mean = 0.0  # digits get their shape at sigma 0.5 to 5
    c.training.p_std = 1.4
    return parts.finish(c, variant)
