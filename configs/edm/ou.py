"""Ornstein-Uhlenbeck paths as images: preconditioning, loss and noise levels of EDM, as ImagenTime.

    python main.py --config configs/edm/ou.py --mode train

Two things differ from ImagenTime. More of the training is at low noise (p_mean -2 instead of
-1.2), where the volatility of a path is decided. Samples come from DPM-Solver++ in 60 steps,
because Heun's rule raises the volatility: with the exact score by 11 % in 18 steps, 2 % in 36.
Training took 22 minutes beside tests, at 4.9 steps a second when alone, on two cores that were half
as fast as when idle; what became of it is in benchmarks/RESULTS.md.
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
    c.model.sigma_min = 0.002
    c.model.sigma_max = 80.0
    c.sampling.method = "dpmpp_2m"
    c.sampling.steps = 60
    return parts.finish(c, variant)
