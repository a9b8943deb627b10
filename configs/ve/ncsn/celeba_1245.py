"""NCSN on CelebA at 64 pixels with techniques 1, 2, 4 and 5 of NCSNv2.

    python main.py --config configs/ve/ncsn/celeba_1245.py --mode train

Here: not run. 51,379,715 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsn(c)
    parts.celeba(c)
    c.model.num_scales = 500
    c.sampling.n_steps_each = 5
    c.sampling.snr = 0.128
    return parts.finish(c, variant)
