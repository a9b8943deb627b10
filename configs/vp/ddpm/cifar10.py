"""DDPM on CIFAR-10.

    python main.py --config configs/vp/ddpm/cifar10.py --mode train

Published: FID 3.24, ODE FID 3.37, NLL 3.28 bits/dim (README of score_sde, there `vp/cifar10_ddpm`).
Here: not run. 35,218,947 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c)
    parts.ddpm(c)
    parts.discrete(c)
    parts.cifar10(c)
    c.sampling.predictor = "ancestral_sampling"
    return parts.finish(c, variant)
