"""Kolmogorov flow as in score-based data assimilation (Rozet & Louppe 2023), at full size.

    python -m tools.make_trajectories --config configs/kolmogorov/default.py
    python main.py --config configs/kolmogorov/default.py --mode train

Windows of 5 states of 64x64, a U-Net of 96, 192 and 384 channels, 4,096 epochs of one window of
each of 819 trajectories. The published learning rate falls linearly, ours as a cosine. Scenarios of
observations are variants, as in configs/kolmogorov/default.py:extrapolation. Not run.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny, others are in `parts.VARIANTS`."""
    c = base.get_config()
    parts.cosine(c)
    parts.periodic_unet(c)
    parts.kolmogorov(c)
    c.training.batch_size = 32
    c.training.n_iters = 4096 * 26
    c.training.snapshot_freq = 10_000
    c.training.snapshot_freq_for_preemption = 2000
    c.optim.lr = 2e-4
    c.optim.weight_decay = 1e-3
    c.optim.warmup = 0
    c.optim.schedule = "cosine"
    return parts.finish(c, variant)
