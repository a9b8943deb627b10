"""Kolmogorov flow for two CPU cores: less data, a smaller U-Net, preconditioned as in EDM.

    python -m tools.make_trajectories --config configs/kolmogorov/small.py
    python main.py --config configs/kolmogorov/small.py --mode train

The 32 trajectories of 192 states took 9 minutes beside a training run, on two cores that were half
as fast as when idle. The network was not trained in full. Scenarios of observations are variants,
as in configs/kolmogorov/small.py:extrapolation.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny, others are in `parts.VARIANTS`."""
    c = base.get_config()
    parts.cosine(c)
    parts.periodic_unet(c)
    parts.kolmogorov(c)
    parts.edm(c)
    s = c.simulation
    s.trajectories = 32
    s.states = 128
    s.resolution = 128
    c.data.dir = "data/kolmogorov_small"
    m = c.model
    m.nf = 32
    m.num_res_blocks = 2
    m.embedding_type = "fourier"
    m.ema_rate = 0.99
    m.ema_warmup = True
    t = c.training
    t.p_mean = -1.0
    t.p_std = 1.6
    t.batch_size = 8
    t.n_iters = 1200
    t.log_freq = 20
    t.eval_freq = 100
    t.snapshot_freq = 1200
    t.snapshot_freq_for_preemption = 250
    c.optim.lr = 1e-3
    c.optim.warmup = 50
    c.optim.schedule = "cosine"
    c.eval.likelihood_iterations = 1
    c.sampling.steps = 32
    c.sampling.n_steps_each = 4
    return parts.finish(c, variant)
