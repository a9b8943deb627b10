"""NCSN++ with EDM preconditioning under the sub-VP SDE on 5,000 real MNIST digits.

    python main.py --config configs/subvp/mnist.py --mode train

Hardware: two CPU cores. Expected result: see benchmarks/RESULTS.md.
"""

import ml_collections

from configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.vp(c, "subvpsde")
    parts.ncsnpp(c)
    parts.mnist(c)
    parts.edm(c)
    # In [-1, 1] everything is twice as large as in ve/mnist.
    c.model.sigma_data = 0.66
    c.training.p_mean = 0.7
    c.training.p_std = 1.4
    c.sampling.steps = 200
    return parts.finish(c, variant)
