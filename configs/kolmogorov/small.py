"""Kolmogorov flow for two CPU cores: less data, a smaller U-Net, preconditioned as in EDM.

    python -m tools.make_trajectories --config configs/kolmogorov/small.py
    python main.py --config configs/kolmogorov/small.py --mode train

The 32 trajectories of 192 states took 2 minutes on two idle cores of an AMD EPYC, and the training
36 minutes on the same beside other programs. Scenarios of observations are variants, as in
configs/kolmogorov/small.py:extrapolation.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny, others are in `parts.VARIANTS`."""
    c = base.get_config()
    parts.cosine(c)
    parts.periodic_unet(c)
    parts.kolmogorov(c)
    parts.small_flow(c)
    parts.edm(c)
    return parts.finish(c, variant)
