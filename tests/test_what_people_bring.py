"""Data as people have them, and the right value for each: a list of what used to go wrong."""

import io
import json
import os
import struct
import zlib

import h5py
import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

import runs
import scorax
from networks import random_network, tiny
from scorax import conversion, experiment, losses, run_lib
from scorax.conditioning.masks import get_mask
from scorax.configs import base
from scorax.data_sources import distances, hdf5, images, npz, preparation
from scorax.data_sources.files import Folder
from scorax.data_sources.pixels import decode
from scorax.data_sources.source import Source
from scorax.data_sources.values import Values
from scorax.datasets import describe, get_dataset, get_source
from scorax.evaluators import EVALUATORS, BatchSampler
from scorax.evaluators.class_conditional import Guide
from scorax.evaluators.context import is_held_out
from scorax.evaluators.latents import check_interpolate
from scorax.evaluators.originals import file_stems, get_originals, read_pictures
from scorax.evaluators.task import differences
from scorax.likelihood import data_offset, dequantize
from scorax.metrics import features
from scorax.tools import prepare_dataset
from scorax.utils.config_files import read_config
from scorax.utils.shapes import height_and_width, image_shape
from scorax.weights import formats
from scorax.weights.state_dicts import to_torch_state_dict

RNG = np.random.default_rng(0)


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def colour(size=8, value=(10, 120, 240)):
    return Image.new("RGB", (size, size), value)


def config_of(dataset, dir, size=8, channels=1, **data):
    config = base.get_config()
    config.data.update({"dataset": dataset, "dir": str(dir), "num_channels": channels, **data})
    config.data.image_size = size
    return config


def png_of_16_bits(x):
    """A PNG file of uint16 (H, W, 1 to 4), which PIL writes for one channel only."""
    height, width, channels = x.shape
    rows = x.astype(">u2").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# 1, 2: data are known by their content


def test_content_is_the_same_elsewhere_and_another_after_a_change(tmp_path):
    for folder in ("a", "b"):
        for i in range(3):
            write(tmp_path / folder / f"{i}.png", colour(value=(i, 0, 0)))
    a, b = (images.load(str(tmp_path / f), "train", 8, 3).content() for f in "ab")
    assert a == b and a["num_images"] == 3
    write(tmp_path / "b" / "1.png", colour(value=(9, 9, 9)))  # replaced in place
    assert images.load(str(tmp_path / "b"), "train", 8, 3).content() != a


@pytest.mark.parametrize("kind", ["npz", "image_folder"])
def test_data_without_splits_are_not_held_out(kind, tmp_path):
    x = RNG.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    for split in ("train", "test"):
        for k, image in enumerate(x[:2] if split == "test" else x[2:]):
            write(tmp_path / "split" / split / f"{k}.png", image)
            write(tmp_path / "flat" / f"{split}{k}.png", image)
    np.savez(tmp_path / "flat.npz", images=x)
    np.savez(tmp_path / "split.npz", train_images=x[2:], test_images=x[:2])
    np.savez(tmp_path / "same.npz", train_images=x, test_images=x)
    suffix = ".npz" if kind == "npz" else ""
    for name, expected in (("flat", False), ("split", True)):
        config = config_of(kind, tmp_path / f"{name}{suffix}", channels=3)
        assert is_held_out(config, "test") == expected
        assert not is_held_out(config, "train")
    assert not is_held_out(config_of("npz", tmp_path / "same.npz", channels=3), "test")
    assert not is_held_out(read_config("ve/mnist"), "test")


# 3: transparency


def transparent(mode):
    """Red of alpha 0, 102 and 255 from left to right; hidden colours are red, too."""
    x = np.zeros((2, 3, 4), np.uint8)
    x[..., 0] = 255
    x[:, :, 3] = [0, 102, 255]
    image = Image.fromarray(x)
    if mode == "P":
        image = Image.new("P", (3, 2))
        image.putpalette([255, 0, 0] * 3)
        image.putdata([0, 1, 2] * 2)
        image.info["transparency"] = bytes([0, 102, 255])
    return image.convert("LA") if mode == "LA" else image


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
@pytest.mark.parametrize("background", ["white", "black"])
def test_transparent_pixels_show_the_background(mode, background, tmp_path):
    path = write(tmp_path / "a.png", transparent(mode))
    channels = 1 if mode == "LA" else 3
    x = decode(path.read_bytes(), path, channels, Values(background=background))
    own, behind = (76 if mode == "LA" else 255), (255 if background == "white" else 0)
    assert x[0, :, 0].tolist() == [behind, round(0.4 * own + 0.6 * behind), own]
    with pytest.raises(ValueError, match="a.png has transparent pixels; .*background"):
        decode(path.read_bytes(), path, channels, Values(background="refuse"))


def test_transparency_can_be_trained_on(tmp_path):
    write(tmp_path / "a" / "0.png", transparent("RGBA"))
    x = images.load(str(tmp_path / "a"), "train", (2, 3), 4)[0]["image"]
    assert x[0].tolist() == [[255, 0, 0, 0], [255, 0, 0, 102], [255, 0, 0, 255]]


def test_hidden_colours_are_no_distance(tmp_path):
    for i, value in enumerate([(0, 0, 0, 0), (255, 255, 255, 0)]):
        write(tmp_path / f"{i}.png", Image.new("RGBA", (8, 8), value))
    source = images.load(str(tmp_path), "train", 8, 3)
    assert distances.farthest_pair(source).distance == 0


# 4: more than 8 bits


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_them_all(channels, tmp_path):
    x = RNG.integers(0, 4096, (5, 7, channels), dtype=np.uint16)
    if channels in (2, 4):
        x[..., -1] = 65535  # opaque
    data = png_of_16_bits(x)
    found = decode(data, "a.png", channels)
    assert found.dtype == np.float32 and found.shape == x.shape
    np.testing.assert_array_equal(np.rint(found * 65535.0), x)
    spread = (
        decode(data, "a.png", min(channels, 3) if channels != 2 else 1, Values((0, 4095)))
        if (channels in (1, 3))
        else None
    )
    if spread is not None:
        np.testing.assert_array_equal(np.rint(spread * 4095.0), x)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_16_bits_keeps_them_all(byteorder, channels, compression, tmp_path):
    x = RNG.integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    path = tmp_path / "a.tif"
    photometric = "rgb" if channels == 3 else "minisblack"
    squeezed = x if channels == 3 else x[..., 0]
    tifffile.imwrite(
        path, squeezed, byteorder=byteorder, photometric=photometric, compression=compression
    )
    found = decode(path.read_bytes(), path, channels)
    np.testing.assert_array_equal(np.rint(found * 65535.0), x)


def test_real_numbers_need_a_range(tmp_path):
    x = np.linspace(-1000, 3000, 64, dtype=np.float32).reshape(8, 8)
    path = tmp_path / "hounsfield.tif"
    tifffile.imwrite(path, x)
    with pytest.raises(ValueError, match="has the values -1000 ... 3000, but 0 ... 1 is ex"):
        decode(path.read_bytes(), path, 1)
    found = decode(path.read_bytes(), path, 1, Values((-1000.0, 3000.0)))
    np.testing.assert_allclose(found[..., 0], (x + 1000) / 4000, atol=1e-6)
    with pytest.raises(ValueError, match="has the values .*value_range=LOW,HIGH"):
        decode(path.read_bytes(), path, 1, Values((0.0, 3000.0)))


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_arrays_of_more_than_bytes(suffix, tmp_path):
    x = RNG.integers(0, 4096, (4, 8, 8), dtype=np.uint16)
    path = str(tmp_path / f"a.{suffix}")
    if suffix == "npz":
        np.savez(path, images=x)
    else:
        with h5py.File(path, "w") as file:
            file["images"] = x
    load = npz.load if suffix == "npz" else hdf5.load
    for values, levels in ((Values(), 65536), (Values((0, 4095)), 4096)):
        source = load(path, "train", values)
        assert source.levels == levels
        found = source[2]["image"][..., 0]
        np.testing.assert_array_equal(np.rint(found * (levels - 1.0)), x[2])
    kind = {"npz": "npz", "h5": "hdf5"}[suffix]
    config = config_of(kind, path, value_range=(0, 4095), uniform_dequantization=True)
    batch = get_dataset(config, "train", 8, shuffle=False)[0]["image"][:4, ..., 0]
    np.testing.assert_array_equal(np.floor(batch * 4096.0), x)
    with pytest.raises(ValueError, match="has the values .*, but 0 ... 255 is expected"):
        load(path, "train", Values((0, 255)))[0]


def test_bits_per_dimension_count_the_levels_there_are():
    assert data_offset(lambda x: x) == 8 and data_offset(lambda x: x, 4096) == 12
    k = np.arange(4096).reshape(64, 64)
    x = np.asarray(dequantize(jax.random.key(0), (k / 4095).astype(np.float32), 4096), np.float64)
    np.testing.assert_array_equal(np.floor(x * 4096), k)
    with pytest.raises(ValueError, match="not multiples of 1/255"):
        dequantize(jax.random.key(0), (k / 4095).astype(np.float32))


def test_real_numbers_have_no_levels(tmp_path):
    np.savez(tmp_path / "a.npz", images=RNG.random((4, 8, 8, 1), np.float32))
    config = config_of("npz", tmp_path / "a.npz")
    x = get_dataset(config, "train", 8, shuffle=False)[0]["image"]
    np.testing.assert_array_equal(x[0], get_source(config)[0]["image"])
    config.data.uniform_dequantization = True
    with pytest.raises(ValueError, match="uniform_dequantization=True .* real numbers"):
        get_dataset(config, "train", 8)


def test_distances_of_more_than_bytes():
    class Two(Source):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return {"image": np.full((4, 4, 1), 0.25 + 0.5 * i, np.float32), "label": 0}

    assert distances.farthest_pair(Two()).distance == pytest.approx(2.0, rel=1e-6)


def test_prepared_images_keep_16_bits(tmp_path):
    x = RNG.integers(0, 65536, (3, 8, 8, 3), dtype=np.uint16)
    for i in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{i}.png").write_bytes(png_of_16_bits(x[i]))
    preparation.prepare(str(tmp_path / "in"), str(tmp_path / "out"), preparation.Settings(8))
    source = get_source(config_of("array_record", tmp_path / "out", channels=3))
    assert source.levels == 65536 and not source.held_out
    np.testing.assert_array_equal(np.rint(source[1]["image"] * 65535.0), x[1])


# 5, 6, 7: every picture is used or named


@pytest.mark.parametrize("suffix", ["tif", "gif", "ppm", "jfif", "webp", "tga", "jp2", "JPE"])
def test_what_pillow_reads_is_read(suffix, tmp_path):
    format = {"jfif": "JPEG", "JPE": "JPEG"}.get(suffix)
    write(tmp_path / f"a.{suffix}", colour(), **({"format": format} if format else {}))
    x = images.load(str(tmp_path), "train", 8, 3)[0]["image"].astype(int)
    assert np.abs(x - [10, 120, 240]).max() <= 12


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [colour(value=(255, 0, 0)), colour(value=(0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert images.load(str(tmp_path), "train", 8, 3)[0]["image"][0, 0].tolist() == [255, 0, 0]


def test_pictures_in_deeper_folders_belong_to_their_class(tmp_path):
    for name in ("cat/2019/jan/a.png", "cat/b.png", "dog/x/y/z/c.png"):
        write(tmp_path / "mine" / name, colour())
    (tmp_path / "mine" / "cat" / "notes.txt").write_text("")
    (tmp_path / "mine" / "dog" / "d.heic").write_text("")
    for top in ("mine", ""):  # a single folder may hold everything
        source = images.load(str(tmp_path / top), "train", 8, 3)
        assert source.classes == ["cat", "dog"] and sorted(source.all_labels()) == [0, 0, 1]
        line = describe(source)
        assert line.startswith("3 images, 2 classes: 0 cat, 1 dog; not used: files that are no im")
        assert "1 .heic, 1 .txt" in line


def test_a_stray_picture_does_not_hide_the_classes(tmp_path):
    write(tmp_path / "cat" / "a.png", colour())
    write(tmp_path / "preview.png", colour())
    with pytest.raises(ValueError, match="both images .preview.png. and class folders .cat."):
        images.load(str(tmp_path), "train", 8, 3)


def test_a_class_called_train_is_no_split(tmp_path):
    for name in ("train", "car", "person"):
        write(tmp_path / name / "a.png", colour())
    with pytest.raises(ValueError, match="split folder train beside other folders .*car, person"):
        images.load(str(tmp_path), "train", 8, 3)
    os.makedirs(tmp_path / "all" / "train")
    for name in ("train", "car", "person"):
        (tmp_path / name).rename(tmp_path / "all" / "train" / name)
    assert images.load(str(tmp_path / "all"), "train", 8, 3).classes == ["car", "person", "train"]


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("test", ["test", "Testing", "val", "valid", "validation"])
def test_names_of_splits(train, test, tmp_path):
    write(tmp_path / train / "a.png", colour(value=(1, 1, 1)))
    write(tmp_path / test / "a.png", colour(value=(2, 2, 2)))
    for split, value in (("train", 1), ("test", 2)):
        source = images.load(str(tmp_path), split, 8, 3)
        assert len(source) == 1 and source[0]["image"].max() == value and source.held_out


def test_two_training_folders_are_refused(tmp_path):
    for name in ("train", "training"):
        write(tmp_path / name / "a.png", colour())
    with pytest.raises(ValueError, match="train and training, two folders of the training split"):
        images.load(str(tmp_path), "train", 8, 3)


# 9: which class is label 2


def test_classes_are_named(tmp_path):
    for k in range(12):
        write(tmp_path / "folders" / str(k) / "a.png", colour())
    source = images.load(str(tmp_path / "folders"), "train", 8, 3)
    assert source.classes[2] == "10"  # alphabetical, and said
    assert "2 10" in describe(source)
    labels = np.array([0, 3, 1, 1])
    x = np.zeros((4, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "numbers.npz", images=x, labels=labels)
    np.savez(tmp_path / "names.npz", images=x, labels=labels, classes=["a", "b", "c", "d"])
    assert npz.load(str(tmp_path / "numbers.npz"), "train").classes == ["0", "1", "2", "3"]
    assert npz.load(str(tmp_path / "names.npz"), "train").classes == ["a", "b", "c", "d"]


# 10: masks


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "tif"])
def test_a_mask_in_any_format(suffix, tmp_path):
    x = np.full((16, 16), 255, np.uint8)
    x[:8] = 0
    path = write(tmp_path / f"mask.{suffix}", x, **({"quality": 80} if suffix == "jpg" else {}))
    np.testing.assert_array_equal(get_mask(str(path), 16)[..., 0], x / 255)


def test_what_is_erased_is_the_hole(tmp_path):
    x = RNG.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    x[..., 3] = 255
    x[4:8, 2:9, 3] = 0
    path = write(tmp_path / "photo.png", x)
    np.testing.assert_array_equal(get_mask(str(path), 16)[..., 0], x[..., 3] / 255)
    x[0, 0, 3] = 100
    with pytest.raises(ValueError, match="photo.png: pixels that are half transparent"):
        get_mask(str(write(path, x)), 16)


@pytest.mark.parametrize("value, what", [(255, "hides nothing"), (0, "hides everything")])
def test_a_mask_that_decides_nothing_is_refused(value, what, tmp_path):
    path = write(tmp_path / "mask.png", np.full((16, 16), value, np.uint8))
    with pytest.raises(ValueError, match=f"mask.png: the mask {what}; paint"):
        get_mask(str(path), 16)


# 11, 15: pictures to work on


def test_all_pictures_and_a_single_one(tmp_path):
    for i in range(12):
        path = write(tmp_path / "mine" / f"{i}.png", np.full((8, 8), i, np.uint8))
    config = config_of("npz", "nowhere")
    for given, count in ((tmp_path / "mine", 12), (path, 1)):
        config.eval.images = str(given)
        assert len(get_originals(config)) == count
    with pytest.raises(ValueError, match="11.png' is a single image; give the folder"):
        images.load(str(path), "train", 8, 1)
    config.eval.measurements = str(tmp_path / "mine")
    with pytest.raises(ValueError, match="measurements: .*0.png has 8x8 pixels, but .* 4x2"):
        read_pictures(config, "measurements", (2, 4, 1))
    assert file_stems(["a/x.png", "b.png", "b.jpg"]) == ["a_x", "b.png", "b.jpg"]


# 12, 13: shapes


def test_sizes_that_are_no_squares(tmp_path):
    config = base.get_config()
    assert config.to_dict()["data"]["image_size"] == 32  # an int stays an int
    config.data.image_size = (24, 40)
    assert image_shape(config) == (24, 40, 3)
    for wrong in ((24,), "24x40", (24, 40, 3), 6.5, (24, 0), True):
        with pytest.raises(ValueError, match="data.image_size=.* must be a positive number"):
            height_and_width(wrong) if wrong is not True else height_and_width((True, 3))
    x = RNG.integers(0, 256, (5, 12, 16, 1), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=x)
    with pytest.raises(ValueError, match="image_size=8 but .* 12x16; set .*image_size=12,16"):
        get_source(config_of("npz", tmp_path / "a.npz"))
    source = get_source(config_of("npz", tmp_path / "a.npz", (12, 16)))
    np.testing.assert_array_equal(source[1]["image"], x[1])
    np.savez(tmp_path / "first.npz", images=x.transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match="have their channels first, .1, 12, 16."):
        get_source(config_of("npz", tmp_path / "first.npz", (12, 16)))


def test_the_largest_part_of_the_right_shape_is_cut_out(tmp_path):
    x = np.zeros((40, 100, 3), np.uint8)
    x[:, 25:75] = 200  # 40x50 is the largest 4:5 part
    write(tmp_path / "a.png", x)
    found = images.load(str(tmp_path), "train", (20, 25), 3)[0]["image"]
    np.testing.assert_array_equal(found, np.full((20, 25, 3), 200))
    with pytest.raises(ValueError, match="is too small .100x40 pixels. for data.image_size=60"):
        images.load(str(tmp_path), "train", (60, 25), 3)


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_any_number_of_channels(channels, tmp_path):
    np.savez(tmp_path / "a.npz", images=RNG.integers(0, 256, (4, 8, 8, channels), dtype=np.uint8))
    config = config_of("npz", tmp_path / "a.npz", channels=channels)
    assert get_dataset(config, "train", 8)[0]["image"].shape == (8, 8, 8, channels)


# 17: odd files


def test_links_that_lead_back_are_not_followed(tmp_path):
    write(tmp_path / "d" / "cat" / "a.png", colour())
    write(tmp_path / "d" / "dog" / "a.png", colour())
    (tmp_path / "d" / "cat" / "loop").symlink_to(tmp_path / "d")
    (tmp_path / "d" / "dog" / "self").symlink_to("self")
    assert Folder(tmp_path / "d").list("cat") == ([], ["a.png"])
    assert images.load(str(tmp_path / "d"), "train", 8, 3).classes == ["cat", "dog"]


def test_a_name_that_is_no_utf8_costs_no_work(tmp_path, capsys):
    write(tmp_path / "in" / "good.png", colour())
    bad = os.fsencode(tmp_path / "in") + b"/b\xe4d.png"
    with open(bad, "wb") as file:
        file.write(b"no image")
    out = tmp_path / "out"
    prepare_dataset.run(["", str(tmp_path / "in"), str(out), "--size", "8", "--skip-corrupt"])
    assert b"b\xe4d.png cannot be decoded" in (out / "skipped.txt").read_bytes()
    assert "1 train, 1 test images, 1 skipped" in capsys.readouterr().out


def test_a_huge_picture_is_read():
    buffer = io.BytesIO()
    Image.new("1", (20000, 10000)).save(buffer, format="PNG")  # beyond PIL's limit of 179 million
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        assert image.size == (20000, 10000)


# Whole runs


def command(workdir, fields, mode="train"):
    flags = {"training.n_iters": 4, **fields}
    return runs.command(workdir, mode, **{k.replace(".", "__"): v for k, v in flags.items()})


@pytest.mark.slow
def test_oblong_images_of_two_channels_from_data_to_weights(monkeypatch, tmp_path):
    """Trains, samples, inpaints, computes loss and distances, exports and starts from weights."""
    monkeypatch.setattr(features, "STEPS", 20)  # of the judge
    monkeypatch.chdir(tmp_path)
    x = RNG.integers(0, 256, (40, 24, 40, 2), dtype=np.uint8)
    for folder, pixels in (("a", x), ("b", 255 - x // 2)):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "set.npz", images=pixels, labels=np.arange(40) % 2)

    def config_with(folder, **sections):
        data = {"dataset": "npz", "dir": f"{folder}/set.npz", "num_channels": 2}
        sections["data"] = data | {"image_size": (24, 40), "random_flip": False}
        model = {"ch_mult": (1, 2), "attn_resolutions": (12,)}
        return runs.get_config("ve/mnist", model=model, **sections)

    workdir = str(tmp_path / "run")
    few = {"n_iters": 4, "eval_freq": 2, "snapshot_freq": 4, "snapshot_freq_for_preemption": 4}
    state = run_lib.train(config_with("a", training=few), workdir)
    tasks = ("samples", "fd", "loss", "inpaint")
    numbers = {"tasks": tasks, "num_examples": 4, "num_conditioned": 2, "samples_per_image": 1}
    numbers |= {"save_images": True, "known_likelihood": ""}
    tolerances = {"rtol": 0.1, "atol": 0.1}
    reports = []
    for folder, chosen in (("a", tasks), ("b", tasks[:2])):
        config = config_with(folder, eval=numbers | {"tasks": chosen}, sampling=tolerances)
        reports.append(json.loads(json.dumps(run_lib.evaluate(config, workdir))))
    said = (tmp_path / "run" / "stdout.txt").read_text()
    assert "train: 40 images, 2 classes: 0 0, 1 1" in said
    assert "samples: done before" in said
    assert "fd: done again, because of content of data" in said
    distances_of = [[v for k, v in r["fd"].items() if k.startswith("FD-")] for r in reports]
    assert distances_of[0] != distances_of[1] and len(list((tmp_path / "data").rglob("*.s*"))) == 2
    assert reports[0]["loss"]["held_out"] is False
    folder = tmp_path / "run" / "eval" / "step_4"
    with np.load(folder / "samples.npz") as arrays:
        assert arrays["samples"].shape == (12, 24, 40, 2)
    assert len(list((folder / "samples").iterdir())) == 12
    with Image.open(folder / "samples" / "000000.png") as image:
        assert (image.size, image.mode) == ((40, 24), "LA")

    model = scorax.load(workdir)
    assert model.shape == (24, 40, 2) and model.config.data.classes == ("0", "1")
    conversion.export_weights(workdir, model.config, "weights", "weights")
    # Fine-tuning: another data set, the same network.
    start = {"init_from": "weights", "n_iters": 2, "eval_freq": 2, "snapshot_freq": 2}
    start |= {"snapshot_freq_for_preemption": 2, "snapshot_sampling": False}
    config = config_with("b", training=start, optim={"lr": 0.0})
    tuned = run_lib.train(config, str(tmp_path / "tuned"))
    for other in (scorax.load("weights").state, tuned):
        for x, y in zip(*(jax.tree.leaves(s.params_ema) for s in (state, other)), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)
    assert int(tuned.step) == 2
    config.model.nf = 4
    with pytest.raises(ValueError, match="training.init_from='weights': .*model.nf is 4"):
        run_lib.train(config, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def experiment_with(**sections):
    return experiment.build(runs.get_config("edm/mnist_conditional", **sections))


def test_samples_do_not_depend_on_where_the_data_are(tmp_path):
    state = losses.State(np.int32(3), {}, (), {}, {})
    found = [
        EVALUATORS["samples"].settings(experiment_with(data={"dir": dir}), state)
        for dir in ("", str(tmp_path))
    ]
    assert found[0] == found[1] and "data.dir" not in found[0]
    older = found[0] | {"data.dir": "elsewhere"}
    del older["eval.save_images"]
    assert differences(older, found[0]) == []
    assert differences(older | {"sampling.steps": 3}, found[0])[0].startswith(
        "sampling.steps: 3 ->"
    )


def test_only_classes_that_the_data_have_are_drawn():
    config = {"data": {"classes": ("a", "b", "c", "d")}, "eval": {"batch_size": 64}}
    labels = BatchSampler(experiment_with(**config)).draw_labels(jax.random.key(0))
    assert set(labels.tolist()) == {0, 1, 2, 3}


def test_classes_are_asked_for_by_name():
    data = {"classes": ("cat", "dog", "wild")}
    config = {"data": data, "guidance": {"labels": ("wild", "0")}}
    guide = Guide(experiment_with(**config))
    assert guide.labels.tolist() == [2, 0]
    assert guide.classes == ["cat", "dog", "wild", *map(str, range(3, 10))]
    config["guidance"] = {"labels": ("cow",)}
    with pytest.raises(ValueError, match="'cow' is no class; the classes are cat, dog, wild"):
        Guide(experiment_with(**config))


def test_interpolation_needs_two_images(tmp_path):
    np.savez(tmp_path / "one.npz", images=np.zeros((1, 8, 8, 1), np.uint8))
    data = {"dataset": "npz", "dir": str(tmp_path / "one.npz")}
    config = runs.get_config("ve/mnist", data=data)
    with pytest.raises(ValueError, match="needs two images, but the test split has one"):
        check_interpolate(experiment.build(config))


def test_a_slow_average_is_said():
    config = runs.get_config("ve/cifar10_ncsnpp_continuous", training={"n_iters": 100})
    source = get_source(config)
    (said,) = run_lib._check_data(experiment.build(config), source)
    assert "model.ema_rate=0.999 is slow for training.n_iters=100: 90%" in said
    config.model.ema_rate = 0.95
    assert run_lib._check_data(experiment.build(config), source) == []


@pytest.mark.slow
def test_images_of_one_column(cache, tmp_path):
    size, shape = "64,1", (64, 1)
    t = np.linspace(0, 6, 64)
    x = 128 + 100 * np.sin(t + RNG.uniform(0, 6, (32, 1)))
    np.savez(tmp_path / "a.npz", images=x.reshape(32, *shape, 1).astype(np.uint8))
    fields = {
        "data.dataset": "npz", "data.dir": tmp_path / "a.npz", "data.image_size": size,
        "data.random_flip": False, "model.ch_mult": "1,",
    }  # fmt: skip
    output = runs.finish(runs.start(command(tmp_path / "run", fields), runs.environment(cache)))
    assert "finished: step 4 of 4; samples:" in output


# Files of other projects


def test_statistics_of_pytorch_fid_and_edm(tmp_path):
    path = str(tmp_path / "cifar10.npz")
    np.savez(path, mu=np.zeros(4), sigma=np.eye(4))
    found = features.load_statistics(path, {})
    assert (found.num, found.provenance["dataset"]) == (0, "cifar10.npz")
    np.testing.assert_array_equal(found.cov, np.eye(4))
    config = runs.get_config("ve/mnist", eval={"stats": path, "features": "classifier"})
    judge = features.FeatureExtractor("x-classifier", {"features": "x", "sha256": ""}, {}, None, 8)
    with pytest.raises(ValueError, match="statistics of the Inception-v3 features of FID"):
        features.get_reference_statistics(config, judge)


def test_ddpm_of_pytorch_always_embeds_the_noise_level(tmp_path):
    config = tiny("ddpm")
    _, params = random_network(config)
    path = str(tmp_path / "ddpm.safetensors")
    formats.write_safetensors(path, to_torch_state_dict(params, config), {})
    config.model.conditional = False
    model = scorax.load(path, config)
    assert model.config.model.conditional
    for x, y in zip(*map(jax.tree.leaves, (model.state.params, params)), strict=True):
        np.testing.assert_array_equal(x, y)
