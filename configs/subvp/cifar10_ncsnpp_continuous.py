"""NCSN++ on CIFAR-10 under the sub-VP SDE, continuous times.

    python main.py --config configs/subvp/cifar10_ncsnpp_continuous.py --mode train

Here: not run. 62,693,251 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c, "subvpsde")
    parts.ncsnpp_vp(c)
    parts.cifar10(c)
    return parts.finish(c, variant)
