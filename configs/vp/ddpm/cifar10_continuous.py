"""The network of DDPM on CIFAR-10 under the VP SDE, continuous times.

    python main.py --config configs/vp/ddpm/cifar10_continuous.py --mode train

Published: ODE FID 3.69, NLL 3.21 bits/dim (Song et al. 2021, table 2).
Here: not run. 35,218,947 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c)
    parts.ddpm(c)
    parts.cifar10(c)
    return parts.finish(c, variant)
