"""Lorenz 63 for two CPU cores: the published windows and network, preconditioned as in EDM.

python main.py --config configs/lorenz63/small.py --mode train
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.cosine(c)
    parts.mlp(c)
    parts.lorenz63(c)
    parts.edm(c)
    c.data.length = 17
    c.model.nf = 256
    c.model.num_res_blocks = 5
    c.model.embedding_type = "fourier"
    c.model.ema_rate = 0.999
    t = c.training
    t.p_mean = -1.5  # the noise of a transition is 0.02 of the range
    t.p_std = 1.6
    t.batch_size = 256
    t.n_iters = 10_000
    t.n_jitted_steps = 20
    t.log_freq = 200
    t.eval_freq = 400
    t.snapshot_freq = 10_000
    t.snapshot_freq_for_preemption = 2000
    c.optim.lr = 1e-3
    c.optim.warmup = 200
    c.optim.schedule = "cosine"
    c.eval.likelihood_iterations = 1
    c.sampling.snr = 0.25
    c.sampling.steps = 32
    c.sampling.n_steps_each = 4
    return parts.finish(c, variant)
