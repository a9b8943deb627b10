"""NCSN on CIFAR-10 with techniques 1, 2, 4 and 5 of NCSNv2.

    python main.py --config configs/ve/ncsn/cifar10_1245.py --mode train

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
    c.sampling.n_steps_each = 5
    c.sampling.snr = 0.176
    return parts.finish(c, variant)
