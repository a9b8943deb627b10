"""The Inception-v3 of FID against published features of weights made by rule."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden
from scorax.metrics import inception
from slow import but_slow

CASES = golden.cases("inception")


@pytest.fixture(scope="module")
def weights():
    """name -> array, as in the file of PyTorch; 24 million numbers."""
    z, arrays = golden.load("inception"), {}
    salt = golden.parse(z, "config")["salt"]
    for name, shape in golden.parse(z, "names"):
        n = np.random.default_rng(zlib.crc32((name + salt).encode())).standard_normal(shape)
        if name.endswith("bn.weight"):
            n = 1 + 0.1 * n
        elif name.endswith("bn.running_var"):
            n = 1 + 0.1 * np.abs(n)
        elif name.endswith(("bn.bias", "bn.running_mean", "fc.bias")):
            n = 0.1 * n
        else:
            n = n * np.sqrt(2 / np.prod(shape[1:]))
        arrays[name] = n.astype(np.float32)
    for name, values in golden.part(z, "weights_sample/").items():
        np.testing.assert_array_equal(arrays[name], values)
    return arrays


@pytest.fixture(scope="module")
def variables(weights):
    return inception.from_torch(weights)


@pytest.fixture(scope="module")
def apply():
    return jax.jit(inception.InceptionV3().apply)


@pytest.mark.parametrize(
    "case",
    but_slow(CASES, CASES[-1].__eq__, ids=lambda case: f"{case['image']} {case['size']}"),
)
def test_published_features(case, variables, apply):
    z = golden.load("inception")
    found = apply(variables, golden.nhwc(z[case["image"]]))
    assert sorted(found) == sorted(golden.parse(z, "config")["features"])
    for name, features in found.items():
        golden.assert_golden(features, z, f"{case['out']}/{name}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['image']} {case['size']}")
def test_published_resizing(case):
    z = golden.load("inception")
    resized = inception.resize(jnp.asarray(golden.nhwc(z[case["image"]]), jnp.float32))
    expected = golden.nhwc(z[f"{case['out']}/resized_every_13_f64"])
    # Positions are computed in float32, 299 of them: 255 times their rounding is what may differ.
    np.testing.assert_allclose(resized[:, ::13, ::13], expected, rtol=0, atol=255 * 299 * 2e-7)


def test_resizing_by_hand():
    x = jnp.array([[0.0, 10.0], [20.0, 30.0]])[None, :, :, None]
    # Output pixels read the positions 0, .5, 1 and 1.5, beyond the last: not 0, 1/3, 2/3 and 1.
    expected = np.add.outer([0, 10, 20, 20], [0, 5, 10, 10])
    np.testing.assert_array_equal(inception.resize(x, 4)[0, :, :, 0], expected)
    np.testing.assert_array_equal(inception.resize(x, 1)[0, :, :, 0], [[0]])


def test_average_pool_leaves_out_the_padding():
    pooled = inception.average_pool(jnp.ones((1, 4, 5, 2)))
    np.testing.assert_allclose(pooled, 1, rtol=1e-6)


def test_counts_of_batches_are_passed_over(weights, variables):
    again = inception.from_torch(weights | {"fc.num_batches_tracked": np.int64(3)})
    assert jax.tree.structure(again) == jax.tree.structure(variables)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fc.bias": None}, "fc.bias is missing"),
        ({"Mixed_6a.branch3x3.bn.running_var": None}, "Mixed_6a.branch3x3.bn.running_var is miss"),
        ({"fc.weight": np.zeros((1000, 2048))}, r"fc.weight has the shape \(1000, 2048\)"),
        ({"AuxLogits.fc.bias": np.zeros(1000)}, "AuxLogits.fc.bias belongs to no layer"),
        ({"oddity": np.zeros(())}, "oddity belongs to no layer"),
    ],
)
def test_other_weights_are_refused(weights, change, message):
    changed = {name: x for name, x in (weights | change).items() if x is not None}
    with pytest.raises(ValueError, match=message):
        inception.from_torch(changed)
