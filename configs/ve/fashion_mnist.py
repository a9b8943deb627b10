"""NCSN++ with EDM preconditioning under the VE SDE on Fashion-MNIST.

    python main.py --config configs/ve/fashion_mnist.py --mode train

Needs the idx files of the data set in data/fashion-mnist (or --config.data.dir=DIR).
Here: not run.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    parts.mnist(c)
    parts.edm(c)
    c.data.dataset = "fashion_mnist"
    c.guidance.classifier = ""  # the one of digits knows no clothes
    c.eval.likelihood = c.eval.known_likelihood = "mmps"  # of any data, which "pigdm" is not
    c.model.sigma_max = 23.0  # the largest distance between two training images is 22.5
    c.model.sigma_data = 0.45
    return parts.finish(c, variant)
