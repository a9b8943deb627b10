"""NCSNv2 on LSUN bedrooms at 128 pixels.

    python main.py --config configs/ve/ncsnv2/bedroom.py --mode train

Here: not run. 83,445,379 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnv2(c, "ncsnv2_128")
    parts.pixels_256(c, "lsun", "bedroom")
    c.data.image_size = 128
    c.training.batch_size = 128
    c.model.sigma_max = 190.0
    c.model.num_scales = 1086
    c.model.ema_rate = 0.9999
    c.sampling.n_steps_each = 3
    c.sampling.snr = 0.095
    return parts.finish(c, variant)
