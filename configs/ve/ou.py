"""Ornstein-Uhlenbeck paths as images, under the VE SDE with its published sampler.

    python main.py --config configs/ve/ou.py --mode train

Network and training are the same as in edm/ou. Not run in full.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    parts.ou(c)
    return parts.finish(c, variant)
