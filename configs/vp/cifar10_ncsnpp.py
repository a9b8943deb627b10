"""NCSN++ on CIFAR-10 under the VP SDE, trained as DDPM is, on 1,000 noise levels.

    python main.py --config configs/vp/cifar10_ncsnpp.py --mode train

Here: not run. 62,693,251 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c)
    parts.ncsnpp_vp(c)
    parts.discrete(c)
    parts.cifar10(c)
    c.sampling.predictor = "reverse_diffusion"
    return parts.finish(c, variant)
