"""Guidance against a mixture of Gaussians, whose scores and class probabilities are known."""

import functools
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from oracles import log_joint, mixture_score, part_scores
from scorax.conditioning.guidance import (
    WEIGHTS,
    Constant,
    Interval,
    Linear,
    change_range,
    classifier_free_guidance,
    classifier_guidance,
    get_weight_fn,
)
from scorax.configs import base
from scorax.controllable_generation import get_pc_conditional_sampler
from scorax.sampling import CORRECTORS, PREDICTORS
from scorax.sde_lib import SDES, VESDE, VPSDE
from scorax.utils.arrays import batch_mul

# Three classes in the plane, each a Gaussian.
MEANS = np.array([[1.0, 0.5], [-0.5, 1.5], [0.0, -1.0]])
VARIANCES = np.array([0.1, 0.5, 0.3])
SPREADS = np.stack([VARIANCES] * 2, 1)
PRIOR = np.array([0.5, 0.2, 0.3])
LABELS = np.array([0, 1, 2, 2, 1, 0, 1, 2])
TIMES = np.array([0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0])


def class_densities(x, mu, sigma):
    """log p_k + log p_t(x | k) of x: (B, 2), for mu and sigma: (B,) -> (B, K)."""
    return log_joint(x, mu, sigma, PRIOR, MEANS, SPREADS)


def classifier(x, sigma):
    """Logits of the exact class probabilities of data with noise sigma added."""
    return class_densities(x, jnp.ones_like(sigma), sigma)


def class_scores(sde, x, t):
    """The score of every class: (B, K, 2)."""
    return part_scores(x, *sde.marginal_coeffs(t), MEANS, SPREADS)


def whole_score(sde):
    """The score of all classes together."""
    return mixture_score(sde, PRIOR, MEANS, SPREADS)


def score_of(sde):
    """The score of a network that is told the class, 3 for none."""

    def of_labels(labels):
        def score_fn(x, t):
            of_class = jnp.take_along_axis(class_scores(sde, x, t), labels[:, None, None] % 3, 1)
            return jnp.where(labels[:, None] == 3, whole_score(sde)(x, t), of_class[:, 0])

        return score_fn

    return of_labels


def states(sde):
    """Points where the process may be at each time, and the times."""
    t = jnp.asarray(TIMES)
    mu, sigma = sde.marginal_coeffs(t)
    z = np.random.default_rng(0).standard_normal((2, len(TIMES), 2))
    return batch_mul(mu, MEANS[LABELS[::-1]] + z[0]) + batch_mul(sigma, z[1]), t


def close(actual, expected):
    scale = np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_array_less(np.abs(actual - expected) / scale, 1e-5)


@pytest.fixture(autouse=True)
def double_precision():
    """The oracle itself has errors of 1e-5 in float32, where the noise is small."""
    with jax.enable_x64(True):
        yield


all_sdes = pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=list(SDES))
both_guidances = pytest.mark.parametrize("kind", ["classifier", "classifier_free"])
FULL = Constant(1.0)


def guide(kind, sde, labels=LABELS, weight=FULL):
    """The exact score of the mixture, guided."""
    if kind == "classifier":
        return classifier_guidance(whole_score(sde), classifier, sde, labels, weight)
    return classifier_free_guidance(score_of(sde), sde, labels, 3, weight)


@all_sdes
@both_guidances
def test_guided_score_is_exact(kind, sde):
    """The gradient of log p(x_t) + w log p(y | x_t), for each sample's class, time and weight.

    That of the class for weight 1, and that of all classes for weight 0.
    """
    x, t = states(sde)
    rows, w = np.arange(len(LABELS)), Linear(4.0, 0.5, 0.1, 10.0)

    @jax.jit
    def actual(x, t):
        return [guide(kind, sde, weight=weight)(x, t) for weight in (FULL, Constant(0.0), w)]

    @jax.jit
    def expected(x, t):
        mu, sigma = sde.marginal_coeffs(t)

        def log_density(x):
            joint = class_densities(x, mu, sigma)
            total = jax.nn.logsumexp(joint, -1)
            return jnp.sum(total + w(sigma / mu) * (joint[rows, LABELS] - total))

        of_class = class_scores(sde, x, t)[rows, LABELS]
        return of_class, whole_score(sde)(x, t), jax.grad(log_density)(x)

    for one, other in zip(actual(x, t), expected(x, t), strict=True):
        close(one, other)


@both_guidances
def test_samples_do_not_influence_each_other(kind):
    sde = VPSDE()
    x, t = states(sde)
    together = jax.jit(guide(kind, sde))(x, t)
    of_one = jax.jit(lambda x, t, label: guide(kind, sde, label)(x, t))
    for i in range(len(x)):
        one = slice(i, i + 1)
        np.testing.assert_allclose(of_one(x[one], t[one], LABELS[one]), together[one], rtol=1e-12)


def test_classifier_free_guidance_calls_the_network_once():
    calls = []

    def of_labels(labels):
        return lambda x, t: calls.append((labels, x.shape, t.shape)) or jnp.zeros_like(x)

    sde = VESDE()
    x, t = states(sde)
    classifier_free_guidance(of_labels, sde, LABELS, 3)(x, t)
    ((labels, of_x, of_t),) = calls
    assert of_x == (16, 2) and of_t == (16,)
    assert sorted(np.asarray(labels)) == sorted([*LABELS, *[3] * 8])


def test_guided_samples_have_the_distribution_of_their_class():
    """For each sample its own class: mean and variance of the class, and not of the mixture."""
    sde = VPSDE(N=200)
    labels = np.repeat(np.arange(3), 4000)
    condition = functools.partial(
        classifier_guidance, classifier_fn=classifier, sde=sde, labels=labels
    )
    predictor = PREDICTORS["reverse_diffusion"]
    sampler = get_pc_conditional_sampler(sde, condition, predictor, CORRECTORS["none"])
    run = jax.jit(lambda rng: sampler(rng, whole_score(sde), (len(labels), 2))[0])
    x = np.asarray(run(jax.random.key(0))).reshape(3, 4000, 2)
    # Five standard errors, and half a percent for 200 steps.
    error = 5 * np.sqrt(VARIANCES / 4000)[:, None] + 5e-3
    np.testing.assert_array_less(np.abs(x.mean(1) - MEANS) / error, 1)
    np.testing.assert_array_less(np.abs(x.var(1) / VARIANCES[:, None] - 1), 5 * 8000**-0.5 + 0.03)


# The classifier's range


@all_sdes
def test_classifier_of_data_in_another_range(sde):
    """A classifier of 2 u + 3 guides a score of u."""

    def of_other_data(y, sigma):
        return classifier((y - 3) / 2, sigma / 2)

    x, t = states(sde)
    ours = change_range(of_other_data, 2.0, 3.0)
    guided = jax.jit(classifier_guidance(whole_score(sde), ours, sde, LABELS))
    close(guided(x, t), class_scores(sde, x, t)[np.arange(len(LABELS)), LABELS])


def told_levels(sde, t, **options):
    """The noise levels that a classifier is told, read off the guided score."""

    def telling(x, sigma):  # at x = 0 the gradient of log p(class 0) is sigma / 2
        return jnp.stack([sigma * x[:, 0], jnp.zeros_like(sigma)], -1)

    zeros = jnp.zeros((len(t), 1))
    labels = np.zeros(len(t), np.int32)
    guided = classifier_guidance(lambda x, t: x, telling, sde, labels, **options)
    mu, _ = sde.marginal_coeffs(t)
    return np.asarray(2 * mu * jax.jit(guided)(zeros, t)[:, 0])


@all_sdes
def test_classifier_is_told_the_noise_relative_to_the_signal(sde):
    mu, sigma = sde.marginal_coeffs(jnp.asarray(TIMES))
    np.testing.assert_allclose(told_levels(sde, jnp.asarray(TIMES)), sigma / mu, rtol=1e-10)


def test_classifier_is_told_the_nearest_level_it_knows():
    """Each sample by its own noise level; x stays as it is."""
    sde = VESDE(0.01, 374.0)
    t = jnp.asarray(TIMES)
    _, sigma = sde.marginal_coeffs(t)
    told = told_levels(sde, t, sigma_range=(0.05, 50.0))
    np.testing.assert_allclose(told, np.clip(sigma, 0.05, 50.0), rtol=1e-10)
    assert told[0] == pytest.approx(0.05) and told[-1] == pytest.approx(50.0)


# Weights


@pytest.mark.parametrize(
    ("weight", "sigmas", "expected"),
    [
        (Constant(500.0), [0.01, 50, 374], [500, 500, 500]),
        # 400 + 100 (374 - sigma) / (374 - 0.01)
        (Linear(500.0, 400.0, 0.01, 374.0), [0.01, 187.005, 374], [500, 450, 400]),
        # 0.01 + 0.99 (374 - sigma) / (374 - 50) for sigma >= 50, else 1
        (Linear(1.0, 0.01, 50.0, 374.0), [0.01, 50, 212, 374], [1, 1, 0.505, 0.01]),
        (Interval(3.0, 0.0, 0.01, 100.0), [0.005, 0.01, 7, 100, 101], [0, 3, 3, 3, 0]),
        (Interval(3.0, 1.0, 0.3, 5.0), [0.2, 0.3, 6], [1, 3, 1]),
    ],
)
def test_weights(weight, sigmas, expected):
    actual = weight(jnp.asarray(sigmas, jnp.float32))
    assert actual.shape == (len(sigmas),)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "interval"])
def test_weights_from_a_config(schedule):
    fields = {"weight": 2.0, "weight_beyond": 0.5, "sigma_min": 0.1, "sigma_max": 10.0}
    config = ml_collections.ConfigDict({"guidance": {"schedule": schedule, **fields}})
    beyond = 2.0 if schedule == "constant" else 0.5
    np.testing.assert_allclose(
        get_weight_fn(config)(jnp.asarray([0.1, 20.0], jnp.float32)), [2.0, beyond], rtol=1e-6
    )


@pytest.mark.parametrize("schedule", WEIGHTS)
def test_every_weight_of_a_config_is_one_number_for_each_example(schedule):
    config = base.get_config()
    config.guidance.schedule, config.guidance.sigma_max = schedule, 10.0
    weights = get_weight_fn(config)(jnp.asarray([0.02, 1.0, 40.0], jnp.float32))
    assert weights.shape == (3,) and np.isfinite(weights).all() and (weights >= 0).all()


def test_truncated_guidance_leaves_the_score_alone():
    """Bit for bit, and for each sample by its own noise level."""
    sde = VESDE(0.01, 50.0)
    x, t = states(sde)
    plain = jax.jit(whole_score(sde))(x, t)
    full = jax.jit(guide("classifier", sde))(x, t)
    truncated = jax.jit(guide("classifier", sde, weight=Interval(1.0, 0.0, 0.02, 5.0)))(x, t)
    sigma = np.asarray(sde.marginal_coeffs(t)[1])
    inside = (sigma >= 0.02) & (sigma <= 5.0)
    assert 0 < inside.sum() < len(t)
    np.testing.assert_array_equal(truncated, np.where(inside[:, None], full, plain))


# Bad input


def config_of(**fields):
    g = {"schedule": "linear", "weight": 1.0, "weight_beyond": 0.0}
    g |= {"sigma_min": 0.0, "sigma_max": 1.0} | fields
    return ml_collections.ConfigDict({"guidance": g})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"schedule": "liner"},
            r"unknown weight \(guidance.schedule\) 'liner'; choose from: const",
        ),
        ({"sigma_min": 2.0}, "guidance.sigma_min=2.0 and guidance.sigma_max=1.0 must satisfy"),
        ({"sigma_min": 1.0, "schedule": "interval"}, "guidance.sigma_min=1.0 and"),
        ({"sigma_min": -1.0}, "guidance.sigma_min=-1.0 and"),
        ({"sigma_max": math.inf}, "guidance.sigma_max=inf of a linear weight must be finite"),
    ],
)
def test_bad_weights(fields, message):
    with pytest.raises(ValueError, match=message):
        get_weight_fn(config_of(**fields))


@both_guidances
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 3]), r"the label 3 does not lie in 0 \.\.\. 2: there are 3 classes"),
        (np.array([0, -1, 1]), "the label -1 does not lie in"),
        (np.array([0, 1]), r"labels of shape \(2,\) and type int64 must be one integer for each"),
        (np.array([0.0, 1.0, 2.0]), "type float64 must be one integer"),
    ],
)
def test_bad_labels(kind, labels, message):
    """Found before anything is computed."""
    sde = VESDE()
    x = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(guide(kind, sde, labels), x, jnp.ones(3))


def test_empty_range_of_a_classifier():
    with pytest.raises(ValueError, match=r"sigma_range=\(5.0, 1.0\) of a classifier must be"):
        classifier_guidance(None, classifier, VESDE(), LABELS, sigma_range=(5.0, 1.0))
