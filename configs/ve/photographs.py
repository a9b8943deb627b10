"""NCSN++ with EDM preconditioning under the VE SDE on tiles of photographs that need no download.

    python main.py --config configs/ve/photographs.py --mode train

The network of ve/mnist, in colour, on 1,206 tiles of four photographs inside scikit-image: small
enough for a laptop, and something to colorize with. It knows those four and little else. Measured
on two cores of a Xeon, in part shared with others: 42 minutes; colorization of tiles of two other
photographs 16.7 (gray) to 21.2 dB.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    parts.photographs(c)
    parts.small(c, 6000)
    parts.edm(c)
    c.model.sigma_max = 50.0  # the largest distance between two of these tiles is 49.1
    c.model.sigma_data = 0.25
    c.training.p_mean = -1.2  # colours and coarse shapes are decided at sigma 0.1 to 3
    c.training.p_std = 1.7
    return parts.finish(c, variant)
