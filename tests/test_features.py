"""Features of images, the files of their networks, and reference statistics that fit or do not."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorax.configs import base
from scorax.metrics import features, judge
from scorax.metrics.feature_sets import Features, Statistics
from scorax.weights import formats

COMMON = {"dataset": "digits", "image_size": 8, "num_channels": 1}


def get_config(**eval_fields):
    config = base.get_config()
    config.data.update(COMMON)
    config.eval.update({"features": "classifier", "batch_size": 16} | eval_fields)
    return config.lock()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(tmp_path_factory.mktemp("classifier") / "digits.safetensors")


@pytest.fixture(scope="module")
def extractor(path):
    """That of scikit-learn's digits, whose training writes the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "STEPS", 250)
        return features.get_feature_extractor(get_config(features_path=path))


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(features, "STEPS", 250)


def means_of(name="means", batch_size=16):
    """An extractor without a network: the mean of an image, and of its upper half."""

    def apply(variables, images):
        x = images.astype(jnp.float32) * variables["scale"]
        half = x[:, : x.shape[1] // 2]
        return Features(jnp.stack([x.mean((1, 2, 3)), half.mean((1, 2, 3))], -1))

    provenance = {"features": name, "sha256": "0"}
    return features.FeatureExtractor(name, provenance, {"scale": 2.0}, apply, batch_size)


# Extractors


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("batch_size", [1, 16, 20])
def test_ragged_batches(n, batch_size):
    images = np.random.default_rng(0).integers(0, 256, (n, 6, 5, 3), dtype=np.uint8)
    found = means_of(batch_size=batch_size)(images)
    x = 2.0 * images
    expected = np.stack([x.mean((1, 2, 3)), x[:, :3].mean((1, 2, 3))], -1)
    np.testing.assert_allclose(found.features, expected, rtol=1e-6)
    assert found.logits is None and isinstance(found.features, np.ndarray)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4), np.uint8), np.zeros((0, 4, 4, 3), "u1")]
)
def test_what_is_no_images(images):
    with pytest.raises(ValueError, match=r"features are made of uint8 \(N, H, W, C\)"):
        means_of()(images)


def test_only_inception_is_called_fid():
    assert means_of("inception-v3").distance_name == "FID"
    assert means_of("mnist-classifier").distance_name == "FD-mnist-classifier"


# The classifier


def test_the_classifier_has_learnt_and_is_kept(extractor, path, few_steps, monkeypatch):
    source = features.get_source(get_config(), "test")
    found = extractor(source.images)
    assert found.features.shape == (297, 64) and found.logits.shape == (297, 10)
    assert np.mean(found.logits.argmax(1) == source.labels) > 0.9
    assert extractor.name == "digits-classifier"

    def train(*arguments):
        raise AssertionError("it is trained once")

    monkeypatch.setattr(judge, "train_judge", train)
    again = features.get_feature_extractor(get_config(features_path=path))
    assert again.provenance == extractor.provenance
    np.testing.assert_array_equal(again(source.images).features, found.features)


def test_training_is_a_function_of_the_seed(few_steps):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    data = images, np.arange(50, dtype=np.int32) % 3
    train = lambda seed: features.trained_judge(  # noqa: E731
        None, {}, (8, 8, 1), lambda: data, steps=3, seed=seed
    )[1]
    first, again, other = (features.sha256_of(train(seed)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    "shape, widths",
    [
        ((4, 4, 1), (16, 32)),
        ((8, 8, 1), (16, 32)),
        ((28, 28, 1), (16, 32)),
        ((32, 32, 3), (16, 32)),
        ((40, 64, 3), (16, 32, 64)),
        ((512, 512, 3), (16, 32, 64, 128, 128, 128)),
        ((4, 512, 3), (16, 32)),
    ],
)
def test_classifiers_fit_their_images(shape, widths):
    model = judge.fit_judge(shape, 5)
    assert model.widths == widths
    x = jax.ShapeDtypeStruct((7, *shape), jnp.float32)
    (logits, found), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert logits.shape == (7, 5) and found.shape == (7, 64)


def test_shifts_move_by_a_14th_at_most():
    images = np.zeros((500, 28, 42, 1), np.uint8)
    images[:, 14, 20] = 255
    moved = judge.shift_randomly(images, np.random.default_rng(0))
    _, rows, columns, _ = np.nonzero(moved)
    assert len(rows) == 500  # none is lost
    assert set(rows - 14) == {-2, -1, 0, 1, 2} and set(columns - 20) == {-3, -2, -1, 0, 1, 2, 3}


def test_impossible_classifiers(path, extractor, tmp_path, few_steps):
    with pytest.raises(ValueError, match="images of 4x4 pixels or more and 2 classes or more"):
        judge.fit_judge((3, 8, 1), 5)
    one_class = lambda: (np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4))  # noqa: E731
    with pytest.raises(ValueError, match="cannot be trained on images of one class"):
        features.trained_judge(None, {}, (8, 8, 1), one_class, 3, 0)
    with pytest.raises(ValueError, match="a judge of other data .*steps: 250 instead"):
        features.STEPS = 7  # put back by few_steps
        features.get_feature_extractor(get_config(features_path=path))
    other = str(tmp_path / "other.safetensors")
    formats.write_safetensors(other, {"x": np.zeros(2)}, {})
    with pytest.raises(ValueError, match="other.safetensors was not written as a judge"):
        features.get_feature_extractor(get_config(features_path=other))


# Inception


def inception_arrays():
    """Constant weights in the names and shapes of the file of PyTorch."""
    import golden

    shapes = golden.parse(golden.load("inception"), "names")
    return {name: np.full(shape, 1e-2, np.float32) for name, shape in shapes}


@pytest.mark.slow
def test_inception_from_a_file(tmp_path):
    path = str(tmp_path / "inception.safetensors")
    formats.write_safetensors(path, inception_arrays(), {})
    extractor = features.inception_extractor(path, 8)
    assert extractor.name == extractor.provenance["features"] == "inception-v3"
    x = jax.ShapeDtypeStruct((8, 20, 20, 1), jnp.uint8)
    found = jax.eval_shape(extractor.apply, extractor.variables, x)  # grey images have 3 channels
    assert found.features.shape == (8, 2048) and found.logits.shape == (8, 1008)


def test_files_that_are_not_inception(tmp_path):
    where = "get pt_inception-2015-12-05-6726825d.pth from https://github.com/mseitzer/pytorch-fid"
    for path in ("", str(tmp_path / "nothing.pth")):
        with pytest.raises(ValueError, match=f"'{path}' is no file; {where}"):
            features.get_feature_extractor(get_config(features="inception", inception_path=path))
    path = str(tmp_path / "x.safetensors")
    formats.write_safetensors(path, {"fc.bias": np.zeros(1008)}, {})
    with pytest.raises(
        ValueError, match=f"x.safetensors is not the Inception-v3.*missing; {where}"
    ):
        features.inception_extractor(path, 8)
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(ValueError, match="it is a web page"):
        features.inception_extractor(str(tmp_path / "page.pth"), 8)
    (tmp_path / "state").write_bytes(b"\x81\xa1x\x01")
    with pytest.raises(ValueError, match="unknown format of .* 'flax'; choose from: torch, safe"):
        features.inception_extractor(str(tmp_path / "state"), 8)


def test_unknown_features():
    with pytest.raises(ValueError, match="unknown features .*'vgg'; choose from: inception, class"):
        features.get_feature_extractor(get_config(features="vgg"))


# Reference statistics


@pytest.fixture(scope="module")
def config():
    return get_config()


@pytest.mark.parametrize("chunk", [7, 512, 5000])
def test_statistics_of_all_images(config, chunk, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", chunk)
    source = features.get_source(config, "test")
    images = 2.0 * source.images
    expected = np.stack([images.mean((1, 2, 3)), images[:, :4].mean((1, 2, 3))], -1)
    found = features.get_statistics(config, means_of(batch_size=64), "test")
    assert found.num == len(found.features) == 297
    np.testing.assert_allclose(found.features, expected, rtol=1e-6)
    np.testing.assert_allclose(found.mean, expected.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.cov, np.cov(expected.T), rtol=1e-5)
    assert found.provenance["num_images"] == 297 and found.provenance["split"] == "test"


def test_features_are_kept_evenly_spread(config):
    every = features.get_statistics(config, means_of(batch_size=64), "test")
    some = features.get_statistics(config, means_of(batch_size=64), "test", keep=3)
    none = features.get_statistics(config, means_of(batch_size=64), "test", keep=0)
    np.testing.assert_array_equal(some.features, every.features[[0, 99, 198]])
    assert none.features is none.logits is None
    np.testing.assert_array_equal(none.cov, every.cov)
    with pytest.raises(ValueError, match="keep=-1 features cannot be kept"):
        features.get_statistics(config, means_of(), "test", keep=-1)


@pytest.fixture
def saved(tmp_path):
    """A file of statistics of the digits, and what it was made of."""
    provenance = features.get_data_description(get_config())
    provenance |= {"features": "means", "sha256": "0", "split": "train", "versions": {"jax": "1"}}
    statistics = Statistics(np.arange(2.0), np.eye(2), 9, np.ones((3, 2)), None, provenance)
    path = str(tmp_path / "stats.npz")
    features.save_statistics(path, statistics)
    return path, statistics


def test_statistics_come_back(saved):
    path, statistics = saved
    found = features.get_reference_statistics(get_config(stats=path), means_of())
    for x, y in zip(found[:4], statistics[:4], strict=True):
        np.testing.assert_array_equal(x, y)
    assert found.logits is None and found.provenance == statistics.provenance
    with np.load(path, allow_pickle=False) as file:
        assert json.loads(str(file["provenance"])) == statistics.provenance


def test_statistics_of_something_else(saved):
    path, _ = saved
    config = get_config(stats=path)
    for field, value, message in (
        ("dataset", "mnist", "dataset: 'digits' instead of 'mnist'"),
        ("image_size", 16, "image_size: 8 instead of 16"),
        ("num_channels", 3, "num_channels: 1 instead of 3"),
        ("category", "church", "category: '' instead of 'church'"),
    ):
        changed = config.copy_and_resolve_references()
        changed.data[field] = value
        with pytest.raises(ValueError, match=f"statistics of something else .{message}"):
            features.get_reference_statistics(changed, means_of())
    with pytest.raises(ValueError, match="features: 'means' instead of 'inception-v3'"):
        features.get_reference_statistics(config, means_of("inception-v3"))


def test_content_tells_data_sets_apart(config, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (2, 5, 8, 8, 1), dtype=np.uint8)
    for path, images in (("a/set.npz", x), ("b/set.npz", x), ("c/set.npz", y)):
        (tmp_path / path).parent.mkdir()
        np.savez(tmp_path / path, images=images)

    def describe(dir):
        changed = config.copy_and_resolve_references()
        changed.data.update({"dataset": "npz", "dir": str(tmp_path / dir)})
        return features.get_data_description(changed)

    assert describe("a/set.npz") == describe("b/set.npz") != describe("c/set.npz")


def test_files_without_statistics(tmp_path, saved):
    nothing, text = tmp_path / "nothing.npz", tmp_path / "text.npz"
    text.write_text("mean")
    other = tmp_path / "other.npz"
    np.savez(other, mu=np.zeros(2))
    cut = tmp_path / "cut.npz"
    with open(saved[0], "rb") as file:
        cut.write_bytes(file.read()[:-50])
    for path in (nothing, text, other, cut):
        with pytest.raises(ValueError, match=f"{path.name} holds no reference statistics .*make"):
            features.load_statistics(path, {})


def test_without_a_file_all_training_images_count(config):
    found = features.get_reference_statistics(config, means_of(batch_size=64))
    assert found.num == 1500 and found.provenance["split"] == "train"
