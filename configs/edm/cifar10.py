"""DDPM++ on CIFAR-10 as in EDM: preconditioning, loss and sampler of Karras et al. 2022.

    python main.py --config configs/edm/cifar10.py --mode train

Published: FID 1.97 (Karras et al. 2022, abstract, 35 evaluations); with classes 1.79, for which
--config.model.num_classes=10 --config.model.label_dropout=0. Of the augmentation of images behind
both numbers only the mirroring is here.
Here: not run. 55,732,739 parameters, as published but for the 1,152 that see the augmentation.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ddpmpp(c)
    parts.cifar10(c)
    parts.edm(c)
    parts.heun(c)
    c.data.centered = True
    c.model.sigma_min, c.model.sigma_max = 0.002, 80.0
    c.model.ch_mult = (2, 2, 2)
    c.model.dropout = 0.13
    c.training.batch_size = 512
    c.training.n_iters = 390_625  # 200 million images
    c.model.ema_rate = 0.5 ** (512 / 500_000)  # half-life of 500,000 images, shorter at first
    c.model.ema_warmup = True
    c.optim.lr = 1e-3
    c.optim.warmup = 19_531  # 10 million images
    c.optim.grad_clip = -1.0
    return parts.finish(c, variant)
