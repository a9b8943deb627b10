"""DDPM on CIFAR-10 with a network that is not told the noise level.

    python main.py --config configs/vp/ddpm/cifar10_unconditional.py --mode train

Here: not run. 32,329,347 parameters.
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
    c.model.conditional = False
    c.sampling.predictor = "ancestral_sampling"
    return parts.finish(c, variant)
