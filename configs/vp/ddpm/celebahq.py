"""DDPM on CelebA-HQ at 256 pixels.

    python main.py --config configs/vp/ddpm/celebahq.py --mode train

Here: not run. 111,569,923 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c)
    parts.ddpm_256(c)
    parts.discrete(c)
    parts.pixels_256(c, "celebahq")
    c.sampling.predictor = "ancestral_sampling"
    return parts.finish(c, variant)
