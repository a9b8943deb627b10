"""NCSN++ on LSUN bedrooms at 256 pixels under the VE SDE, continuous times.

    python main.py --config configs/ve/bedroom_ncsnpp_continuous.py --mode train

Here: not run. 65,574,549 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp_256(c)
    parts.pixels_256(c, "lsun", "bedroom")
    c.model.sigma_max = 378.0
    return parts.finish(c, variant)
