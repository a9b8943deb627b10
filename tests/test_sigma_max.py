"""The largest distance of two images, beside SciPy's and beside distances known in advance."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import pdist, squareform

from scorax.data_sources import distances
from scorax.data_sources.arrays import ArraySource

ROOT = Path(__file__).resolve().parent.parent


def source_of(images):
    return ArraySource(np.asarray(images, np.uint8), np.zeros(len(images)))


def random_images(seed, n, shape):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def expected(images):
    """Distance and pair by SciPy, in double precision."""
    table = squareform(pdist(images.reshape(len(images), -1).astype(np.float64) / 255))
    i, j = np.unravel_index(np.argmax(table), table.shape)
    return table[i, j], (min(i, j), max(i, j))


# Oracles


@pytest.mark.parametrize("block", [1, 3, 8, 2048])
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("n, shape", [(2, (1, 1, 1)), (20, (5, 7, 3)), (9, (40, 40, 1))])
def test_as_scipy(monkeypatch, block, held, n, shape):
    monkeypatch.setattr(distances, "MAX_BLOCK", block)
    monkeypatch.setattr(distances, "HELD_BYTES", 2**30 if held else 0)
    images = random_images(n, n, shape)
    found = distances.farthest_pair(source_of(images))
    distance, pair = expected(images)
    assert found.distance == pytest.approx(distance, rel=1e-14)
    assert found.pair == pair and found.held == held and found.images == n


def test_nothing_is_lost_to_rounding():
    # Squared distances of 3 million pixels that differ by 1 in 2e11: float32 resolves 1 in 1.7e7.
    images = np.zeros((4, 1024, 1024, 3), np.uint8)
    images[1:] = 255
    images[[1, 3], 0, 0, 0] = 254, 254
    images[3, 0, 0, 1] = 254
    found = distances.farthest_pair(source_of(images))
    assert found.pair == (0, 2)
    images[2, 5, 5, :] = 254, 254, 253  # now image 1 is the farthest, by a few in 2e11
    found = distances.farthest_pair(source_of(images))
    assert found.pair == (0, 1)
    squared = 255**2 * (3 * 2**20 - 1) + 254**2
    assert found.distance == pytest.approx(squared**0.5 / 255, rel=1e-15)


def test_blocks_that_cannot_hold_the_pair_are_not_compared(monkeypatch):
    monkeypatch.setattr(distances, "MAX_BLOCK", 10)
    images = random_images(0, 200, (8, 8, 1)) // 8 + 110  # all near grey, but for two
    images[57], images[123] = 0, 255
    found = distances.farthest_pair(source_of(images))
    assert found.pair == (57, 123) and found.distance == pytest.approx(8.0)
    assert found.compared == 1 / 210


def test_images_that_are_all_equal_are_at_distance_zero():
    assert distances.farthest_pair(source_of(np.full((5, 4, 4, 1), 77))).distance == 0.0


def test_a_part_drawn_at_random():
    images = random_images(1, 50, (4, 4, 1))
    found = distances.farthest_pair(source_of(images), max_images=20, seed=3)
    again = distances.farthest_pair(source_of(images), max_images=20, seed=3)
    other = distances.farthest_pair(source_of(images), max_images=20, seed=4)
    assert found == again and found.images == 20 and found.pair != other.pair
    i, j = found.pair
    difference = images[i].astype(float) - images[j].astype(float)
    assert found.distance == pytest.approx(np.linalg.norm(difference) / 255)
    assert distances.farthest_pair(source_of(images), max_images=500).images == 50


def test_progress_goes_over_all_blocks_and_pairs(monkeypatch):
    monkeypatch.setattr(distances, "MAX_BLOCK", 10)
    seen = []

    def progress(items, total, what):
        items = list(items)
        seen.append((what, len(items), total))
        return items

    distances.farthest_pair(source_of(random_images(0, 25, (4, 4, 1))), progress=progress)
    assert seen == [("blocks", 3, 3), ("pairs of blocks", 6, 6)]


# Errors


@pytest.mark.parametrize("images, most", [(1, None), (5, 1), (5, 0), (5, -2)])
def test_too_few_images(images, most):
    with pytest.raises(ValueError, match="images have no distance; compare at least two"):
        distances.farthest_pair(source_of(random_images(0, images, (2, 2, 1))), most)


@pytest.mark.parametrize("odd", [np.zeros((4, 5, 1), np.uint8), np.zeros((4, 4, 1), np.float32)])
def test_an_image_unlike_the_others(odd):
    images = [{"image": np.zeros((4, 4, 1), np.uint8)} for _ in range(4)] + [{"image": odd}]
    with pytest.raises(ValueError, match=f"image 4 is {odd.dtype}.*image 0 .*images of one"):
        distances.farthest_pair(images)


# The command line


def run(*arguments):
    command = [sys.executable, "-m", "tools.sigma_max", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_of_a_config():
    # 15.83 between two of the 5,000 embedded digits.
    done = run("--config", "configs/ve/mnist.py", "--config.data.centered=True")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("31.6608 is the largest distance, between images 1534 and 1775")
    assert "--config.model.sigma_max=31.66\n" in done.stdout


def test_of_a_folder(tmp_path):
    (tmp_path / "train").mkdir()
    for i, grey in enumerate((0, 255, 100)):
        Image.new("RGB", (8, 8), (grey,) * 3).save(tmp_path / "train" / f"{i}.png")
    done = run(tmp_path, "--size", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{48**0.5:.4f} is the largest distance, between images 0 and 1")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "give either --config CONFIG, or FOLDER and --size; see --help"),
        (("images",), "with FOLDER give --size, 1 or more pixels"),
        (("images", "--size", "0"), "'0' is no size; give a number of pixels, or HEIGHTxWIDTH"),
        (("images", "--size", "8"), "the image folder 'images' does not exist"),
        (("--config", "configs/ve/mnist.py", "--data-dir", "nowhere"), "not in 'nowhere'"),
    ],
)
def test_impossible_command_lines(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
