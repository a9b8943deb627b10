"""Folders and zips of images: layouts, labels, scaling, and what is said of broken ones."""

import json
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from scorax.data_sources import images
from scorax.data_sources.resizing import crop_resize

rng = np.random.default_rng(0)


def labels_of(source):
    return [int(source[i]["label"]) for i in range(len(source))]


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
@pytest.mark.parametrize("channels", [1, 3])
def test_formats_and_colour_kinds(tmp_path, suffix, channels):
    modes = {"RGB", "L", "P", "RGBA"}
    modes -= {"P", "RGBA"} if suffix in ("jpg", "jpeg", "bmp") else set()
    modes -= {"L"} if channels == 3 else set()
    layout = {f"train/a/{m}.{suffix}": picture(color=(51, 51, 51), mode=m) for m in modes}
    source = images.load(write_images(tmp_path, layout), "train", 8, channels)
    assert len(source) == len(modes)
    for i in range(len(source)):
        assert source[i]["image"].shape == (8, 8, channels)
        assert source[i]["image"].dtype == np.uint8
        assert np.abs(source[i]["image"].astype(int) - 51).max() <= 2


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("scale", [1, 8])
def test_the_middle_is_cut_out(tmp_path, tall, scale):
    x = np.zeros((16 * scale, 48 * scale, 3), np.uint8)
    x[:, 16 * scale : 32 * scale] = (20, 200, 90)
    image = Image.fromarray(x.swapaxes(0, 1) if tall else x)
    source = images.load(write_images(tmp_path, {"train/a/0.png": image}), "train", 16, 3)
    np.testing.assert_array_equal(source[0]["image"], np.full((16, 16, 3), (20, 200, 90)))


def test_an_image_of_the_wanted_size_is_unchanged(tmp_path):
    image = noise_picture(16)
    source = images.load(write_images(tmp_path, {"train/a/0.png": image}), "train", 16, 3)
    np.testing.assert_array_equal(source[0]["image"], np.asarray(image))


def test_scaling_keeps_orientation_and_does_not_alias(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 64)[None, :, None], (64, 64, 3)).astype(np.uint8)
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    layout = {
        "train/ramp.png": Image.fromarray(ramp),
        "train/checker.png": Image.fromarray(checker).convert("RGB"),
    }
    source = images.load(write_images(tmp_path, layout), "train", 16, 3)
    means = source[1]["image"][..., 0].astype(int)
    assert np.all(np.diff(means, axis=1) > 0) and np.all(means == means[:1])
    assert np.abs(source[0]["image"].astype(int) - 127).max() <= 8


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
    assert len(images.load(root, "train", 12, 3)) == 1
    (tmp_path / "train" / "a" / "1.png").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="a/1.png cannot be decoded .not an image.; replace"):
        images.load(root, "train", 12, 3)


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
    with pytest.raises(ValueError, match="data.num_channels=5 is not possible .*set 1 or 3"):
        images.load(str(tmp_path), "train", 64, 5)
    (tmp_path / "file").write_text("no zip")
    with pytest.raises(ValueError, match="file cannot be read as a zip .File is not a zip file."):
        images.load(str(tmp_path / "file"), "train", 64, 3)
    with pytest.raises(ValueError, match="the zip 'gone.zip' does not exist; put the images into"):
        images.load("gone.zip", "train", 64, 3)


# Images that stand out


@pytest.mark.parametrize("size", [(13, 12), (16, 16), (8, 8)])
def test_another_size_than_most(tmp_path, size):
    layout = {f"train/a/{i}.png": picture(*(size if i == 1 else (12, 12))) for i in range(3)}
    root = write_images(tmp_path, layout)
    message = f"a/1.png is of another size .{size[0]}x{size[1]} pixels. than most .12x12.; bring"
    with pytest.raises(ValueError, match=f"{message}.*tools.prepare_dataset"):
        images.load(root, "train", 8, 3)


def test_portraits_and_landscapes_have_one_size(tmp_path):
    layout = {"train/0.png": picture(12, 16), "train/1.png": picture(16, 12)}
    assert len(images.load(write_images(tmp_path, layout), "train", 12, 3)) == 2


def test_too_few_pixels(tmp_path):
    layout = {f"train/a/{i}.png": picture(20, 12) for i in range(3)}
    with pytest.raises(
        ValueError, match="a/0.png .and 2 more. is too small .20x12 pixels. for data.image_size=16"
    ):
        images.load(write_images(tmp_path, layout), "train", 16, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_greyscale_among_colour(tmp_path, suffix):
    layout = {f"train/a/{i}.{suffix}": picture(mode="L" if i == 2 else "RGB") for i in range(3)}
    root = write_images(tmp_path, layout)
    message = f"a/2.{suffix} is greyscale where data.num_channels=3.*data.num_channels=1"
    with pytest.raises(ValueError, match=message):
        images.load(root, "train", 8, 3)
    assert images.load(root, "train", 8, 1)[2]["image"].shape == (8, 8, 1)


# Retinal OCT


def test_scans_of_any_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="'data/retinal_oct' does not exist; get.*mendeley"):
        images.load_oct("", "train", 16, 1)
    x = rng.integers(0, 256, (24, 40), dtype=np.uint8)
    y = rng.integers(0, 256, (31, 24), dtype=np.uint8)
    layout = {
        f"{split}/{label}/{label}-1-1.png": Image.fromarray(x if label < "N" else y)
        for split in ("train", "test", "val")
        for label in ("NORMAL", "CNV", "DRUSEN", "DME")
    }
    write_images(tmp_path / "data" / "retinal_oct", layout)
    source = images.load_oct("", "test", 16, 1)
    assert source.classes == ["CNV", "DME", "DRUSEN", "NORMAL"]
    assert labels_of(source) == [0, 1, 2, 3]
    np.testing.assert_array_equal(source[0]["image"], crop_resize(x[..., None], 16))
    np.testing.assert_array_equal(source[3]["image"], crop_resize(y[..., None], 16))
    with pytest.raises(ValueError, match="CNV-1-1.png .and 3 more. is too small"):
        images.load_oct("", "train", 28, 1)


# Zips


def pack(zip_path, root, compression=zipfile.ZIP_STORED, prefix=""):
    """Packs a folder, with entries for its subfolders, as the usual programs do."""
    with zipfile.ZipFile(zip_path, "w", compression) as file:
        for path in sorted(root.rglob("*")):
            file.write(path, prefix + path.relative_to(root).as_posix())
    return str(zip_path)


def same_examples(a, b):
    assert labels_of(a) == labels_of(b) and a.classes == b.classes
    for i in range(len(a)):
        np.testing.assert_array_equal(a[i]["image"], b[i]["image"], strict=True)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("prefix", ["", "./", "afhq/", "data/afhq/"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_zip_is_read_as_the_folder(tmp_path, compression, prefix, suffix):
    folder = tmp_path / "folder"
    layout = afhq_layout(suffix=suffix) | afhq_layout("val", suffix)
    write_images(folder, layout | {"train/cat/.hidden.png": picture(7)})
    path = pack(tmp_path / "afhq.zip", folder, compression, prefix)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("__MACOSX/train/cat/._0.png", b"of macOS")
    for split in ("train", "test"):
        expected = images.load_afhq(str(folder), split, 12, 3)
        same_examples(images.load_afhq(path, split, 12, 3), expected)


def test_a_zip_without_entries_for_folders(tmp_path):
    write_images(tmp_path / "a", afhq_layout())
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for p in (tmp_path / "a").rglob("*.png"):
            file.write(p, p.relative_to(tmp_path / "a").as_posix())
    same_examples(
        images.load(str(path), "train", 12, 3), images.load(str(tmp_path / "a"), "train", 12, 3)
    )


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_without_splits_are_both(tmp_path, zipped, split):
    folder = tmp_path / "flat"
    dir = write_images(folder, {f"{i}.png": picture(color=(i, 0, 0)) for i in range(3)})
    source = images.load(pack(tmp_path / "flat.zip", folder) if zipped else dir, split, 12, 3)
    assert labels_of(source) == [0, 0, 0]
    assert [int(source[i]["image"][0, 0, 0]) for i in range(3)] == [0, 1, 2]


def edm_zip(tmp_path, labels, suffix=""):
    """The zip that EDM's dataset_tool.py writes."""
    with zipfile.ZipFile(tmp_path / "edm.zip", "w") as file:
        for i in range(4):
            picture(color=(i, 0, 0)).save(tmp_path / "image.png")
            file.write(tmp_path / "image.png", f"0000{i // 2}/img0000000{i}.png")
        file.writestr("dataset.json", json.dumps(labels) + suffix)
    return str(tmp_path / "edm.zip")


def edm_rows(*labels):
    return [[f"0000{i // 2}/img0000000{i}.png", label] for i, label in enumerate(labels)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_of_edm(tmp_path, split):
    source = images.load(edm_zip(tmp_path, {"labels": edm_rows(5, 5, 2, 0)}), split, 12, 3)
    assert labels_of(source) == [0, 2, 5, 5]
    assert [int(source[i]["image"][0, 0, 0]) for i in range(4)] == [3, 2, 0, 1]
    source = images.load(edm_zip(tmp_path, {"labels": None}), split, 12, 3)
    assert labels_of(source) == [0] * 4
    assert [int(source[i]["image"][0, 0, 0]) for i in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "labels, suffix, message",
    [
        ({"labels": edm_rows(1, 2, 3)}, "", "00001/img00000003.png is not both an image"),
        ({"labels": [*edm_rows(1, 2, 3, 4), ["x.png", 0]]}, "", "x.png is not both an image"),
        ({"labels": edm_rows(1, 2, 3, 0.5)}, "", "dataset.json cannot be read as labels"),
        ({"labels": edm_rows(1, 2, 3, -1)}, "", "dataset.json cannot be read as labels"),
        ({"labels": [1, 2, 3, 4]}, "", "dataset.json cannot be read as labels"),
        ([1], "", "dataset.json cannot be read as labels"),
        ({}, "", "dataset.json cannot be read as labels"),
        ({}, "}", "dataset.json cannot be read as labels"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, labels, suffix, message):
    with pytest.raises(ValueError, match=f"edm.zip/{message}"):
        images.load(edm_zip(tmp_path, labels, suffix), "train", 12, 3)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_threads_read_a_zip_at_once(tmp_path, compression):
    write_images(tmp_path / "a", {f"train/{i:02}.png": noise_picture(32) for i in range(40)})
    source = images.load(pack(tmp_path / "a.zip", tmp_path / "a", compression), "train", 32, 3)
    expected = [source[i]["image"] for i in range(40)]
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).permutation(40):
            if not np.array_equal(source[i]["image"], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len({x.tobytes() for x in expected}) == 40


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("zipped", [False, True])
def test_classes_without_splits_are_both(tmp_path, zipped, split):
    write_images(tmp_path / "a", afhq_layout())
    top = tmp_path / "a" / "train"
    path = pack(tmp_path / "a.zip", top) if zipped else str(top)
    expected = images.load(str(tmp_path / "a"), "train", 12, 3)
    same_examples(images.load(path, split, 12, 3), expected)
    assert len(expected.classes) == 3 and set(labels_of(expected)) == {0, 1, 2}


def test_zip_without_a_split_or_images(tmp_path):
    write_images(tmp_path / "a", afhq_layout())
    path = pack(tmp_path / "a.zip", tmp_path / "a")
    with pytest.raises(ValueError, match="a.zip' has no folder test or val.*stargan-v2"):
        images.load_afhq(path, "test", 12, 3)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    path = pack(tmp_path / "c.zip", tmp_path / "empty")
    with pytest.raises(ValueError, match="c.zip/train' holds no image; put class folders"):
        images.load(path, "train", 12, 3)


@pytest.mark.parametrize(
    "name", ["../x.png", "train/../../x.png", "/etc/x.png", "C:\\x.png", "train\\..\\..\\x.png"]
)
def test_names_that_lead_out_of_a_zip(tmp_path, name):
    write_images(tmp_path / "a", afhq_layout())
    path = pack(tmp_path / "a.zip", tmp_path / "a")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"0")
    with pytest.raises(ValueError, match=r"x.png' in .*a.zip leads out of the zip; pack it again"):
        images.load(path, "train", 12, 3)


def test_two_entries_of_one_name(tmp_path):
    path = pack(tmp_path / "a.zip", tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        for name in ("train/0.png", "train//0.png"):
            file.writestr(name, b"0")
    with pytest.raises(ValueError, match="'train//0.png' in .*a.zip is there twice"):
        images.load(path, "train", 12, 3)


def test_encrypted_zip(tmp_path):
    write_images(tmp_path / "a", afhq_layout())
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(pack(path, tmp_path / "a")) as file:
        entry = file.getinfo("train/cat/1.png")
    data = bytearray(path.read_bytes())
    at = data.index(b"train/cat/1.png", data.index(b"PK\x01\x02"))
    data[at - 46 + 8] |= 1  # in the table of contents
    data[entry.header_offset + 6] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="'train/cat/1.png' in .*a.zip is encrypted; pack it"):
        images.load(str(path), "train", 12, 3)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_truncated_zip(tmp_path, kept):
    write_images(tmp_path / "a", afhq_layout())
    path = tmp_path / "a.zip"
    whole = (pack(path, tmp_path / "a") and path).read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match="a.zip cannot be read as a zip .*; fetch it again"):
        images.load(str(path), "train", 12, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_truncated_image_in_a_zip(tmp_path, suffix, compression):
    write_images(tmp_path / "a", {f"train/a/{i}.{suffix}": noise_picture() for i in range(3)})
    path = tmp_path / "a" / "train" / "a" / f"1.{suffix}"
    path.write_bytes(path.read_bytes()[:2000])
    path = pack(tmp_path / "a.zip", tmp_path / "a", compression)
    with pytest.raises(ValueError, match=f"a.zip/train/a/1.{suffix} cannot be decoded.*replace"):
        images.load(path, "train", 64, 3)[1]


def test_damaged_entry_of_a_zip(tmp_path):
    write_images(tmp_path / "a", {f"train/a/{i}.png": noise_picture() for i in range(3)})
    path = tmp_path / "a.zip"
    data = bytearray((pack(path, tmp_path / "a") and path).read_bytes())
    data[data.index(b"train/a/1.png") + 5000] ^= 1
    path.write_bytes(data)
    source = images.load(str(path), "train", 64, 3)
    assert source[0]["image"].shape == source[2]["image"].shape == (64, 64, 3)
    with pytest.raises(ValueError, match="a.zip/train/a/1.png cannot be decoded .Bad CRC-32"):
        source[1]
