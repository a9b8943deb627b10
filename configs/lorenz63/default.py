"""Lorenz 63 as in score-based data assimilation (Rozet & Louppe 2023): the local score network.

    python main.py --config configs/lorenz63/default.py --mode train

A window of 5 states, the cosine schedule, 4,096 epochs of one window of each of 819 trajectories.
The published learning rate falls linearly, ours as a cosine. Not run in full.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.cosine(c)
    parts.mlp(c)
    parts.lorenz63(c)
    c.model.nf = 256
    c.model.num_res_blocks = 5
    c.training.batch_size = 64
    c.training.n_iters = 4096 * 13
    c.training.snapshot_freq = 4096
    c.optim.lr = 1e-3
    c.optim.weight_decay = 1e-3
    c.optim.warmup = 0
    c.optim.schedule = "cosine"
    c.sampling.snr = 0.25
    return parts.finish(c, variant)
