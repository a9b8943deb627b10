"""The network of DDPM on CIFAR-10 under the sub-VP SDE, continuous times.

    python main.py --config configs/subvp/cifar10_ddpm_continuous.py --mode train

Published: ODE FID 3.56, NLL 3.05 bits/dim (Song et al. 2021, table 2).
Here: not run. 35,218,947 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c, "subvpsde")
    parts.ddpm(c)
    parts.cifar10(c)
    return parts.finish(c, variant)
