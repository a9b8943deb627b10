"""NCSN++ on CIFAR-10 under the VE SDE, continuous times.

    python main.py --config configs/ve/cifar10_ncsnpp_continuous.py --mode train

Published (Song et al. 2021, table 3): FID 2.38, inception score 9.83, with this sampler (2,000
evaluations). Here: not run. 62,758,915 parameters.
"""

import ml_collections

from configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    parts.cifar10(c)
    return parts.finish(c, variant)
