"""Images in npz and HDF5 files: what is read, and what is said of broken files."""

import threading

import h5py
import numpy as np
import pytest

from scorax.data_sources import hdf5, npz

rng = np.random.default_rng(0)


def noise(*shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def write_h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, x in arrays.items():
            file[name] = x
    return str(path)


FORMATS = {"npz": (npz.load, write_npz), "h5": (hdf5.load, write_h5)}


@pytest.fixture(params=FORMATS)
def suffix(request):
    return request.param


@pytest.fixture
def load(suffix):
    return FORMATS[suffix][0]


@pytest.fixture
def write(suffix):
    return FORMATS[suffix][1]


def assert_holds(source, images, labels):
    assert len(source) == len(images)
    for i in range(len(source)):
        example = source[i]
        np.testing.assert_array_equal(example["image"], images[i], strict=True)
        assert example["label"] == labels[i] and example["label"].dtype == np.int32


def test_a_file_for_each_split(tmp_path, suffix, load, write):
    x, y = noise(5, 6, 7, 3), np.array([3, 0, 1, 2, 2], np.uint8)
    write(tmp_path / f"train.{suffix}", images=x, labels=y)
    write(tmp_path / f"val.{suffix}", images=x[:2], labels=y[:2])
    assert_holds(load(str(tmp_path), "train"), x, y)
    assert_holds(load(str(tmp_path), "test"), x[:2], y[:2])
    write(tmp_path / f"test.{suffix}", images=x[2:])
    assert_holds(load(str(tmp_path), "test"), x[2:], [0, 0, 0])


@pytest.mark.parametrize(
    "keys",
    [
        *(("images", "labels"), ("x", "y"), ("arr_0", "arr_1")),
        *(("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("{}/images", "{}/labels")),
    ],
)
@pytest.mark.parametrize("train, test", [("train", "test"), ("train", "val")])
def test_names_of_arrays(tmp_path, suffix, load, write, keys, train, test):
    arrays, expected = {}, {}
    for split, name in (("train", train), ("test", test)):
        image_key, label_key = (key.format(name) for key in keys)
        if image_key not in arrays:
            arrays |= {image_key: noise(3, 4, 5), label_key: rng.integers(0, 9, (3, 1))}
        expected[split] = arrays[image_key][..., None], arrays[label_key][:, 0]
    path = write(tmp_path / f"all.{suffix}", **arrays)
    for split in ("train", "test"):
        assert_holds(load(path, split), *expected[split])


def test_images_cannot_be_written_to(tmp_path):
    source = npz.load(write_npz(tmp_path / "a.npz", images=noise(2, 4, 4)), "train")
    with pytest.raises(ValueError, match="read-only"):
        source[0]["image"][:] = 0


X = np.zeros((2, 4, 4, 3), np.uint8)
DAMAGES = {
    "complex": ({"images": X * 1j}, "images complex128 .2, 4, 4, 3. and.*give uint8 .N, H, W, C."),
    "wide": (
        {"images": X.astype(np.int16)},
        "of type int16: the range .* is unknown; set --config",
    ),
    "one image": ({"images": X[0, 0]}, "do not fit; give uint8"),
    "scalar": ({"images": np.uint8(3)}, "do not fit; give uint8"),
    "five axes": ({"images": X[None]}, "do not fit; give uint8"),
    "empty": ({"images": X[:0]}, "at least one example, this one has none; add some"),
    "labels short": ({"images": X, "labels": np.zeros(1, np.int32)}, "labels .1,. do not fit"),
    "one-hot": ({"images": X, "labels": np.eye(2)}, "labels .2, 2. do not fit"),
    "fractions": ({"images": X, "labels": np.array([0, 0.5])}, "float64 are not whole numbers"),
    "names": ({"pictures": X, "more": X}, "holds no images of the train split, only more, pict"),
    "other split": ({"test_images": X}, "no images of the train split, only test_images; name"),
    "nothing": ({}, "holds no images of the train split, only nothing; name them 'images'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_arrays_that_do_not_fit(tmp_path, suffix, load, write, damage):
    arrays, message = DAMAGES[damage]
    path = write(tmp_path / f"a.{suffix}", **arrays)
    with pytest.raises(ValueError, match=f"a.{suffix}:? .*{message}"):
        load(path, "train")


def test_missing_files(tmp_path, suffix, load, write):
    with pytest.raises(ValueError, match=f"data.dir='' names no data.*to a .{suffix} file"):
        load("", "train")
    with pytest.raises(ValueError, match=f"nowhere' is neither a .{suffix} file nor .*train"):
        load(str(tmp_path / "nowhere"), "train")
    write(tmp_path / f"train.{suffix}", images=X)
    with pytest.raises(ValueError, match=f"nor a folder with test.{suffix} or val.{suffix}; set"):
        load(str(tmp_path), "test")
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        load(str(tmp_path), "valid")


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_truncated_file(tmp_path, suffix, load, write, kept):
    path = tmp_path / f"a.{suffix}"
    write(path, images=noise(20, 16, 16))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=rf"a.{suffix} cannot be read as .*; write or fetch"):
        load(str(path), "train")


def test_another_kind_of_file(tmp_path, suffix, load):
    path = tmp_path / f"a.{suffix}"
    path.write_text("<!DOCTYPE html>" * 100)
    with pytest.raises(ValueError, match=rf"a.{suffix} cannot be read as .*; write or fetch"):
        load(str(path), "train")


def test_nothing_pickled_is_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("loaded").touch, ())

    np.savez(tmp_path / "a.npz", images=np.array([Evil()], object))
    with pytest.raises(ValueError, match="a.npz cannot be read as arrays .Object arrays"):
        npz.load(str(tmp_path / "a.npz"), "train")
    with (tmp_path / "b.npz").open("wb") as file:
        np.save(file, noise(2, 4, 4))
    with pytest.raises(ValueError, match="b.npz is a single array; write an archive"):
        npz.load(str(tmp_path / "b.npz"), "train")
    assert not (tmp_path / "loaded").exists()


def test_threads_read_chunks_of_one_file(tmp_path):
    x = noise(60, 16, 16, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", data=x, chunks=(7, 16, 16, 3), compression="gzip")
    source = hdf5.load(str(tmp_path / "a.h5"), "train")
    wrong = []

    def read(seed):
        order = np.random.default_rng(seed).permutation(60)
        wrong.extend(i for i in order if not np.array_equal(source[i]["image"], x[i]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_damaged_chunk_is_named(tmp_path):
    x = noise(3, 32, 32, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = file.create_dataset("images", data=x, chunks=(1, 32, 32, 3), compression="gzip")
        chunk = images.id.get_chunk_info(1)
    with (tmp_path / "a.h5").open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\0" * 100)
    source = hdf5.load(str(tmp_path / "a.h5"), "train")
    np.testing.assert_array_equal(source[2]["image"], x[2])
    with pytest.raises(ValueError, match="image 1 of .*a.h5 cannot be read as HDF5"):
        source[1]
