"""Streams of batches: order, randomness, sharding, resuming and the model's range."""

import json
import threading
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from scorax import datasets
from scorax.configs import base
from scorax.data_sources.arrays import ArraySource
from scorax.data_sources.dynamics import CHAINS
from scorax.data_sources.points import POINTS
from scorax.utils import parallel

N = 50  # examples of the toy set; label and corner pixel of example i are i


def toy_images():
    x = np.zeros((N, 4, 4, 1), np.uint8)
    x[:, 0] = np.arange(N)[:, None, None]
    x[:, 3, 0] = 255  # a mark at the left, at the right after a flip
    return x


@pytest.fixture
def config(monkeypatch):
    source = ArraySource(toy_images(), np.arange(N))
    monkeypatch.setitem(datasets.DATASETS, "toy", lambda data, split: source)
    c = base.get_config()
    c.data.dataset = "toy"
    c.data.image_size = 4
    c.data.num_channels = 1
    c.data.random_flip = False
    c.training.batch_size = 8
    return c


def labels_of(dataset, start, stop):
    return np.concatenate([dataset[k]["label"] for k in range(start, stop)])


def assert_equal(a, b):
    assert a.keys() == b.keys() == {"image", "label", "index"}
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], strict=True)


def flipped(batch):
    return batch["image"][:, 3, 3, 0] > 0.9


# Range


@pytest.mark.parametrize("centered, low", [(False, 0.0), (True, -1.0)])
def test_scalers_cover_the_range_and_undo_each_other(config, centered, low):
    config.data.centered = centered
    scale, unscale = datasets.get_data_scaler(config), datasets.get_data_inverse_scaler(config)
    x = np.linspace(0, 1, 9, dtype=np.float32)
    y = scale(x)
    assert y.dtype == np.float32 and y[0] == low and y[-1] == 1.0
    np.testing.assert_array_equal(y[4], (low + 1) / 2)
    np.testing.assert_array_equal(unscale(y), x)


@pytest.mark.parametrize("centered", [False, True])
def test_batches_are_in_the_model_range(config, centered):
    config.data.centered = centered
    batch = datasets.get_dataset(config)[0]
    assert batch["image"].shape == (8, 4, 4, 1) and batch["image"].dtype == np.float32
    assert batch["label"].shape == (8,) and batch["label"].dtype == np.int32
    assert batch["index"].dtype == np.uint32
    x = datasets.get_data_inverse_scaler(config)(batch["image"]) * 255
    np.testing.assert_allclose(x, toy_images()[batch["label"]], atol=1e-4)
    assert batch["image"].min() == (-1.0 if centered else 0.0) and batch["image"].max() == 1.0


# Order


def test_an_epoch_has_every_example_once_and_the_next_another_order(config):
    order = labels_of(datasets.get_dataset(config), 0, 25)  # 4 epochs
    epochs = order.reshape(4, N)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(N), (4, 1)))
    for a in range(4):
        assert not np.array_equal(epochs[a], np.arange(N))
        for b in range(a):
            # Two independent orders agree in about one place.
            assert np.sum(epochs[a] == epochs[b]) < 10


def test_the_seed_sets_the_order(config):
    first = labels_of(datasets.get_dataset(config), 0, 25)
    np.testing.assert_array_equal(first, labels_of(datasets.get_dataset(config), 0, 25))
    config.seed += 1
    second = labels_of(datasets.get_dataset(config), 0, 25)
    assert np.mean(first == second) < 0.2
    assert not np.array_equal(first[N : 2 * N], second[:N])  # neighbours share no epoch


def test_the_test_split_comes_in_order_and_again(config):
    config.data.random_flip = True
    dataset = datasets.get_dataset(config, "test", batch_size=40)
    np.testing.assert_array_equal(labels_of(dataset, 0, 5), np.arange(200) % N)
    assert not any(flipped(dataset[k]).any() for k in range(5))


def test_shuffle_overrides_the_split(config):
    ordered = datasets.get_dataset(config, "train", shuffle=False)
    np.testing.assert_array_equal(labels_of(ordered, 0, 5), np.arange(40))
    shuffled = datasets.get_dataset(config, "test", shuffle=True)
    assert not np.array_equal(labels_of(shuffled, 0, 5), np.arange(40))


def test_index_is_the_position_in_the_stream(config):
    dataset = datasets.get_dataset(config)
    np.testing.assert_array_equal(dataset[3]["index"], np.arange(24, 32))
    last = dataset[2**29 - 1]["index"]
    np.testing.assert_array_equal(last, np.arange(2**32 - 8, 2**32, dtype=np.uint32))
    np.testing.assert_array_equal(dataset[2**29]["index"], np.arange(8))


def test_a_batch_may_be_larger_than_the_data(config):
    config.training.batch_size = 2 * N + 4
    counts = np.bincount(datasets.get_dataset(config)[0]["label"], minlength=N)
    assert counts.min() == 2 and counts.max() == 3


# Randomness


def test_half_of_the_training_images_are_flipped(config):
    config.data.random_flip = True
    dataset = datasets.get_dataset(config)
    flips = np.concatenate([flipped(dataset[k]) for k in range(125)])
    assert 0.45 < flips.mean() < 0.55
    for k in range(3):
        flip = flipped(dataset[k])
        images = toy_images()[dataset[k]["label"]]
        images[flip] = images[flip][:, :, ::-1]
        np.testing.assert_allclose(dataset[k]["image"] * 255, images, atol=1e-4)
    epochs = flips.reshape(20, N)
    labels = labels_of(dataset, 0, 125).reshape(20, N)
    by_label = np.take_along_axis(epochs, np.argsort(labels), 1)
    assert 0.3 < np.mean(by_label[0] == by_label[1]) < 0.7  # decided anew every epoch
    config.data.random_flip = False
    plain = datasets.get_dataset(config)
    assert not any(flipped(plain[k]).any() for k in range(20))


def test_training_images_are_moved_in_all_directions(config, monkeypatch):
    config.data.random_shift = 1
    images = np.random.default_rng(0).integers(1, 256, (N, 4, 4, 1), np.uint8)
    source = ArraySource(images, np.arange(N))
    monkeypatch.setitem(datasets.DATASETS, "toy", lambda data, split: source)
    dataset, counts = datasets.get_dataset(config, batch_size=80), np.zeros((3, 3), int)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for k in range(20):
        batch = dataset[k]
        for x, label in zip(batch["image"], batch["label"], strict=True):
            found = [
                (i, j)
                for i, j in np.ndindex(3, 3)
                if np.allclose(x * 255, padded[label, i : i + 4, j : j + 4], atol=1e-4)
            ]
            assert len(found) == 1
            counts[found[0]] += 1
    assert counts.min() > 0.7 * counts.mean() and counts.max() < 1.3 * counts.mean()


@pytest.mark.parametrize("shift", [-1, 4])
def test_shift_must_leave_something_of_the_image(config, shift):
    config.data.random_shift = shift
    with pytest.raises(ValueError, match=f"data.random_shift={shift} must be less than the 4"):
        datasets.get_dataset(config)


@pytest.mark.parametrize("split, shuffle", [("train", False), ("test", False), ("test", True)])
def test_nothing_but_shuffled_training_data_is_flipped_and_moved(config, split, shuffle):
    config.data.random_flip, config.data.random_shift = True, 1
    dataset = datasets.get_dataset(config, split, shuffle=shuffle)
    for k in range(20):
        images = toy_images()[dataset[k]["label"]]
        np.testing.assert_allclose(dataset[k]["image"] * 255, images, atol=1e-4)


@pytest.mark.parametrize("split", ["train", "test"])
def test_dequantization_fills_the_bins(config, split):
    config.data.uniform_dequantization = True
    dataset = datasets.get_dataset(config, split, batch_size=400)
    batch, other = dataset[0], dataset[1]
    images = toy_images()[batch["label"]]
    u = batch["image"] * 256.0 - images
    assert u.min() >= 0 and u.max() < 1 and batch["image"].max() < 1
    assert abs(u.mean() - 0.5) < 0.02 and abs(u.var() - 1 / 12) < 0.005
    noise = u.reshape(400, -1)
    assert len(np.unique(noise, axis=0)) == 400  # every position its own
    correlation = np.corrcoef(noise.T) - np.eye(16)
    assert np.abs(correlation).max() < 0.3
    assert not np.array_equal(u, other["image"] * 256.0 - toy_images()[other["label"]])
    assert_equal(batch, datasets.get_dataset(config, split, batch_size=400)[0])


def test_splits_and_seeds_have_their_own_noise(config):
    config.data.uniform_dequantization = True

    def noise(split):
        batch = datasets.get_dataset(config, split)[0]
        return batch["image"] * 256.0 - toy_images()[batch["label"]]

    train, test = noise("train"), noise("test")
    config.seed += 1
    assert not np.array_equal(train, test) and not np.array_equal(train, noise("train"))


# Processes


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("split", ["train", "test"])
def test_processes_share_one_stream(config, monkeypatch, split, count):
    config.data.random_flip = config.data.uniform_dequantization = config.data.centered = True
    whole = datasets.get_dataset(config, split)
    monkeypatch.setattr(parallel, "process_count", lambda: count)
    shares = []
    for process in range(count):
        monkeypatch.setattr(parallel, "process_index", lambda process=process: process)
        shares.append(datasets.get_dataset(config, split))
    for k in (0, 5, 6, 1000):
        batches = [share[k] for share in shares]
        joined = {
            key: np.stack([b[key] for b in batches], 1).reshape(8, *whole[k][key].shape[1:])
            for key in whole[k]
        }
        assert batches[0]["index"].shape == (8 // count,)
        assert_equal(joined, whole[k])


# Iterators


@pytest.mark.parametrize("threads", [1, 5])
def test_resuming_with_other_threads_continues_exactly(config, threads):
    config.data.random_flip = config.data.uniform_dequantization = True
    config.data.num_threads = 3
    dataset = datasets.get_dataset(config)
    iterator = datasets.get_iterator(dataset, config)
    whole = [next(iterator) for _ in range(14)]
    config.data.num_threads = threads
    first = datasets.get_iterator(datasets.get_dataset(config), config)
    for _ in range(9):  # within the second epoch
        next(first)
    state = first.get_state()
    assert state == 9 and isinstance(state, int)
    second = datasets.get_iterator(datasets.get_dataset(config), config, state)
    for k in range(9, 14):
        assert second.get_state() == k
        assert_equal(next(second), whole[k])
    second.set_state(2)
    assert_equal(next(second), whole[2])
    assert_equal(whole[11], dataset[11])
    for it in (iterator, first, second):
        it.close()


class FailingSource(ArraySource):
    """The toy source, whose example 20 cannot be read until it is repaired."""

    def __init__(self):
        super().__init__(toy_images(), np.arange(N))
        self.broken, self.threads = True, set()

    def __getitem__(self, i):
        self.threads.add(threading.get_ident())
        if self.broken and i == 20:
            raise ValueError("pictures/20.png cannot be decoded; replace or remove it")
        return super().__getitem__(i)


def test_an_error_in_a_thread_arrives_and_keeps_the_number(config, monkeypatch):
    source = FailingSource()
    monkeypatch.setitem(datasets.DATASETS, "toy", lambda data, split: source)
    dataset = datasets.get_dataset(config, "test")
    source.threads.clear()
    iterator = datasets.get_iterator(dataset, config)
    for _ in range(2):
        next(iterator)
    for _ in range(2):
        with pytest.raises(ValueError, match="^pictures/20.png cannot be decoded; replace"):
            next(iterator)
        assert iterator.get_state() == 2
    source.broken = False
    np.testing.assert_array_equal(next(iterator)["index"], np.arange(16, 24))
    assert source.threads and threading.get_ident() not in source.threads
    iterator.close()


# Sources by name


def test_names_are_those_of_score_sde_too(config, monkeypatch):
    config.data.dataset = "TOY"
    assert len(datasets.get_source(config)) == N
    config.data.dataset = "CIFAR11"
    with pytest.raises(
        ValueError, match="unknown dataset .data.dataset. .cifar11.; choose from: mnist, .*afhq"
    ):
        datasets.get_source(config)


def test_mnist_feeds_the_pipeline(config):
    config.data.dataset = "MNIST"
    config.data.image_size = 28
    dataset = datasets.get_dataset(config, batch_size=1000)
    labels = labels_of(dataset, 0, 5)
    np.testing.assert_array_equal(np.bincount(labels), [500] * 10)
    assert 0.1 < dataset[0]["image"].mean() < 0.16  # 0.13 is MNIST's


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_feed_the_pipeline(config, split):
    config.data.dataset = "digits"
    config.data.image_size = 8
    assert datasets.get_dataset(config, split)[0]["image"].shape == (8, 8, 8, 1)


def write_npz(folder):
    np.savez(folder / "train.npz", images=toy_images(), labels=np.arange(N))
    return folder


def write_hdf5(folder):
    with h5py.File(folder / "train.h5", "w") as file:
        file["images"], file["labels"] = toy_images(), np.arange(N)
    return folder


def write_zip(folder):
    with zipfile.ZipFile(folder / "toy.zip", "w") as file:
        for i, x in enumerate(toy_images()):
            Image.fromarray(x[..., 0]).save(folder / "toy.png")
            file.write(folder / "toy.png", f"toy/{i:02}.png")
        labels = {"labels": [[f"{i:02}.png", i] for i in range(N)]}
        file.writestr("toy/dataset.json", json.dumps(labels))
    return folder / "toy.zip"


@pytest.mark.parametrize(
    "name, write", [("npz", write_npz), ("hdf5", write_hdf5), ("image_folder", write_zip)]
)
def test_the_same_examples_from_files(config, tmp_path, name, write):
    expected = datasets.get_dataset(config)
    config.data.dataset, config.data.dir = name, str(write(tmp_path))
    dataset = datasets.get_dataset(config)
    for k in (0, 9):
        assert_equal(dataset[k], expected[k])


# Inside packages, or drawn
OFFLINE = {"mnist", "digits", "photographs", "ou", "sines", "waves", *POINTS, *CHAINS}


@pytest.mark.parametrize("name", sorted(set(datasets.DATASETS) - OFFLINE))
@pytest.mark.parametrize("dir", ["", "missing/files"])
def test_missing_data(config, tmp_path, monkeypatch, name, dir):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    config.data.dataset, config.data.dir, config.data.category = name, dir, "bedroom"
    config.data.length = 24  # of series
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=f"{dir}.*; .*--config.data.dir") as caught:
            datasets.get_source(config, split)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# Errors


@pytest.mark.parametrize(
    "section, field, value, message",
    [
        ("data", "image_size", 32, "data.image_size=32 but.*4x4; set --config.data.image_size=4"),
        ("data", "num_channels", 3, "data.num_channels=3 but.* 1; set --config.data.num_channels"),
        ("data", "dataset", "image_folder", "data.dir=''.*--config.data.dir=DIR"),
        ("training", "batch_size", 0, "training.batch_size=0.*set a positive multiple"),
        ("data", "num_threads", 0, "data.num_threads=0.*set 1 or more"),
    ],
)
def test_impossible_settings(config, section, field, value, message):
    config[section][field] = value
    with pytest.raises(ValueError, match=message):
        datasets.get_iterator(datasets.get_dataset(config), config)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_impossible_seed(config, seed):
    config.seed = seed
    with pytest.raises(ValueError, match=f"seed={seed} is out of range; set 0 <= seed"):
        datasets.get_dataset(config)


def test_impossible_start(config):
    with pytest.raises(ValueError, match="there is no batch -1"):
        datasets.get_iterator(datasets.get_dataset(config), config, start=-1)


def test_a_width_and_a_height_are_both_checked(config, monkeypatch):
    source = ArraySource(np.zeros((4, 4, 6, 1), np.uint8), np.zeros(4))
    monkeypatch.setitem(datasets.DATASETS, "toy", lambda data, split: source)
    with pytest.raises(ValueError, match="are 4x6"):
        datasets.get_source(config)
