"""DDPM++ on CIFAR-10 under the VP SDE, continuous times.

    python main.py --config configs/vp/cifar10_ddpmpp_continuous.py --mode train

Published: FID 2.55, IS 9.58, ODE FID 3.93, NLL 3.16 bits/dim (Song et al. 2021, tables 2 and 3).
Here: not run. 61,804,419 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c)
    parts.ddpmpp(c)
    parts.cifar10(c)
    return parts.finish(c, variant)
