"""A multilayer perceptron and the VP SDE on points in the plane: eight Gaussians on a ring.

    python main.py --config configs/vp/points.py --mode train

The first thing to run: docs/points.md explains it. Other points with
--config.data.dataset=checkerboard, moons or swiss_roll.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c)
    parts.mlp(c)
    parts.points(c)
    return parts.finish(c, variant)
