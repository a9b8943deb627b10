"""NCSN++ on retinal OCT scans (a folder for each class) at 256 pixels under the VE SDE.

    python main.py --config configs/ve/retinal_oct.py --mode train

Uses the recipe of FFHQ at 256 pixels, for one channel. Here: not run.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp_256(c)
    parts.pixels_256(c, "retinal_oct")
    c.data.num_channels = 1
    # No two images of 256 x 256 values in [0, 1] are further apart; `python -m tools.sigma_max`
    # measures how far apart the scans are.
    c.model.sigma_max = 256.0
    return parts.finish(c, variant)
