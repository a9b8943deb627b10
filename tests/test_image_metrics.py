"""PSNR and SSIM against scikit-image's published values and images made by hand."""

import numpy as np
import pytest

import golden
from scorax.metrics.image_pairs import psnr, ssim

CASES = [case for case in golden.cases("metrics") if case["kind"] == "image_pairs"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["a"])
def test_published(case):
    z, name = golden.load("metrics"), case["out"].removesuffix("*")
    a, b = (golden.nhwc(z[case[side]]) for side in "ab")
    data_range = case["data_range"]
    whole = [np.round(255 * x).astype(np.uint8) for x in (a, b)]
    for key, found in {
        "psnr": psnr(a, b, data_range),
        "ssim_default": ssim(a, b, data_range),
        "ssim_gaussian": ssim(a, b, data_range, gaussian=True),
        "psnr_uint8": psnr(*whole),
        "ssim_uint8": ssim(*whole),
    }.items():
        np.testing.assert_allclose(found, z[f"{name}{key}_f64"], rtol=1e-9, err_msg=key)


def test_equal_images():
    x = np.random.default_rng(0).random((2, 16, 16, 3))
    np.testing.assert_array_equal(psnr(x, x), np.inf)
    for gaussian in (False, True):
        np.testing.assert_allclose(ssim(x, x, gaussian=gaussian), 1, rtol=1e-12)


def test_constant_images():
    black, grey = np.zeros((1, 12, 12, 1)), np.full((1, 12, 12, 1), 0.1)
    np.testing.assert_allclose(psnr(black, grey), 20)
    # Without any variance only the means are compared: c1 / (mean^2 + c1).
    for gaussian in (False, True):
        np.testing.assert_allclose(ssim(black, grey, gaussian=gaussian), 1e-4 / (0.01 + 1e-4))


def test_a_turned_around_contrast_has_negative_similarity():
    x = np.random.default_rng(0).random((1, 20, 20, 1))
    assert ssim(x, 1 - x)[0] < -0.8


def test_images_that_cannot_be_compared():
    x = np.zeros((2, 8, 8, 1))
    with pytest.raises(ValueError, match=r"shape \(2, 8, 8, 1\) cannot be compared .*\(2, 8, 9, 1"):
        psnr(x, np.zeros((2, 8, 9, 1)))
    with pytest.raises(ValueError, match="window of 11 pixels of images of 8x8"):
        ssim(x, x, gaussian=True)
    with pytest.raises(ValueError, match="window of 6 pixels"):
        ssim(x, x, size=6)
    with pytest.raises(ValueError, match="images are uint8 and originals float64"):
        psnr(x.astype(np.uint8), x)
    with pytest.raises(ValueError, match="128 of 128 values of originals are not finite"):
        psnr(x, x + np.nan)
    with pytest.raises(ValueError, match="data_range=0 must be positive"):
        ssim(x, x, 0)
