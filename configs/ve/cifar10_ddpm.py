"""The network of DDPM on CIFAR-10 under the VE SDE, trained on 1,000 noise levels.

    python main.py --config configs/ve/cifar10_ddpm.py --mode train

Here: not run. 35,218,947 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ddpm(c)
    parts.discrete(c)
    parts.cifar10(c)
    c.model.scale_by_sigma = True
    return parts.finish(c, variant)
