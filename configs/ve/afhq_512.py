"""NCSN++ on AFHQ at 512 pixels (cats, dogs, wild animals) under the VE SDE.

    python main.py --config configs/ve/afhq_512.py --mode train

Trained elsewhere for 520,000 steps at batch 8 to 32; no FID was published. Here: not run.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp_pyramids(c)
    c.data.dataset = "afhq"
    c.data.image_size = 512
    c.training.batch_size = 32
    c.training.n_iters = 750_000
    c.training.reduce_mean = True
    c.model.nf = 16
    c.model.ch_mult = (1, 2, 4, 8, 16, 32, 32)
    c.model.num_res_blocks = 2
    c.model.num_scales = 2000
    c.model.dropout = 0.0
    c.model.ema_rate = 0.9999
    # As trained. It is the largest distance between two training images, but of images shrunk to
    # 256 pixels; distances grow with the side length, so 512 pixels ask for about 750: compute it
    # at the resolution you train at.
    c.model.sigma_max = 374.34
    c.eval.batch_size = 16
    c.eval.num_samples = 16
    return parts.finish(c, variant)
