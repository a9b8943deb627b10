"""The deep DDPM++ on CIFAR-10 under the VP SDE, continuous times.

    python main.py --config configs/vp/cifar10_ddpmpp_deep_continuous.py --mode train

Published: FID 2.41, IS 9.68, ODE FID 3.08, NLL 3.13 bits/dim (Song et al. 2021, tables 2 and 3).
Here: not run. 106,632,579 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c)
    parts.ddpmpp(c)
    parts.cifar10(c)
    parts.deep(c)
    return parts.finish(c, variant)
