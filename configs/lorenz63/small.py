"""Lorenz 63 for two CPU cores: one network for whole trajectories, preconditioned as in EDM.

python main.py --config configs/lorenz63/small.py --mode train
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.cosine(c)
    parts.dilated(c)
    parts.lorenz63(c)
    parts.edm(c)
    c.data.length = 65
    t = c.training
    t.p_mean = -0.7  # the noise of a transition is 0.02 of the range
    t.p_std = 2.0
    t.batch_size = 64
    t.n_iters = 9000
    t.n_jitted_steps = 20
    t.log_freq = 200
    t.eval_freq = 1000
    t.snapshot_freq = 9000
    t.snapshot_freq_for_preemption = 1000
    c.optim.lr = 2e-3
    c.optim.beta2 = 0.99
    c.optim.warmup = 200
    c.optim.schedule = "cosine"
    c.eval.likelihood_iterations = 1
    c.sampling.steps = 32
    c.sampling.n_steps_each = 16
    c.sampling.snr = 1.0
    c.sampling.corrector_min = 0.4
    c.sampling.corrector_max = 4.0
    return parts.finish(c, variant)
