"""The network of edm/mnist, told which digit, for classifier-free guidance.

    python main.py --config configs/edm/mnist_conditional.py --mode train
    python main.py --config configs/edm/mnist_conditional.py --mode eval

In training one digit in ten hides its class, so that one network knows both scores.
"""

import ml_collections

from configs import parts
from configs.edm import mnist


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = mnist.get_config()
    c.model.num_classes = 10
    c.guidance.classifier = ""  # the network guides itself
    c.guidance.weight = 1.5
    c.eval.tasks = ("class_conditional",)
    return parts.finish(c, variant)
