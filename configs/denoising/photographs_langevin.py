"""The small denoising CNN of denoising/cifar10_langevin on photographs that need no download.

    python main.py --config configs/denoising/photographs_langevin.py --mode train
    python main.py --config configs/denoising/photographs_langevin.py --mode eval

Trains on 1,206 tiles of four photographs and is measured on 256 of two others, with smaller batches
and larger steps than cifar10_langevin's. 1,000 steps took 15 minutes on two cores that others kept
busy. PSNR (SSIM): noisy 20.00 dB (.296), Langevin 28.27 (.709), Tweedie 28.84 (.740).
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.photographs(c)
    parts.offline_denoiser(c)
    return parts.finish(c, variant)
