"""The noise-conditional classifier of score_sde on CIFAR-10: a WRN-28-10 under the VE SDE.

    python main.py --config configs/classifier/cifar10.py --mode train

Network and noise levels are the published ones (Song et al. 2021, appendix I.1), 38,913,242
parameters. How it was trained is not published: flips and moves by up to 4 pixels follow
Zagoruyko & Komodakis 2016, the rest follows our score networks. Here: not run.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.cifar10(c)
    parts.classifier(c)
    c.data.random_shift = 4
    m = c.model
    m.name = "wideresnet"
    m.nf = 16
    m.ch_mult = (10, 20, 40)
    m.color_mean = (0.49139968, 0.48215841, 0.44653091)  # of CIFAR-10 in [0, 1]
    m.color_std = (0.24703223, 0.24348513, 0.26158784)
    c.training.n_iters = 200_000
    return parts.finish(c, variant)
