"""DDPM++ on CIFAR-10 under the VP SDE, trained as DDPM is, on 1,000 noise levels.

    python main.py --config configs/vp/cifar10_ddpmpp.py --mode train

Published: FID 2.78, IS 9.64 (Song et al. 2021, table 3).
Here: not run. 61,804,419 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c)
    parts.ddpmpp(c)
    parts.discrete(c)
    parts.cifar10(c)
    c.sampling.predictor = "ancestral_sampling"
    return parts.finish(c, variant)
