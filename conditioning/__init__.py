"""Scores conditioned on something else: a measurement, a class, or a noisy image.

Everything here turns a `ScoreFn` into a `ScoreFn` or describes what is known about the data, and
therefore works with any SDE and any sampler.

    posterior     conditions on a measurement y = A(x) + noise: LIKELIHOODS
    operators     the choices of A: OPERATORS, and COLOR_BASES
    trajectories  composes the score of a trajectory from the score of short windows
    observations  what is observed of a trajectory: OBSERVATIONS
    masks         which pixels are known: MASKS
    guidance      conditions on a class, with or without a classifier: WEIGHTS
    denoising     removes noise of a known level from an image: DENOISERS
"""

from scorax.conditioning.denoising import (
    DENOISERS,
    get_denoiser,
    langevin,
    noise_time,
    sample_posterior,
    tweedie,
)
from scorax.conditioning.guidance import (
    WEIGHTS,
    classifier_free_guidance,
    classifier_guidance,
    get_weight_fn,
)
from scorax.conditioning.masks import AMOUNTS, MASKS, get_mask
from scorax.conditioning.observations import OBSERVATIONS
from scorax.conditioning.operators import COLOR_BASES, OPERATORS, luma, measure
from scorax.conditioning.posterior import (
    DPS,
    LIKELIHOODS,
    MMPS,
    GaussianLikelihood,
    MeasurementLikelihood,
    PiGDM,
    gaussian_data_covariance,
)
from scorax.conditioning.trajectories import compose

__all__ = [
    "AMOUNTS",
    "COLOR_BASES",
    "DENOISERS",
    "DPS",
    "LIKELIHOODS",
    "MASKS",
    "MMPS",
    "OBSERVATIONS",
    "OPERATORS",
    "WEIGHTS",
    "GaussianLikelihood",
    "MeasurementLikelihood",
    "PiGDM",
    "classifier_free_guidance",
    "classifier_guidance",
    "compose",
    "gaussian_data_covariance",
    "get_denoiser",
    "get_mask",
    "get_weight_fn",
    "langevin",
    "luma",
    "measure",
    "noise_time",
    "sample_posterior",
    "tweedie",
]
