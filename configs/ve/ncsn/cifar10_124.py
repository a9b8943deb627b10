"""NCSN on CIFAR-10 with the noise levels of NCSNv2 (its techniques 1, 2 and 4).

    python main.py --config configs/ve/ncsn/cifar10_124.py --mode train

Here: not run. 39,750,659 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsn(c)
    parts.cifar10(c)
    c.model.num_scales = 232
    c.model.ema_rate = 0.0
    c.sampling.n_steps_each = 5
    c.sampling.snr = 0.176
    return parts.finish(c, variant)
