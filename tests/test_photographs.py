"""Tiles of scikit-image's photographs."""

import importlib.util

import numpy as np
import pytest

from scorax.configs import base
from scorax.data_sources import photographs
from scorax.datasets import get_source


@pytest.mark.parametrize("split, number", [("train", 1206), ("test", 342)])
def test_source_has_every_whole_tile_of_its_photographs_once(split, number):
    source = photographs.load(split, 32)
    assert len(source) == number and source[0]["image"].shape == (32, 32, 3)
    assert source[0]["image"].dtype == np.uint8 and source[0]["label"] == 0
    found = sorted(source[i]["image"].tobytes() for i in range(number))
    expected = []
    for name in photographs.FILES[split]:
        image = photographs._read(name)
        for top in range(0, image.shape[0] - 31, 32):
            for left in range(0, image.shape[1] - 31, 32):
                expected.append(image[top : top + 32, left : left + 32].tobytes())
    assert found == sorted(expected)


def test_no_photograph_is_in_both_splits():
    assert not set(photographs.FILES["train"]) & set(photographs.FILES["test"])
    tiles = [{x.tobytes() for x in photographs.load(s, 50).images} for s in ("train", "test")]
    assert not tiles[0] & tiles[1]


def test_order_is_random_and_always_the_same():
    first, again = (photographs.load("test", 32).images for _ in range(2))
    np.testing.assert_array_equal(first, again)
    cat = {x.tobytes() for x in photographs.cut(photographs._read("chelsea.png"), 32)}
    of_cat = np.array([x.tobytes() in cat for x in first])
    share = of_cat.mean()  # of all; that of the first 64 is a draw without replacement
    assert abs(of_cat[:64].mean() - share) < 4 * (share * (1 - share) / 64) ** 0.5


@pytest.mark.parametrize("size", [1, 3, 4])
def test_tiles_lie_row_by_row_and_leave_the_margin_out(size):
    image = np.arange(7 * 9 * 3).reshape(7, 9, 3)
    tiles = photographs.cut(image, size)
    columns = 9 // size
    assert len(tiles) == (7 // size) * columns
    last = tiles[-1]
    top, left = (7 // size - 1) * size, (columns - 1) * size
    np.testing.assert_array_equal(last, image[top : top + size, left : left + size])
    np.testing.assert_array_equal(tiles[columns - 1], image[:size, left : left + size])


def test_dataset_of_the_config():
    config = base.get_config()
    config.data.dataset, config.data.image_size = "photographs", 64
    assert get_source(config, "test")[0]["image"].shape == (64, 64, 3)
    config.data.num_channels = 1
    with pytest.raises(ValueError, match="num_channels=1 but the images of photographs have 3"):
        get_source(config, "test")


def test_what_cannot_be_read_is_told(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="unknown split 'val'; choose from: train, test"):
        photographs.load("val", 32)
    with pytest.raises(ValueError, match="image_size=401 is larger than every photograph of the t"):
        photographs.load("test", 401)
    with pytest.raises(ValueError, match="image_size=0 must be a positive number"):
        photographs.load("test", 0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "chelsea.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match="chelsea.png is damaged .*; install scikit-image again"):
        photographs.load("test", 32)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="chelsea.png.* not installed; run 'pip install scikit-i"):
        photographs.load("test", 32)
