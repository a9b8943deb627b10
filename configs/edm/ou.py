"""Ornstein-Uhlenbeck paths as images: preconditioning, loss and noise levels of EDM, as ImagenTime.

    python main.py --config configs/edm/ou.py --mode train

Two numbers differ from ImagenTime's. More of the training is at low noise (p_mean -2.0 instead of
-1.2), where the volatility of a path is decided. DPM-Solver++ takes 40 steps, as many evaluations
as Heun's rule in 20: with the exact score, Heun's 18 steps raise the volatility by 11 %.
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
    c.model.sigma_min = 0.002
    c.model.sigma_max = 80.0
    c.sampling.method = "dpmpp_2m"
    c.sampling.steps = 40
    return parts.finish(c, variant)
