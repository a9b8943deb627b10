"""The small CNN of a course project that denoises CIFAR-10 by Langevin dynamics.

    python main.py --config configs/denoising/cifar10_langevin.py --mode train
    python main.py --config configs/denoising/cifar10_langevin.py --mode eval

The network knows the score at noise 0.1 alone; of images in [0, 1] with that noise, PSNR 20 dB, the
second command reports what Langevin dynamics and Tweedie's formula make. The project reports 26.61
dB for its Langevin dynamics and 27.97 dB for a two-layer U-Net trained to regress.
Batches, optimizer and the 50 epochs follow the project. Here: not run. 79,107 parameters.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.cifar10(c)
    parts.denoiser(c)
    c.training.n_iters = 19_550  # 50 epochs
    c.training.snapshot_freq = 19_550
    c.training.snapshot_freq_for_preemption = 1955
    return parts.finish(c, variant)
