"""The deep NCSN++ on CIFAR-10 under the VE SDE, continuous times.

    python main.py --config configs/ve/cifar10_ncsnpp_deep_continuous.py --mode train

Published: FID 2.20, IS 9.89 (Song et al. 2021, table 3).
Here: not run. 107,587,075 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    parts.cifar10(c)
    parts.deep(c)
    return parts.finish(c, variant)
