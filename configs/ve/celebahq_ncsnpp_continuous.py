"""NCSN++ on CelebA-HQ at 1,024 pixels under the VE SDE, continuous times.

    python main.py --config configs/ve/celebahq_ncsnpp_continuous.py --mode train

Here: not run. 105,785,896 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp_1024(c)
    c.data.dataset = "celebahq"
    return parts.finish(c, variant)
