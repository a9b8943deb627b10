"""NCSN++ on CelebA at 64 pixels under the VE SDE, trained on 1,000 noise levels.

    python main.py --config configs/ve/celeba_ncsnpp.py --mode train

Published: FID about 2.5 (its author, in a thread on score_sde).
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
    parts.celeba(c)
    return parts.finish(c, variant)
