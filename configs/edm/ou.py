"""Ornstein-Uhlenbeck paths as images, with the recipe of ImagenTime: EDM on delay embeddings.

python main.py --config configs/edm/ou.py --mode train
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    parts.ou(c)
    parts.edm(c)
    parts.heun(c)
    c.model.sigma_min = 0.002
    c.model.sigma_max = 80.0
    return parts.finish(c, variant)
