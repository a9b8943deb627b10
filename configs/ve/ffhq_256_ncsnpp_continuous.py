"""NCSN++ on FFHQ at 256 pixels under the VE SDE, continuous times.

    python main.py --config configs/ve/ffhq_256_ncsnpp_continuous.py --mode train

Here: not run. 65,574,549 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp_256(c)
    parts.pixels_256(c, "ffhq")
    c.model.sigma_max = 348.0
    return parts.finish(c, variant)
