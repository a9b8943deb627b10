"""Ornstein-Uhlenbeck paths as images: preconditioning, loss and noise levels of EDM, as ImagenTime.

    python main.py --config configs/edm/ou.py --mode train

Two numbers differ from ImagenTime's. More of the training is at low noise (p_mean -2 instead of
-1.2), where the volatility of a path is decided. Heun's rule takes 36 steps, which ImagenTime
takes for long series only: with the exact score, 18 steps raise the volatility by 11 %, 36 by 2 %.
Training took 31 minutes beside other work on two cores that were half as fast as when idle; what
became of it is in benchmarks/RESULTS.md.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny, "complete" completes series."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    parts.ou(c)
    parts.edm(c)
    parts.heun(c)
    c.model.sigma_min = 0.002
    c.model.sigma_max = 80.0
    c.sampling.steps = 36
    return parts.finish(c, variant)
