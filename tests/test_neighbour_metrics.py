"""Metrics by nearest neighbours against published values and sets made by hand."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import golden
from scorax.metrics import points
from scorax.metrics.neighbours import (
    memorization,
    nearest_distances,
    precision_recall_density_coverage,
)

KIND = "precision_recall_density_coverage"
CASES = [case for case in golden.cases("metrics") if case["kind"] == KIND]


@pytest.fixture(params=[50, 2**24])
def block(request, monkeypatch):
    """Few pairs at a time, or all."""
    monkeypatch.setattr(points, "BLOCK", request.param)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["out"])
def test_published(case, block):
    z = golden.load("metrics")
    found = precision_recall_density_coverage(z[case["generated"]], z[case["real"]], case["k"])
    values = [getattr(found, name) for name in case["order"]]
    np.testing.assert_allclose(values, z[case["out"]], rtol=1e-12)


def test_by_hand():
    # Radii with k = 1 are 1, 1, 2 of the real points, and 2.5, 2.5 of the generated ones.
    real, generated = [[0.0], [1.0], [3.0]], [[0.5], [3.0]]
    found = precision_recall_density_coverage(generated, real, 1)
    assert found.precision == 1 and found.coverage == 1
    assert found.recall == 1  # 0 and 1 are near .5, 3 is a generated point
    assert found.density == (2 + 1) / 2  # .5 in two balls; 3 in its own, on the edge of no other
    found = precision_recall_density_coverage([[0.5], [9.0]], real, 1)
    assert found == (1 / 2, 1, 2 / 2, 2 / 3)


def test_equal_sets_and_sets_far_apart(block):
    x = np.random.default_rng(0).standard_normal((40, 3))
    same = precision_recall_density_coverage(x, x, 3)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert 1 - 1e-9 <= same.density <= 4 / 3 + 1e-9  # 3 balls, and a 4th whose edge it is on
    assert precision_recall_density_coverage(x + 100, x, 3) == (0, 0, 0, 0)


def test_a_lost_mode_costs_recall_and_an_invented_one_precision():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((200, 2)), 100 + rng.standard_normal((200, 2))
    again = rng.standard_normal((200, 2))
    lost = precision_recall_density_coverage(again, np.concatenate([a, b]), 3)
    assert lost.precision > 0.85 and 0.4 < lost.recall < 0.5 and lost.coverage < 0.5
    invented = precision_recall_density_coverage(np.concatenate([again, b]), a, 3)
    assert invented.recall > 0.85 and 0.4 < invented.precision < 0.5


@pytest.mark.parametrize("k, generated, real", [(0, 5, 5), (5, 5, 9), (5, 9, 5)])
def test_neighbours_that_are_not_there(k, generated, real):
    with pytest.raises(ValueError, match=f"k={k} of {generated} generated and {real} real"):
        precision_recall_density_coverage(np.zeros((generated, 2)), np.zeros((real, 2)), k)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_nearest_distances(block, k):
    rng = np.random.default_rng(0)
    x, others = rng.standard_normal((6, 5)), rng.standard_normal((23, 5))
    expected = np.sort(cdist(x, others))[:, :k]
    np.testing.assert_allclose(nearest_distances(x, others, k), expected, rtol=1e-9)


def test_nearest_distances_of_images():
    others = np.zeros((3, 4, 4, 1), np.uint8)
    others[1], others[2] = 100, 255
    np.testing.assert_allclose(
        nearest_distances(others[:1] + 90, others, 3), [[40, 360, 660]], rtol=1e-12
    )
    with pytest.raises(ValueError, match="no 4 nearest of 3 samples"):
        nearest_distances(others, others, 4)
    with pytest.raises(ValueError, match="x has 16 and others has 4 dimensions"):
        nearest_distances(others, others[:, :2, :2])


@pytest.fixture(scope="module")
def draws():
    """Training, held-out and generated sets of one distribution."""
    return np.random.default_rng(0).standard_normal((3, 500, 20))


def test_samples_of_the_distribution_are_no_copies(draws):
    training, held_out, samples = draws
    found = memorization(samples, training, held_out)
    assert found["near_copies"] == found["near_copies_held_out"] == 0
    assert abs(found["copying_z"]) < 3
    assert found["nearest_distance"] == pytest.approx(found["nearest_distance_held_out"], rel=0.05)


@pytest.mark.parametrize("noise, flagged", [(0.0, True), (0.1, True), (0.6, False)])
def test_copies_are_found(draws, noise, flagged):
    training, held_out, samples = draws
    copies = samples.copy()
    copies[:100] = training[:100] + noise * samples[:100]
    found = memorization(copies, training, held_out)
    assert found["near_copies"] == (0.2 if flagged else 0)  # at noise .6 too far for the ratio
    assert found["copying_z"] < -3  # but the distances are not those of held-out images
    assert memorization(copies, training)["near_copies"] == found["near_copies"]


def test_copying_in_standard_deviations():
    # Distances 1, 2 of the samples and 3, 4, 5 held out: U = 0, mean 3, variance 6 * 6 / 12.
    found = memorization([[1.0], [2.0]], [[0.0], [-90.0]], [[3.0], [4.0], [5.0]])
    assert found["copying_z"] == pytest.approx(-3 / np.sqrt(3))
    mirrored = memorization([[3.0], [4.0], [5.0]], [[0.0], [-90.0]], [[1.0], [2.0]])
    assert mirrored["copying_z"] == pytest.approx(3 / np.sqrt(3))
