"""Data sets prepared by TFDS, in small: its own builders and features, and images made here."""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered

from scorax import datasets
from scorax.configs import base
from scorax.data_sources import cifar10, mnist, resizing, tfds_source

N = 7  # examples a split
rng = np.random.default_rng(0)


def encode(x, kind):
    file = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(file, kind)
    return io.BytesIO(file.getvalue())


def celeb_a_extra(features, i):
    return {
        "landmarks": {key: i for key in features["landmarks"].keys()},
        "attributes": {key: i % 2 == 0 for key in features["attributes"].keys()},
        "identity": {"Identity_No": i},
    }


def labels_only(features, i):
    return {"label": i}


def labels_and_ids(features, i):
    return {"label": i, "id": str(i)}


# TFDS's name, shape and kind of the stored images, splits, further features of example i
CASES = {
    "mnist": ("mnist", (28, 28, 1), "PNG", ("train", "test"), labels_only),
    "fashion_mnist": ("fashion_mnist", (28, 28, 1), "PNG", ("train", "test"), labels_only),
    "cifar10": ("cifar10", (32, 32, 3), "PNG", ("train", "test"), labels_and_ids),
    "svhn": ("svhn_cropped", (32, 32, 3), "PNG", ("train", "test", "extra"), labels_and_ids),
    "celeba": ("celeb_a", (218, 178, 3), "JPEG", ("train", "validation", "test"), celeb_a_extra),
    "celebahq": (
        *("celeb_a_hq/256", (256, 256, 3), "PNG", ("train",)),
        lambda features, i: {"image/filename": f"{i}.png"},
    ),
    "lsun": (
        *("lsun/church_outdoor", (48, 80, 3), "JPEG", ("train", "validation")),
        lambda features, i: {"id": str(i)},
    ),
}


def prepare(data_dir, dataset, file_format="array_record"):
    """Writes a data set with TFDS; returns {split: decoded images (N, H, W, C)}."""
    name, shape, kind, splits, extra = CASES[dataset]
    pixels = rng.integers(0, 256, (len(splits), N, *shape), dtype=np.uint8)
    files = {s: [encode(x, kind) for x in xs] for s, xs in zip(splits, pixels, strict=True)}

    def generate(self, split):
        for i, file in enumerate(files[split]):
            yield i, {"image": file} | extra(self.info.features, i)

    name, _, config = name.partition("/")
    members = {
        "_split_generators": lambda self, _: {s: self._generate_examples(s) for s in splits},
        "_generate_examples": generate,
        "name": name,
    }
    published = tfds.builder_cls(name)
    with registered.skip_registration():  # under the name of the published one
        builder_class = type(name, (published,), members)
    builder = builder_class(data_dir=data_dir, file_format=file_format, config=config or None)
    builder.download_and_prepare()
    decoded = {s: [np.asarray(Image.open(file)) for file in fs] for s, fs in files.items()}
    return {s: np.stack(xs).reshape(N, *shape) for s, xs in decoded.items()}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tensorflow_datasets")


@pytest.fixture(scope="module")
def stored(data_dir):
    """{data set: {split: images as stored}}, all prepared in `data_dir`."""
    tfds.disable_progress_bar()
    return {dataset: prepare(data_dir, dataset) for dataset in CASES}


def order_of(stored, found):
    """Where each found image is among the stored ones: TFDS shuffles when it writes."""
    equal = [[np.array_equal(x, y) for y in stored] for x in found]
    assert np.all(np.sum(equal, 1) == 1)
    return np.argmax(equal, 1)


def get_config(dataset, data_dir, size, channels=3, category=""):
    config = base.get_config()
    config.data.update(
        dataset=dataset, dir=str(data_dir), image_size=size, num_channels=channels,
        category=category, num_threads=3, random_flip=False,
    )  # fmt: skip
    config.training.batch_size = 8
    return config


# What is read is what was stored


@pytest.mark.parametrize("dataset, size", [("cifar10", 32), ("svhn", 32), ("celebahq", 256)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_and_labels_are_those_stored(stored, data_dir, dataset, size, split):
    source = datasets.get_source(get_config(dataset, data_dir, size), split)
    assert len(source) == N
    images = stored[dataset].get(split, stored[dataset]["train"])  # CelebA-HQ has one split
    examples = [source[i] for i in range(N)]
    order = order_of(images, [e["image"] for e in examples])
    np.testing.assert_array_equal(np.sort(order), np.arange(N))
    labels = np.zeros(N) if dataset == "celebahq" else order
    np.testing.assert_array_equal([e["label"] for e in examples], labels)
    assert examples[0]["label"].dtype == np.int32 and examples[0]["image"].dtype == np.uint8


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_grey_images_have_one_channel(stored, data_dir, dataset):
    source = datasets.get_source(get_config(dataset, data_dir, 28, channels=1), "test")
    examples = [source[i] for i in range(N)]
    order = order_of(stored[dataset]["test"], [e["image"] for e in examples])
    np.testing.assert_array_equal([e["label"] for e in examples], order)


@pytest.mark.parametrize(
    "dataset, size, resize, category",
    [
        ("cifar10", 16, resizing.resize_square, ""),
        ("svhn", 64, resizing.resize_square, ""),
        ("celeba", 64, resizing.resize_celeba, ""),
        ("lsun", 32, resizing.resize_lsun, "church_outdoor"),
    ],
)
def test_every_data_set_is_cropped_and_scaled_in_its_own_way(
    stored, data_dir, dataset, size, resize, category
):
    config = get_config(dataset, data_dir, size, category=category)
    for split in ("train", "test"):
        source = datasets.get_source(config, split)
        published = "validation" if dataset in ("celeba", "lsun") and split == "test" else split
        expected = [resize(x, size) for x in stored[dataset][published]]
        found = [source[i]["image"] for i in range(N)]
        assert found[0].shape == (size, size, 3)
        np.testing.assert_array_equal(np.sort(order_of(expected, found)), np.arange(N))


def test_several_threads_read_what_one_reads(stored, data_dir):
    alone = tfds_source.load("celeba", str(data_dir), "train", 64)
    expected = [alone[i]["image"] for i in range(N)]
    together = tfds_source.load("celeba", str(data_dir), "train", 64)  # opens its files late
    numbers = np.random.default_rng(1).integers(N, size=300)
    with ThreadPoolExecutor(8) as pool:
        for i, example in zip(numbers, pool.map(together.__getitem__, numbers), strict=True):
            np.testing.assert_array_equal(example["image"], expected[i])


@pytest.mark.slow
def test_the_pipeline_reads_with_threads_and_without_tensorflow(stored, data_dir):
    program = f"""
import sys
import datasets
from tests.test_tfds_sources import get_config
config = get_config("cifar10", {str(data_dir)!r}, 32)
iterator = datasets.get_iterator(datasets.get_dataset(config), config)
print(sum(next(iterator)["image"].shape[0] for _ in range(9)))
iterator.close()
print([name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "tf_keras")])
"""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:2] == ["72", "[]"], done.stderr


# Where it is looked for


def test_the_newest_complete_version_is_read(stored, data_dir, tmp_path):
    for version in ("3.0.2", "10.0.0", "2.0.0", "11.0.0.incompleteXYZ"):
        folder = tmp_path / "cifar10" / version
        folder.parent.mkdir(exist_ok=True)
        folder.symlink_to(data_dir / "cifar10" / "3.0.2")
    (tmp_path / "cifar10" / "12.0.0").mkdir()
    assert tfds_source.load("cifar10", str(tmp_path), "train", 32).folder.name == "10.0.0"


def test_tfds_own_default_is_tried(stored, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(tfds_source.load("svhn", "", "train", 32)) == N
    assert len(cifar10.load("", "train")) == N
    assert len(mnist.load_fashion("", "train")) == N
    assert len(mnist.load("", "train")) == 5000  # the embedded ones, whatever else there is
    (tmp_path / "data" / "fashion-mnist").mkdir(parents=True)
    with pytest.raises(ValueError, match="not in 'data/fashion-mnist'"):
        mnist.load_fashion("", "train")


# Errors


@pytest.mark.parametrize(
    "dataset, category, message",
    [
        ("svhn", "", "SVHN is not in '{}/svhn_cropped'.*builder.'svhn_cropped', data_dir='{}'"),
        ("celeba", "", "CelebA is not in.*file_format='array_record'.*--config.data.dir=DIR"),
        ("lsun", "bedroom", "LSUN is not in '{}/lsun/bedroom'.*TensorFlow has to be installed"),
        ("lsun", "", "data.category=''.*set --config.data.category to bedroom"),
        ("celebahq", "", "CelebA-HQ is not in '{}/celeb_a_hq/64'"),
    ],
)
def test_missing_data_set(tmp_path, dataset, category, message):
    with pytest.raises(ValueError, match=message.format(tmp_path, tmp_path)):
        tfds_source.load(dataset, str(tmp_path), "train", 64, category)


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        tfds_source.load("svhn", str(tmp_path), "valid", 32)


@pytest.fixture
def copy(stored, data_dir, tmp_path):
    """The folder of a copy of CIFAR-10, to be damaged."""
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    for path in (data_dir / "cifar10" / "3.0.2").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def load_copy(copy, split="train"):
    return tfds_source.load("cifar10", str(copy.parent.parent), split, 32)


def test_files_in_the_other_format(copy):
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="holds tfrecord files.*in another folder: python -c"):
        load_copy(copy)


def test_a_split_that_was_not_prepared(copy):
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace('"name": "test"', '"name": "other"'))
    with pytest.raises(ValueError, match="has no split 'test', only .*train.*; prepare all of it"):
        load_copy(copy, "test")


def test_a_missing_file(copy):
    path = copy / "cifar10-train.array_record-00000-of-00001"
    path.unlink()
    with pytest.raises(ValueError, match=f"{path} is missing; prepare"):
        load_copy(copy)


@pytest.mark.parametrize("kept", [0.0, 0.6])
def test_a_file_that_is_cut_off(copy, kept):
    path = copy / "cifar10-train.array_record-00000-of-00001"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    source = load_copy(copy)
    with pytest.raises(ValueError, match=f"example 3 of '{copy}' cannot be read.*; prepare"):
        source[3]
