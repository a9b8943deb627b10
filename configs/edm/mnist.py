"""NCSN++ as in EDM (Karras et al. 2022) on 5,000 real MNIST digits, sampled in 35 evaluations.

    python main.py --config configs/edm/mnist.py --mode train

edm/mnist_conditional is given the digit. The noise levels between
0.002 and 32, their mean and sigma_data suit these digits in [-1, 1]; EDM's own are in
edm/cifar10. Network and training are as in ve/mnist, which takes 11 minutes on two CPU
cores. Here: not run in full, but edm/mnist_conditional was.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    c.data.centered = True
    parts.mnist(c)
    parts.edm(c)
    parts.heun(c)
    c.model.sigma_min = 0.002
    return parts.finish(c, variant)
