"""Preparing images: what is stored is the image, and a failure leaves nothing behind."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import test_tfrecords
from PIL import Image

from scorax import datasets
from scorax.configs import base
from scorax.data_sources import array_records, images, resizing
from scorax.tools import prepare_dataset

ROOT = Path(__file__).resolve().parent.parent
rng = np.random.default_rng(0)


def noise(height=24, width=24, channels=3):
    x = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(x[..., 0] if channels == 1 else x)


def write_images(root, layout):
    """Writes {"train/cat/0.png": image, ...}."""
    for name, image in layout.items():
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return str(root)


@pytest.fixture
def folder(tmp_path):
    layout = {f"train/{c}/{i}.png": noise() for c in ("cat", "dog") for i in range(5)}
    layout |= {"test/dog/0.png": noise(), "test/dog/1.jpg": noise()}
    return write_images(tmp_path / "images", layout)


def run(*arguments):
    prepare_dataset.run(["prepare_dataset", *map(str, arguments)])


def examples(source):
    return [source[i] for i in range(len(source))]


def assert_same_examples(source, other):
    assert len(source) == len(other)
    for a, b in zip(examples(source), examples(other), strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        assert a["label"] == b["label"]


def left_behind(folder):
    return sorted(path.name for path in Path(folder).iterdir())


# What is stored


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_is_read_as_before(folder, tmp_path, workers):
    run(folder, tmp_path / "out", "--size", 24, "--workers", workers)
    for split in ("train", "test"):
        prepared = array_records.load(str(tmp_path / "out"), split)
        assert_same_examples(prepared, images.load(folder, split, 24, 3))
    info = json.loads((tmp_path / "out" / "info.json").read_text())
    assert info["examples"] == {"train": 10, "test": 2} and info["classes"] == ["cat", "dog"]
    assert (info["size"], info["channels"], info["skipped"]) == (24, 3, 0)
    assert left_behind(tmp_path) == ["images", "out"]


def test_a_zip_is_read_like_its_folder(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for path in sorted(Path(folder).rglob("*.*")):
            file.write(path, path.relative_to(folder))
    run(tmp_path / "a.zip", tmp_path / "out", "--size", 24, "--workers", 1)
    prepared = array_records.load(str(tmp_path / "out"), "train")
    assert_same_examples(prepared, images.load(folder, "train", 24, 3))


@pytest.mark.parametrize(
    "crop, resize, shape",
    [
        ("center", resizing.crop_resize, (40, 30)),
        ("celeba", resizing.resize_celeba, (218, 178)),
        ("lsun", resizing.resize_lsun, (30, 40)),
        ("none", resizing.crop_resize, (30, 30)),
    ],
)
def test_crops(tmp_path, crop, resize, shape):
    image = noise(*shape)
    source = write_images(tmp_path / "images", {"a.png": image})
    run(source, tmp_path / "out", "--size", 16, "--crop", crop, "--workers", 1)
    prepared = array_records.load(str(tmp_path / "out"), "train")
    np.testing.assert_array_equal(prepared[0]["image"], resize(np.asarray(image), 16))


def test_a_large_jpeg_is_decoded_in_full(tmp_path):
    source = write_images(tmp_path / "images", {"a.jpg": noise(218, 178)})
    run(source, tmp_path / "out", "--size", 16, "--crop", "celeba", "--workers", 1)
    with Image.open(tmp_path / "images" / "a.jpg") as image:
        expected = resizing.resize_celeba(np.asarray(image), 16)
    prepared = array_records.load(str(tmp_path / "out"), "train")
    np.testing.assert_array_equal(prepared[0]["image"], expected)


def test_jpeg_keeps_colours_apart(tmp_path):
    # One pixel wide stripes of red and blue: with halved colour resolution they would be violet.
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255
    source = write_images(tmp_path / "images", {"a.png": Image.fromarray(stripes)})
    options = ("--format", "jpeg", "--quality", 100, "--workers", 1)
    run(source, tmp_path / "out", "--size", 16, *options)
    image = array_records.load(str(tmp_path / "out"), "train")[0]["image"]
    assert np.abs(image.astype(int) - stripes).max() <= 3
    record = array_records.load(str(tmp_path / "out"), "train")._records[0]
    assert Image.open(io.BytesIO(record[4:])).format == "JPEG"


def test_grey_images(tmp_path):
    grey, colour = noise(16, 16, 1), noise(16, 16)
    source = write_images(tmp_path / "images", {"train/a.png": grey, "train/b.png": colour})
    options = ("--size", 16, "--workers", 1, "--splits", "train")
    run(source, tmp_path / "grey", *options, "--channels", 1)
    run(source, tmp_path / "colour", *options)
    one = array_records.load(str(tmp_path / "grey"), "train")
    three = array_records.load(str(tmp_path / "colour"), "train")
    np.testing.assert_array_equal(one[0]["image"][..., 0], np.asarray(grey))
    np.testing.assert_array_equal(one[1]["image"][..., 0], np.asarray(colour.convert("L")))
    np.testing.assert_array_equal(three[0]["image"], np.asarray(grey.convert("RGB")))


def test_a_source_without_splits_is_stored_once_and_serves_both(tmp_path):
    source = write_images(tmp_path / "images", {f"{i}.png": noise() for i in range(3)})
    run(source, tmp_path / "out", "--size", 12, "--workers", 1)
    assert left_behind(tmp_path / "out") == ["info.json", "train-00000.array_record"]
    train, test = (array_records.load(str(tmp_path / "out"), s) for s in ("train", "test"))
    assert_same_examples(train, test)


def test_a_tfrecord_file(tmp_path):
    planes = rng.integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)
    source = test_tfrecords.write(tmp_path / "faces-r04.tfrecords", planes)
    run(source, tmp_path / "out", "--size", 8, "--workers", 2)
    for split in ("train", "test"):
        prepared = array_records.load(str(tmp_path / "out"), split)
        expected = [resizing.crop_resize(x.transpose(1, 2, 0), 8) for x in planes]
        np.testing.assert_array_equal([e["image"] for e in examples(prepared)], expected)
    with pytest.raises(ValueError, match="faces-r04.tfrecords have 3 channels; use --channels 3"):
        run(source, tmp_path / "other", "--size", 8, "--channels", 1)


def test_many_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(array_records, "SHARD_BYTES", 5000)  # two or three images
    run(folder, tmp_path / "out", "--size", 24, "--workers", 1)
    prepared = array_records.load(str(tmp_path / "out"), "train")
    assert len(prepared.info["splits"]["train"]) > 2
    assert_same_examples(prepared, images.load(folder, "train", 24, 3))
    expected = [example["image"] for example in examples(prepared)]
    fresh = array_records.load(str(tmp_path / "out"), "train")
    numbers = np.random.default_rng(1).integers(10, size=300)
    with ThreadPoolExecutor(8) as pool:
        for i, example in zip(numbers, pool.map(fresh.__getitem__, numbers), strict=True):
            np.testing.assert_array_equal(example["image"], expected[i])


def test_the_pipeline_reads_it(folder, tmp_path):
    run(folder, tmp_path / "out", "--size", 16, "--workers", 1)
    config = base.get_config()
    config.data.update(dataset="array_record", dir=str(tmp_path / "out"), image_size=16)
    config.training.batch_size = 8
    batch = datasets.get_dataset(config, "train", shuffle=False)[0]
    prepared = array_records.load(str(tmp_path / "out"), "train")
    expected = np.stack([prepared[i]["image"] for i in range(8)]).astype(np.float32) / 255.0
    np.testing.assert_array_equal(batch["image"], expected)
    config.data.image_size = 32
    with pytest.raises(ValueError, match="data.image_size=32 but.*16x16"):
        datasets.get_dataset(config)


# Errors


def test_a_damaged_image_among_good_ones(folder, tmp_path):
    path = Path(folder, "train", "dog", "3.png")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{path} cannot be decoded.*--skip-corrupt"):
        run(folder, tmp_path / "out", "--size", 24, "--workers", 2)
    assert left_behind(tmp_path) == ["images"]


def test_images_that_cannot_be_used_are_left_out_on_demand_and_listed(folder, tmp_path, capsys):
    Path(folder, "train", "cat", "1.png").write_bytes(b"no image")
    noise(20, 40).save(Path(folder, "train", "dog", "0.png"))
    run(folder, tmp_path / "out", "--size", 24, "--workers", 1, "--skip-corrupt")
    assert "8 train, 2 test images, 2 skipped" in capsys.readouterr().out
    lines = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert "dog/0.png is too small (40x20 pixels) for --size 24" in lines[0]
    assert "cat/1.png cannot be decoded (not an image)" in lines[1]
    prepared = array_records.load(str(tmp_path / "out"), "train")
    assert [int(e["label"]) for e in examples(prepared)] == [0, 1] * 4


def test_no_image_can_be_used(tmp_path):
    source = write_images(tmp_path / "images", {"a.png": noise(8, 8), "b.png": noise(8, 8)})
    with pytest.raises(ValueError, match="no image of the train split can be used.*a.png is too"):
        run(source, tmp_path / "out", "--size", 24, "--workers", 1, "--skip-corrupt")
    assert left_behind(tmp_path) == ["images"]


@pytest.mark.parametrize(
    "options, message",
    [
        (("--size", 0), "'0' is no size; give a number"),
        (("--size", -3), "'-3' is no size"),
        (("--size", "big"), "argument --size: 'big' is no size"),
        ((), "the following arguments are required: --size; see --help"),
        (("--size", 8, "--workers", -1), "--workers -1 is not possible"),
        (("--size", 8, "--channels", 5), "--channels 5 is not possible; give 1 to 4"),
        (("--size", 8, "--quality", 0), "--quality 0 is not possible; give 1 to 100"),
        (("--size", 8, "--crop", "top"), "invalid choice: 'top'"),
        (("--size", 8, "--skip"), "unrecognized arguments: --skip"),
        (("--size", 99, "--workers", 1), "cat/0.png is too small .24x24 pixels. for --size 99"),
    ],
)
def test_impossible_settings(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(folder, tmp_path / "out", *options)
    assert left_behind(tmp_path) == ["images"]


def test_an_image_that_is_no_square_or_too_small_for_the_crop(tmp_path):
    source = write_images(tmp_path / "images", {"a.png": noise(20, 30)})
    for crop, message in (
        ("none", "a.png: 30x20 pixels are no square"),
        ("celeba", "a.png: an im"),
    ):
        with pytest.raises(ValueError, match=message):
            run(source, tmp_path / "out", "--size", 8, "--crop", crop, "--workers", 1)


def test_sources_that_hold_nothing(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="empty"):
        run(empty, tmp_path / "out", "--size", 8)
    with pytest.raises(ValueError, match="nowhere' does not exist; give a folder, a .zip or"):
        run(tmp_path / "nowhere", tmp_path / "out", "--size", 8)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("../outside.png", b"")
    with pytest.raises(ValueError, match="'../outside.png' in .*a.zip leads out of the zip"):
        run(tmp_path / "a.zip", tmp_path / "out", "--size", 8)
    assert left_behind(tmp_path) == ["a.zip", "empty"]


def test_a_missing_split_is_an_error_unless_the_other_is_asked_for(tmp_path):
    source = write_images(tmp_path / "images", {"train/a/0.png": noise()})
    with pytest.raises(ValueError, match="has no folder test or val; .*--splits"):
        run(source, tmp_path / "out", "--size", 8)
    run(source, tmp_path / "out", "--size", 8, "--workers", 1, "--splits", "train")
    with pytest.raises(ValueError, match="out' has no split test, only train; prepare it again"):
        array_records.load(str(tmp_path / "out"), "test")


@pytest.mark.parametrize("kind", ["folder", "file", "broken link"])
def test_nothing_is_written_over(folder, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="out' exists already; remove it or give another"):
        run(folder, out, "--size", 8)
    assert left_behind(tmp_path) == ["images", "out"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_no_result_and_no_process(tmp_path, how):
    layout = {f"{i}.png": noise(256, 256) for i in range(4)}
    source = write_images(tmp_path / "images", layout)
    for i in range(4, 3000):  # half a minute of work
        os.link(tmp_path / "images" / f"{i % 4}.png", tmp_path / "images" / f"{i}.png")
    command = ["-m", "tools.prepare_dataset", source, str(tmp_path / "out"), "--size", "200"]
    # Where the tests run in the background, a shell has made them and theirs deaf to Ctrl-C.
    command = ["env", "--default-signal=INT", sys.executable, *command, "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    records = lambda: list(tmp_path.glob(".out.*.tmp/*.array_record"))  # noqa: E731
    while process.poll() is None and not records():
        time.sleep(0.05)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(how)
    _, text = process.communicate(timeout=60)
    assert process.returncode != 0 and not (tmp_path / "out").exists()
    if how != signal.SIGKILL:
        assert "interrupted; nothing was written" in text and "Traceback" not in text
        assert left_behind(tmp_path) == ["images"]
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers are still there"
        time.sleep(0.1)


# Reading what is damaged


@pytest.fixture
def prepared(folder, tmp_path):
    run(folder, tmp_path / "out", "--size", 8, "--workers", 1)
    return tmp_path / "out"


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda out: (out / "info.json").unlink(), "info.json does not exist; write the folder wi"),
        (lambda out: (out / "info.json").write_text('{"ver'), "info.json is damaged"),
        (lambda out: (out / "info.json").write_text("[]"), "info.json is damaged"),
        (lambda out: (out / "info.json").write_text('{"version": 1}'), "it has no 'channels'"),
        (lambda out: (out / "info.json").write_text('{"version": 2}'), "has version 2 where 1 is"),
        (lambda out: (out / "train-00000.array_record").unlink(), "array_record is missing; copy"),
        (
            lambda out: os.truncate(out / "train-00000.array_record", 70_000),
            "train-00000.array_record has 70000 bytes instead of",
        ),
    ],
)
def test_damaged_folder(prepared, damage, message):
    damage(prepared)
    with pytest.raises(ValueError, match=message):
        array_records.load(str(prepared), "train")


def test_a_damaged_record(prepared):
    path = prepared / "train-00000.array_record"
    data = bytearray(path.read_bytes())
    start = data.index(b"\x89PNG", data.index(b"\x89PNG") + 1)  # the second image
    data[start + 40] ^= 1
    path.write_bytes(data)
    source = array_records.load(str(prepared), "train")
    source[0]
    with pytest.raises(ValueError, match=f"example 1 of '{prepared}' cannot be read .*hash"):
        source[1]


def test_no_folder_and_unknown_split(prepared):
    with pytest.raises(ValueError, match="data.dir='' names no prepared data set; set"):
        array_records.load("", "train")
    with pytest.raises(ValueError, match="unknown split 'val'; choose from: train, test"):
        array_records.load(str(prepared), "val")
