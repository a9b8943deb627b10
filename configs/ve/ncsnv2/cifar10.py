"""NCSNv2 on CIFAR-10.

    python main.py --config configs/ve/ncsnv2/cifar10.py --mode train

Here: not run. 29,694,083 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnv2(c, "ncsnv2_64")
    parts.cifar10(c)
    c.model.num_scales = 232
    c.sampling.n_steps_each = 5
    c.sampling.snr = 0.176
    return parts.finish(c, variant)
