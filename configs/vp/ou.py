"""Ornstein-Uhlenbeck paths as images, under the VP SDE.

    python main.py --config configs/vp/ou.py --mode train

At the end of this SDE, less than a hundredth of the data is left, so that its prior fits. In the
project from which the paths come, dx = -x dt + sqrt(2) dw ends at T = 1 with 37 % of the data
left. Network and training are the same as in edm/ou. Not run in full.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c)
    parts.ncsnpp(c)
    parts.ou(c)
    parts.edm(c)
    c.model.sigma_data = 1.0  # the VP SDE ends with standard normal noise
    return parts.finish(c, variant)
