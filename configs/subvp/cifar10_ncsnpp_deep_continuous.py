"""The deep NCSN++ on CIFAR-10 under the sub-VP SDE, continuous times.

    python main.py --config configs/subvp/cifar10_ncsnpp_deep_continuous.py --mode train

Here: not run. 107,521,411 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c, "subvpsde")
    parts.ncsnpp_vp(c)
    parts.cifar10(c)
    parts.deep(c)
    return parts.finish(c, variant)
