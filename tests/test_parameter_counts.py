"""The parameters of the published configs: names, shapes and number, as score_sde has them.

The table has, for each config that score_sde could build, the number of parameters and the SHA-256
of the lines "name (shape)" of its Flax tree, sorted and joined by newlines.
"""

import hashlib
import importlib
import json
import math

import pytest

import golden
from scorax.weights.state_dicts import published_names
from slow import but_slow

TREES = json.loads((golden.FOLDER / "param_trees.json").read_text())


def published_shape(array):
    """A 1x1 convolution is a matrix here and has two more axes there."""
    return (1,) * (len(array.axes) - len(array.shape)) + array.shape


def test_every_buildable_config_is_in_the_table():
    assert len(TREES) == 28


QUICK = list(TREES)[::7]


@pytest.mark.parametrize("file", but_slow(TREES, QUICK.__contains__))
def test_parameters_are_those_of_the_published_network(file):
    module = importlib.import_module("scorax.configs." + file.removesuffix(".py").replace("/", "."))
    arrays = published_names(module.get_config()).values()
    assert sum(math.prod(a.shape) for a in arrays) == TREES[file]["count"]
    lines = sorted(f"{a.flax} {published_shape(a)}" for a in arrays)
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == TREES[file]["sha256"]
