"""Masks: how much they hide, where, and what a user may give instead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from scorax.conditioning.masks import AMOUNTS, GROWING, MASKS, SMALLEST, check_mask, get_mask

SIZES = [SMALLEST, 9, 13, 28, 32, 64, (8, 40), (33, 8), (48, 64)]
HIDDEN = {"box": 0.25, "every_other_pixel": 0.5}
HIDDEN |= {f"{side}_half": 0.5 for side in ("left", "right", "top", "bottom")}


@pytest.mark.parametrize("amount", list(AMOUNTS))
@pytest.mark.parametrize("name", list(MASKS))
def test_hidden_fraction_is_in_its_range(name, amount):
    """Of growing masks the range of the amount; of the others the fraction of their name."""
    assert set(MASKS) == set(GROWING) | set(HIDDEN)
    seen = set()
    for size in SIZES:
        h, w = size if isinstance(size, tuple) else (size, size)
        for seed in range(20):
            mask = get_mask(name, size, amount, seed)
            assert mask.shape == (h, w, 1) and mask.dtype == np.float32
            assert set(np.unique(mask)) == {0.0, 1.0}
            hidden = int(np.sum(mask == 0))
            seen.add(hidden / (h * w))
            if name in GROWING:
                low, high = AMOUNTS[amount]
                # Whole pixels: exact at the ends of the range.
                assert low * h * w <= hidden + 1e-9 and hidden - 1e-9 <= high * h * w, (size, seed)
            else:
                # Odd sides leave a row or a column.
                assert abs(hidden - HIDDEN[name] * h * w) <= (h + w) / 2, (size, seed)
    low, high = AMOUNTS[amount]
    if name in GROWING:
        assert max(seen) - min(seen) > (high - low) / 2  # the whole range is used


@pytest.mark.parametrize("name", list(GROWING))
def test_seed_places_the_mask(name):
    first = get_mask(name, 32, "light", 5)
    np.testing.assert_array_equal(first, get_mask(name, (32, 32), "light", 5))
    others = [get_mask(name, 32, "light", seed) for seed in range(6, 10)]
    assert any(not np.array_equal(first, other) for other in others)


def test_shapes_are_the_shapes_they_are_named_after():
    """Known facts of each hole at a size where pixels hardly matter."""

    def hole(name):
        """The first that the border does not cut off."""
        holes = (get_mask(name, 200, "light", seed)[:, :, 0] == 0 for seed in range(50))
        return next(h for h in holes if not (h[0] | h[-1] | h[:, 0] | h[:, -1]).any())

    def sides(hidden):
        rows, columns = np.where(hidden.any(1))[0], np.where(hidden.any(0))[0]
        return np.ptp(rows) + 1, np.ptp(columns) + 1

    h, w = sides(hole("square"))
    assert abs(h - w) <= 1 and hole("square").sum() == h * w
    h, w = sides(hole("rectangle"))
    assert abs(max(h, w) / min(h, w) - 2) < 0.05 and hole("rectangle").sum() == h * w
    for name, fill, aspect in (
        ("circle", np.pi / 4, 1.0), ("triangle", 0.5, 3**0.5 / 2), ("eight", np.pi / 4, 2.0),
    ):  # fmt: skip
        h, w = sides(hole(name))
        assert abs(hole(name).sum() / (h * w) - fill) < 0.03, name
        assert abs(h / w - aspect) < 0.05, name
    np.testing.assert_array_equal(
        get_mask("left_half", 8)[:, :, 0], np.repeat([[0.0] * 4 + [1.0] * 4], 8, 0)
    )
    np.testing.assert_array_equal(get_mask("top_half", 8)[:, 0, 0], [0.0] * 4 + [1.0] * 4)
    for one, other in (("left", "right"), ("top", "bottom")):
        both = get_mask(f"{one}_half", 9) + get_mask(f"{other}_half", 9)
        np.testing.assert_array_equal(both, 1)
    np.testing.assert_array_equal(
        get_mask("every_other_pixel", 8)[:2, :4, 0], [[1, 0, 1, 0], [0, 1, 0, 1]]
    )
    assert not get_mask("box", 8)[2:6, 2:6].any() and get_mask("box", 8).sum() == 48


def painted(tmp_path, pixels, name="mask.png"):
    path = tmp_path / name
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def test_a_painted_mask_is_read(tmp_path):
    pixels = 255 * np.random.default_rng(0).integers(0, 2, (10, 12))
    path = painted(tmp_path, pixels)
    np.testing.assert_array_equal(get_mask(path, (10, 12))[:, :, 0], pixels / 255)
    colored = painted(tmp_path, np.repeat(pixels[:, :, None], 3, 2), "colored.PNG")
    np.testing.assert_array_equal(get_mask(str(colored), (10, 12))[:, :, 0], pixels / 255)


def test_painted_masks_that_are_none_are_refused(tmp_path):
    white = np.full((8, 8), 255)
    with pytest.raises(ValueError, match=r"mask.png: the mask has 8x8 pixels.*have 8x9"):
        get_mask(painted(tmp_path, white), (8, 9))
    with pytest.raises(ValueError, match="mask.png.*black.*white.*gray"):
        get_mask(painted(tmp_path, white - 1), 8)
    (tmp_path / "text.png").write_text("no image")
    whole = painted(tmp_path, np.random.default_rng(0).integers(0, 2, (64, 64))).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "broken.png").write_bytes(whole[:60] + bytes(40) + whole[100:])
    for name in ("text.png", "half.png", "broken.png", "missing.png"):
        with pytest.raises(ValueError, match=f"{name}: not a readable image"):
            get_mask(tmp_path / name, 64)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("hexagon", 32), "unknown mask 'hexagon'; choose from: square, rectangle, triangle"),
        (("square", 32, "medium"), "unknown amount of a mask 'medium'; choose from: light, heavy"),
        (("square", (32, 7)), "a mask of 32x7 is too small.*at least 8"),
    ],
)
def test_unknown_masks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_mask(*arguments)


@pytest.mark.parametrize(
    "shape", [(8, 9, 1), (8, 9, 3), (4, 8, 9, 3), (4, 8, 9, 1), (1, 8, 9, 1), (1, 1, 3)]
)
def test_masks_that_fit_a_batch(shape):
    full = check_mask(np.ones(shape), (4, 8, 9, 3))
    assert np.broadcast_shapes(full.shape, (4, 8, 9, 3)) == (4, 8, 9, 3) and full.ndim == 4
    traced = jax.eval_shape(lambda m: check_mask(m, (4, 8, 9, 3)), jnp.ones(shape))
    assert traced.shape == full.shape


@pytest.mark.parametrize("shape", [(9, 8, 1), (8, 9), (8, 9, 2), (5, 8, 9, 1), (2, 4, 8, 9, 1)])
def test_masks_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match=r"mask of shape .* does not fit images of shape \(8, 9"):
        check_mask(np.ones(shape), (4, 8, 9, 3))


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("value", [0.5, 255.0, -1.0, np.nan])
def test_masks_are_zero_and_one(array, value):
    with pytest.raises(ValueError, match="only 1 .known. and 0 .hole."):
        check_mask(array([[[1.0], [value]]]), (4, 1, 2, 3))
