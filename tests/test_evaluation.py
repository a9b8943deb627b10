"""Metrics of features against published values, closed forms and SciPy's matrix square root."""

import numpy as np
import pytest
import scipy.linalg

import golden
from scorax.metrics.feature_sets import (
    METRICS,
    Features,
    Moments,
    Statistics,
    feature_statistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    polynomial_kernel,
)
from scorax.metrics.points import squared_mmd

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


def of_kind(kind):
    return [case for case in golden.cases("metrics") if case["kind"] == kind]


# The Fréchet distance of features


@pytest.mark.parametrize("case", of_kind("fid"), ids=lambda case: case["out"])
def test_published_fid(case):
    z = golden.load("metrics")
    moments = [feature_statistics(z[case[side]]) for side in "ab"]
    name = case["out"].removesuffix("_f64")
    for side, (mean, cov) in zip("ab", moments, strict=True):
        np.testing.assert_allclose(mean, z[f"{name}_mu_{side}_f64"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(cov, z[f"{name}_cov_{side}_f64"], rtol=0, atol=1e-12)
    found = frechet_distance(*moments[0], *moments[1])
    # The published value of singular covariances is rounded more: the next test has them exactly.
    np.testing.assert_allclose(found, z[case["out"]], 1e-7 if case["rank_deficient"] else 1e-10)


@pytest.mark.parametrize("case", of_kind("fid"), ids=lambda case: case["out"])
def test_fid_without_covariances(case):
    # tr (S_a S_b)^(1/2) is the sum of the singular values of X_a X_b^T, X centred over sqrt(n - 1).
    a, b = (golden.load("metrics")[case[side]].astype(np.float64) for side in "ab")
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    trace = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) - 2 * trace
    expected += sum(np.sum(x**2) for x in centred)
    found = frechet_distance(*feature_statistics(a), *feature_statistics(b))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("parts", [[300], [1, 299], [100, 3, 197], [1] * 300])
def test_moments_do_not_depend_on_the_parts(parts):
    features = 1e4 + np.random.default_rng(0).standard_normal((300, 4))
    moments = Moments()
    for part in np.split(features, np.cumsum(parts)[:-1]):
        moments.add(part)
    mean, cov = moments.statistics()
    assert moments.num == 300
    np.testing.assert_allclose(mean, np.mean(features, 0), rtol=1e-14)
    np.testing.assert_allclose(cov, np.cov(features.T), rtol=0, atol=1e-10)


def test_moments_that_cannot_be():
    with pytest.raises(ValueError, match="2 samples or more, not 0"):
        Moments().statistics()
    with pytest.raises(ValueError, match=r"features of shape \(0, 3\) must have two axes"):
        Moments().add(np.zeros((0, 3)))


# KID


@pytest.mark.parametrize("case", of_kind("kid"), ids=lambda case: case["mean"])
def test_published_kid(case):
    z = golden.load("metrics")
    a, b = z[case["a"]], z[case["b"]]
    values = kernel_distance(a, b, (z[case["subsets_a"]], z[case["subsets_b"]]))
    np.testing.assert_allclose(values, z[case["per_subset"]], rtol=1e-10)
    np.testing.assert_allclose(values.mean(), z[case["mean"]], rtol=1e-10)
    np.testing.assert_allclose(values.std(), z[case["std"]], rtol=1e-10)
    np.testing.assert_allclose(squared_mmd(a, b, polynomial_kernel), z[case["full"]], rtol=1e-10)


def test_kid_of_one_dimension():
    # Kernel (xy + 1)^3; a: pair (0, 2) -> 1; b: pair (1, 1) -> 8; across: 1, 1, 27, 27.
    assert squared_mmd([[0.0], [2.0]], [[1.0], [1.0]], polynomial_kernel) == 1 + 8 - 2 * 14
    assert squared_mmd([[0.0], [2.0]], [[1.0], [1.0]], polynomial_kernel, unbiased=False) == (
        (1 + 1 + 1 + 125) / 4 + 8 - 2 * 14
    )


def test_kid_draws_without_repetition_and_by_seed():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 30, 5))
    draw = lambda seed: kernel_distance(a, b, num_subsets=4, subset_size=20, seed=seed)  # noqa: E731
    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.isclose(draw(3), draw(4)).any()
    assert len(set(draw(3))) == 4
    whole = kernel_distance(a, b, num_subsets=2, subset_size=30)
    np.testing.assert_allclose(whole, squared_mmd(a, b, polynomial_kernel), rtol=1e-12)


def test_kid_of_equal_distributions_is_zero_within_its_error():
    a, b = np.random.default_rng(1).standard_normal((2, 2000, 8))
    values = kernel_distance(a, b, num_subsets=50, subset_size=200)
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(10)  # 10 subsets do not overlap
    assert kernel_distance(a, b + 0.5, num_subsets=5, subset_size=200).min() > 0.1


@pytest.mark.parametrize("subsets, size", [(0, 10), (3, 1), (3, 21)])
def test_subsets_that_cannot_be(subsets, size):
    a, b = np.zeros((20, 2)), np.zeros((30, 2))
    with pytest.raises(ValueError, match=f"{subsets} subsets of {size} of 20 and 30 samples"):
        kernel_distance(a, b, num_subsets=subsets, subset_size=size)


@pytest.mark.parametrize("rows", [[[0, 20]], [[-1, 0]], [0, 1], [[0, 1], [1, 2]]])
def test_subsets_that_are_not_there(rows):
    a, b = np.zeros((20, 2)), np.zeros((30, 2))
    with pytest.raises(ValueError, match=r"are no rows of the (20|30) samples of [ab]"):
        kernel_distance(a, b, (rows, [[0, 1]]))


# Inception score


@pytest.mark.parametrize("case", of_kind("inception_score"), ids=lambda case: case["out"])
def test_published_inception_score(case):
    z = golden.load("metrics")
    score = inception_score(z[case["logits"]], case["splits"])
    np.testing.assert_allclose(score, z[case["out"]], rtol=1e-10, atol=1e-12)


def test_inception_score_lies_between_one_and_the_number_of_classes():
    certain = 1000.0 * np.eye(7)[np.arange(70) % 7]
    np.testing.assert_allclose(inception_score(certain), (7, 0), atol=1e-12)
    np.testing.assert_allclose(inception_score(np.ones((70, 7))), (1, 0), atol=1e-12)


def test_parts_of_the_inception_score_are_consecutive():
    # 5 rows in 2 parts: rows 0-1 of one class (score 1) and rows 2-4 of three (score 3).
    logits = 1000.0 * np.eye(4)[[0, 0, 1, 2, 3]]
    np.testing.assert_allclose(inception_score(logits, 2), (2, 1), atol=1e-12)


def test_logits_that_cannot_be_scored():
    with pytest.raises(ValueError, match="3 samples cannot be split into 4 parts"):
        inception_score(np.zeros((3, 2)), 4)
    with pytest.raises(ValueError, match="1 of 6 values of logits are not finite"):
        inception_score([[0.0, 1.0], [0.0, np.inf], [0.0, 0.0]])


# The table


def statistics_of(features, logits=None, num=None):
    return Statistics(*feature_statistics(features), num or len(features), features, logits)


@pytest.fixture(scope="module")
def normal():
    """Two independent draws of a standard normal distribution: (2, 250, 3)."""
    return np.random.default_rng(7).standard_normal((2, 250, 3))


# metric -> what is known of it for samples that are the reference images themselves
OF_COPIES = {
    "fd": {"fd": 0},
    "kid": {},  # unbiased, so it is below 0 by what a sample's likeness to itself adds
    "inception_score": {"inception_score": 1, "inception_score_std": 0},
    "precision_recall": {"precision": 1, "recall": 1},
    "density_coverage": {"coverage": 1},
    "memorization": {"near_copies": 1, "nearest_distance": 0},
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_copies_and_of_what_is_far_away(name, normal):
    a, b = normal
    logits = np.zeros((len(a), 4))
    reference = statistics_of(b, logits)
    copies = METRICS[name](Features(b, logits), reference)
    far = METRICS[name](Features(a + 50, logits), reference)
    assert all(isinstance(value, int | float) for value in copies.values())
    for key, value in OF_COPIES.get(name, {}).items():
        assert copies[key] == pytest.approx(value, abs=1e-6), key
    worst = {"precision": 0, "recall": 0, "density": 0, "coverage": 0, "near_copies": 0}
    for key in far.keys() & worst.keys():
        assert far[key] == 0
    if name == "fd":
        assert far["fd"] == pytest.approx(3 * 50**2, rel=0.01)
    if name == "kid":
        assert copies["kid"] < 0 < 1000 < far["kid"] and far["kid_subset_size"] == 250


def test_samples_like_the_reference(normal):
    a, b = normal
    reference = statistics_of(b)
    for name, key, low, high in (
        ("fd", "fd", 0, 0.17),  # mean .05, standard deviation .03
        ("precision_recall", "precision", 0.8, 1),
        ("precision_recall", "recall", 0.8, 1),
        ("density_coverage", "density", 0.9, 1.1),
        ("density_coverage", "coverage", 0.9, 1),
        ("memorization", "near_copies", 0, 0.1),
    ):
        assert low <= METRICS[name](Features(a), reference)[key] <= high, key


@pytest.mark.parametrize(
    "name", ["kid", "precision_recall", "density_coverage", "memorization", "inception_score"]
)
def test_metrics_say_what_they_miss(name, normal):
    reference = Statistics(np.zeros(3), np.eye(3), 250)
    with pytest.raises(ValueError, match=f"{name} needs .* which are not there"):
        METRICS[name](Features(normal[0]), reference)


def test_memorization_needs_all_images(normal):
    reference = statistics_of(normal[1], num=5000)
    with pytest.raises(ValueError, match="all 5000 reference images, not of 250"):
        METRICS["memorization"](Features(normal[0]), reference)
