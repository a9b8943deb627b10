"""Grids pixel by pixel, and files read back."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from scorax.utils import images


def test_to_uint8_clips_and_rounds_halves_up():
    x = np.array([-0.1, 0.0, 0.5, 1.0, 1.5, 99.49 / 255, 99.51 / 255, np.nan, np.inf])
    got = images.to_uint8(x)
    assert got.dtype == np.uint8
    assert got.tolist() == [0, 0, 128, 255, 255, 99, 100, 0, 255]
    levels = np.arange(256, dtype=np.float32) / 255
    assert images.to_uint8(levels).tolist() == list(range(256))


def test_grid_pixel_by_pixel():
    x = np.array([10, 20, 30, 40, 50, 60], np.float32).reshape(3, 1, 2, 1) / 255
    got = images.make_grid(x, padding=1, scale=1)
    assert got.tolist() == [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 10, 20, 0, 30, 40, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 50, 60, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]


def test_grid_repeats_pixels_and_keeps_colours():
    x = np.array([[[[1.0, 0.0, 0.2]]], [[[0.0, 1.0, 0.4]]]])
    got = images.make_grid(x, columns=1, padding=1, scale=2)
    a, b, o = [255, 0, 51], [0, 255, 102], [0, 0, 0]
    rows = [[o] * 4, [o, a, a, o], [o, a, a, o], [o] * 4, [o, b, b, o], [o, b, b, o], [o] * 4]
    assert got.tolist() == rows


@pytest.mark.parametrize(
    ("n", "size", "columns", "shape"),
    [
        (64, 28, None, (8 * (3 * 28 + 2) + 2,) * 2),  # 224 pixels, enlarged by 3
        (4, 256, None, (2 * 258 + 2,) * 2),  # as it is
        (9, 256, None, (3 * 258 + 2,) * 2),
        (10, 100, None, (3 * 202 + 2, 4 * 202 + 2)),  # 4 columns, 3 rows, enlarged by 2
        (3, 300, 8, (302 + 2, 3 * 302 + 2)),
    ],
)
def test_sizes_of_grids(n, size, columns, shape):
    assert images.make_grid(np.zeros((n, size, size, 3)), columns).shape == (*shape, 3)


@pytest.mark.parametrize("shape", [(2, 4, 4), (0, 4, 4, 3), (1, 2, 4, 4, 3)])
def test_other_shapes_are_errors(shape):
    with pytest.raises(ValueError, match=r"give \(N, H, W, C\), without a 0"):
        images.make_grid(np.zeros(shape))


def test_what_is_shown_of_other_channels():
    x = np.random.default_rng(0).random((1, 6, 4, 13), np.float32)
    one = {"padding": 0, "scale": 1}
    first_three = np.floor(255 * x[0, ..., :3] + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(images.make_grid(x, **one), first_three)
    both = np.concatenate([x[0, ..., 0], x[0, ..., 1]], 1)
    grey = np.floor(255 * both + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(images.make_grid(x[..., :2], **one), grey)


@pytest.mark.parametrize("wrong", [{"columns": 0}, {"padding": -1}, {"scale": 0}])
def test_numbers_that_make_no_grid(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        images.make_grid(np.zeros((2, 4, 4, 1)), **wrong)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_has_the_pixels_of_the_grid(tmp_path, channels):
    x = np.random.default_rng(0).random((5, 8, 8, channels))
    path = tmp_path / "a" / "b" / "grid.png"
    images.save_grid(path, x, columns=5)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), images.make_grid(x, columns=5))
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_has_every_frame_and_holds_the_last(tmp_path, channels):
    levels = np.array([0.0, 0.25, 0.5, 1.0]).reshape(4, 1, 1, 1, 1)
    frames = np.broadcast_to(levels, (4, 2, 300, 300, channels))
    images.save_gif(tmp_path / "a.gif", frames, seconds=0.8, hold=1.5)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.format, gif.n_frames, gif.info["loop"]) == ("GIF", 4, 0)
        durations = []
        for i, frame in enumerate(frames):
            gif.seek(i)
            durations.append(gif.info["duration"])
            got = np.asarray(gif.convert("L" if channels == 1 else "RGB"), np.int32)
            assert np.abs(got - images.make_grid(frame)).max() <= 1
    assert durations == [200, 200, 200, 1500]


@pytest.mark.parametrize("frames, size", [(40, 96), (3, 700)])
def test_a_large_animation_keeps_to_the_limit(frames, size, tmp_path):
    """Noise in colour, of which neither palettes nor repetition save anything."""
    noise = np.random.default_rng(0).random((frames, 9, size // 3, size // 3, 3))
    images.save_gif(tmp_path / "a.gif", noise)
    assert 0.2 * images.GIF_BYTES < (tmp_path / "a.gif").stat().st_size <= images.GIF_BYTES
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames >= min(frames, 20)


PICTURES = [np.full((31, 20), 60 * i, np.uint8) for i in range(4)]


def test_a_film_is_a_gif_without_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    images.save_film(tmp_path / "a.gif", PICTURES)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def test_a_film_that_ffmpeg_cannot_write_is_a_gif_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    images.save_film(tmp_path / "a.gif", PICTURES)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]
    assert "a.mp4: ffmpeg could not write it" in caplog.text


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("channels", [0, 3])
def test_a_film_has_its_frames_in_mp4_with_ffmpeg(tmp_path, channels):
    pictures = [x.repeat(3).reshape(31, 20, 3) if channels else x for x in PICTURES]
    images.save_film(tmp_path / "a.gif", pictures)
    command = ["ffmpeg", "-loglevel", "error", "-i", str(tmp_path / "a.mp4")]
    raw = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    ).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, 32, 20, 3).astype(int)
    assert len(frames) == 4 + 4  # the last one is held for two seconds
    assert np.abs(frames[:4].mean((1, 2, 3)) - [0, 60, 120, 180]).max() < 4
    assert frames[3:].mean() == pytest.approx(180, abs=4)


def test_rows_are_labelled_on_a_margin_that_leaves_the_grid_alone():
    grid = images.make_grid(np.full((6, 20, 20, 1), 0.5), columns=3)
    for picture in (grid, grid[..., None].repeat(3, -1)):
        labelled = images.label_rows(picture, ["cat", "a dog"])
        margin = labelled[:, : -picture.shape[1]]
        np.testing.assert_array_equal(labelled[:, -picture.shape[1] :], picture)
        first, second = np.array_split(margin, 2)
        assert first.max() > 200 and second.max() > 200
        assert (second > 100).sum() > (first > 100).sum()


def test_gif_of_no_frames_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"\(F, N, H, W, C\)"):
        images.save_gif(tmp_path / "a.gif", np.zeros((0, 1, 4, 4, 1)))
    assert list(tmp_path.iterdir()) == []


def test_npz_comes_back(tmp_path):
    arrays = {"path": np.arange(3), "samples": np.ones((2, 2), np.uint8)}
    images.save_npz(tmp_path / "new" / "samples.npz", **arrays)
    with np.load(tmp_path / "new" / "samples.npz") as got:
        assert set(got) == set(arrays)
        assert all(np.array_equal(got[k], arrays[k]) for k in arrays)
