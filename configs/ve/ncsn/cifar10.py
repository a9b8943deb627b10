"""NCSN on CIFAR-10.

    python main.py --config configs/ve/ncsn/cifar10.py --mode train

Here: not run. 30,117,635 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsn(c)
    parts.cifar10(c)
    c.model.sigma_max = 1.0
    c.model.num_scales = 10
    c.model.ema_rate = 0.0
    c.sampling.n_steps_each = 100
    c.sampling.snr = 0.316
    return parts.finish(c, variant)
