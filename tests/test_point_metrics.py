"""Distances of point sets against published values, closed forms and SciPy."""

import numpy as np
import pytest
import scipy.stats

import golden
from scorax.metrics import points
from scorax.metrics.points import (
    gaussian_kernel,
    multiscale_kernel,
    squared_mmd,
    wasserstein,
    wasserstein_1d,
)

CASES = {case["kind"]: [] for case in golden.cases("metrics")}
for case in golden.cases("metrics"):
    CASES[case["kind"]].append(case)


@pytest.fixture(params=CASES["emd_mmd"], ids=lambda case: case["a"])
def published(request):
    z = golden.load("metrics")
    return request.param, z, z[request.param["a"]], z[request.param["b"]]


def test_published_wasserstein(published):
    case, z, a, b = published
    for order in (1, 2):
        np.testing.assert_allclose(wasserstein(a, b, order), z[case[f"w{order}"]], rtol=1e-12)


@pytest.mark.parametrize("block", [1, 100, 2**24])
def test_published_mmd(published, block, monkeypatch):
    monkeypatch.setattr(points, "BLOCK", block)
    case, z, a, b = published
    for width, key in case["mmd_rbf"].items():
        kernel = gaussian_kernel(float(width))
        found = [squared_mmd(a, b, kernel, unbiased) for unbiased in (False, True)]
        np.testing.assert_allclose(found, z[key], rtol=1e-9, atol=1e-15)
    found = squared_mmd(a, b, multiscale_kernel(), unbiased=False)
    np.testing.assert_allclose(found, z[case["mmd_multi"]], rtol=1e-12)


@pytest.mark.parametrize("case", CASES["wasserstein_1d_unequal"], ids=lambda case: case["a"])
def test_published_wasserstein_in_one_dimension(case):
    z = golden.load("metrics")
    np.testing.assert_allclose(wasserstein_1d(z[case["a"]], z[case["b"]]), z[case["out"]], 1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_wasserstein_of_a_shifted_set_is_the_shift(order):
    points = np.random.default_rng(0).standard_normal((50, 3))
    shift = np.array([3.0, 0.0, 4.0])
    shuffled = np.random.default_rng(1).permutation(points)
    assert wasserstein(points, shuffled, order) == 0
    assert wasserstein(points, shuffled + shift, order) == pytest.approx(5, rel=1e-12)


def test_wasserstein_of_normal_distributions():
    # Of N(m, s^2) and N(0, 1) in one dimension W2^2 = m^2 + (s - 1)^2.
    quantiles = scipy.stats.norm.ppf((np.arange(1000) + 0.5) / 1000)[:, None]
    found = wasserstein(quantiles, 2 + 3 * quantiles, 2)
    assert found == pytest.approx(np.sqrt(2**2 + 2**2), rel=0.01)


def test_wasserstein_agrees_in_one_dimension():
    a, b = np.random.default_rng(0).standard_normal((2, 40))
    assert wasserstein(a[:, None], b[:, None], 1) == pytest.approx(wasserstein_1d(a, b), rel=1e-12)
    assert wasserstein_1d([0.0, 2.0], [1.0]) == 1


def test_mmd_of_two_points():
    kernel, e = gaussian_kernel(1.0), np.exp(-0.5)
    assert squared_mmd([[0.0]], [[1.0]], kernel, unbiased=False) == pytest.approx(2 - 2 * e)
    # Pairs of one set: e; across: 1, e, e, 1.
    pair = [[0.0], [1.0]]
    assert squared_mmd(pair, pair, kernel, unbiased=False) == pytest.approx(0, abs=1e-15)
    assert squared_mmd(pair, pair, kernel) == pytest.approx(2 * e - (1 + e))


def test_one_array_may_be_both_sets():
    a = np.random.default_rng(0).standard_normal((9, 2))
    kernel = gaussian_kernel(1.0)
    assert squared_mmd(a, a, kernel) == squared_mmd(a, a.copy(), kernel)


def test_mmd_of_normal_distributions():
    # E k(x, y) of x - y ~ N(d, 2) and width 1: exp(-d^2 / 6) / sqrt(3).
    a, b = np.random.default_rng(0).standard_normal((2, 2000, 1))
    expected = 2 * (1 - np.exp(-(1.5**2) / 6)) / np.sqrt(3)
    assert squared_mmd(a, b + 1.5, gaussian_kernel(1.0)) == pytest.approx(expected, rel=0.05)
    assert squared_mmd(a, b, gaussian_kernel(1.0)) == pytest.approx(0, abs=2e-3)


def test_sets_that_cannot_be_compared():
    kernel = gaussian_kernel(1.0)
    with pytest.raises(ValueError, match="a has 2 and b has 3 dimensions"):
        wasserstein(np.zeros((4, 2)), np.zeros((4, 3)), 1)
    with pytest.raises(ValueError, match="Wasserstein-2 distance of 4 and 5 points"):
        wasserstein(np.zeros((4, 2)), np.zeros((5, 2)), 2)
    with pytest.raises(ValueError, match="Wasserstein-3 distance"):
        wasserstein(np.zeros((4, 2)), np.zeros((4, 2)), 3)
    with pytest.raises(ValueError, match="1 of 2 values of b are not finite"):
        squared_mmd(np.zeros((2, 1)), [[0.0], [np.nan]], kernel)
    with pytest.raises(ValueError, match="2 samples or more, not 1 and 2"):
        squared_mmd(np.zeros((1, 1)), np.zeros((2, 1)), kernel)
    with pytest.raises(ValueError, match=r"b of shape \(3, 1\) must have one axis"):
        wasserstein_1d(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="a of shape"):
        wasserstein_1d([], [1.0])


@pytest.mark.parametrize("width", [0.0, -1.0, np.nan])
def test_widths_that_make_no_kernel(width):
    with pytest.raises(ValueError, match="must be positive"):
        gaussian_kernel(width)
    with pytest.raises(ValueError, match="must be positive"):
        multiscale_kernel([1.0, width])
