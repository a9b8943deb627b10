"""NCSN++ on CIFAR-10 under the VE SDE, trained as SMLD is, on 1,000 noise levels.

    python main.py --config configs/ve/cifar10_ncsnpp.py --mode train

Published: FID 2.45, IS 9.73 (Song et al. 2021, table 3).
Here: not run. 62,693,251 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    parts.discrete(c)
    parts.cifar10(c)
    return parts.finish(c, variant)
