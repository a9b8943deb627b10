"""A score given something: a measurement, a class, an image with noise.

Everything here turns a `ScoreFn` into a `ScoreFn`, or describes what is known of the data, so that
any SDE and any sampler can be used with it.

    posterior    a measurement y = A(x) + noise: LIKELIHOODS
    operators    what A can be: OPERATORS, and the bases of colours
    masks        which pixels are known: MASKS
    guidance     a class, by a classifier or without: WEIGHTS
    denoising    an image with noise of a known level: DENOISERS
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

__all__ = [
    "AMOUNTS",
    "COLOR_BASES",
    "DENOISERS",
    "DPS",
    "LIKELIHOODS",
    "MASKS",
    "MMPS",
    "OPERATORS",
    "WEIGHTS",
    "GaussianLikelihood",
    "MeasurementLikelihood",
    "PiGDM",
    "classifier_free_guidance",
    "classifier_guidance",
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
