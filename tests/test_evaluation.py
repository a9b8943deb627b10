"""The Fréchet distance against closed forms and SciPy's matrix square root."""

import numpy as np
import pytest
import scipy.linalg

from evaluation import feature_statistics, frechet_distance

D = 6


def random_covariance(rng, rank=D):
    """A (D, D) covariance of the given rank."""
    factor = rng.standard_normal((D, rank))
    return factor @ factor.T / rank


def random_rotation(rng):
    """A (D, D) orthogonal matrix."""
    return np.linalg.qr(rng.standard_normal((D, D)))[0]


def test_feature_statistics_of_three_points():
    mean, cov = feature_statistics([[0.0, 1.0], [2.0, 1.0], [4.0, 7.0]])
    np.testing.assert_allclose(mean, [2.0, 3.0])
    np.testing.assert_allclose(cov, [[4.0, 6.0], [6.0, 12.0]])
    assert mean.dtype == cov.dtype == np.float64


def test_feature_statistics_keeps_a_small_spread_around_a_large_float32_mean():
    features = np.array([[4095.0], [4096.0], [4097.0]], np.float32)
    _, cov = feature_statistics(features)
    np.testing.assert_allclose(cov, [[1.0]])


def test_one_dimension():
    distance = frechet_distance([1.0], [[4.0]], [3.0], [[9.0]])
    np.testing.assert_allclose(distance, (1 - 3) ** 2 + (2 - 3) ** 2)


def test_commuting_covariances():
    rng = np.random.default_rng(0)
    q = random_rotation(rng)
    a, b = rng.uniform(0.5, 2.0, (2, D))
    mu_a, mu_b = rng.standard_normal((2, D))
    expected = np.sum((mu_a - mu_b) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    distance = frechet_distance(mu_a, (q * a) @ q.T, mu_b, (q * b) @ q.T)
    np.testing.assert_allclose(distance, expected, rtol=1e-12)


def test_covariances_in_orthogonal_planes_share_nothing():
    rng = np.random.default_rng(1)
    q = random_rotation(rng)
    cov_a = q[:, :2] @ np.diag([1.0, 2.0]) @ q[:, :2].T
    cov_b = q[:, 2:5] @ np.diag([3.0, 4.0, 5.0]) @ q[:, 2:5].T
    zero = np.zeros(D)
    np.testing.assert_allclose(frechet_distance(zero, cov_a, zero, cov_b), 15.0, rtol=1e-12)


@pytest.mark.parametrize("rank", [1, 3, D])
def test_equal_gaussians_have_no_distance(rank):
    rng = np.random.default_rng(2)
    mu, cov = rng.standard_normal(D), random_covariance(rng, rank)
    assert frechet_distance(mu, cov, mu, cov) == pytest.approx(0.0, abs=1e-12)


def test_point_masses():
    zero = np.zeros((D, D))
    cov = random_covariance(np.random.default_rng(3))
    mu = np.arange(float(D))
    assert frechet_distance(mu, zero, 0 * mu, zero) == 55.0
    np.testing.assert_allclose(frechet_distance(mu, cov, mu, zero), np.trace(cov))


@pytest.mark.parametrize("seed", range(3))
def test_against_the_matrix_square_root_of_scipy(seed):
    rng = np.random.default_rng(seed)
    cov_a, cov_b = random_covariance(rng), random_covariance(rng)
    mu_a, mu_b = rng.standard_normal((2, D))
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = np.sum((mu_a - mu_b) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    np.testing.assert_allclose(frechet_distance(mu_a, cov_a, mu_b, cov_b), expected, rtol=1e-9)


@pytest.mark.parametrize("rank_a", [2, D])
@pytest.mark.parametrize("rank_b", [3, D])
def test_symmetric_in_its_arguments(rank_a, rank_b):
    rng = np.random.default_rng(4)
    a = rng.standard_normal(D), random_covariance(rng, rank_a)
    b = rng.standard_normal(D), random_covariance(rng, rank_b)
    np.testing.assert_allclose(frechet_distance(*a, *b), frechet_distance(*b, *a), rtol=1e-12)


@pytest.mark.parametrize("rank", [2, 5])
def test_singular_covariances_are_the_limit_of_regular_ones(rank):
    rng = np.random.default_rng(5)
    mu = np.zeros(D)
    cov_a, cov_b = random_covariance(rng, rank), random_covariance(rng, rank)
    exact = frechet_distance(mu, cov_a, mu, cov_b)
    offset = 1e-10 * np.eye(D)
    near = frechet_distance(mu, cov_a + offset, mu, cov_b + offset)
    np.testing.assert_allclose(near, exact, atol=1e-4)


def test_scale_and_rotation():
    rng = np.random.default_rng(6)
    q = random_rotation(rng)
    mu_a, mu_b = rng.standard_normal((2, D))
    cov_a, cov_b = random_covariance(rng, 3), random_covariance(rng)
    distance = frechet_distance(mu_a, cov_a, mu_b, cov_b)
    turned = frechet_distance(3 * q @ mu_a, 9 * q @ cov_a @ q.T, 3 * q @ mu_b, 9 * q @ cov_b @ q.T)
    np.testing.assert_allclose(turned, 9 * distance, rtol=1e-10)


def test_features_that_cannot_be_used():
    with pytest.raises(ValueError, match="2 samples or more, not 1"):
        feature_statistics(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"shape \(3,\) must have two axes"):
        feature_statistics(np.zeros(3))
    with pytest.raises(ValueError, match="1 of 4 values of features are not finite"):
        feature_statistics([[0.0, 1.0], [np.nan, 2.0]])


def test_gaussians_that_cannot_be_compared():
    one, two = (np.zeros(1), np.eye(1)), (np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="mu_a has 1 dimensions and mu_b has 2"):
        frechet_distance(*one, *two)
    with pytest.raises(ValueError, match=r"cov_b of shape \(1, 1\)"):
        frechet_distance(*two, np.zeros(2), np.eye(1))
    with pytest.raises(ValueError, match="values of mu_a are not finite"):
        frechet_distance([np.nan, 0.0], np.eye(2), *two)
    with pytest.raises(ValueError, match="values of cov_b are not finite"):
        frechet_distance(*two, np.zeros(2), np.full((2, 2), np.inf))
    with pytest.raises(ValueError, match="cov_a is not symmetric"):
        frechet_distance(np.zeros(2), [[1.0, 0.5], [0.0, 1.0]], *two)
    with pytest.raises(ValueError, match="cov_a has the eigenvalue -1"):
        frechet_distance(np.zeros(2), np.diag([1.0, -1.0]), *two)
