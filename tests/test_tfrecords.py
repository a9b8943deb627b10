"""StyleGAN's tfrecords, written here by hand, and what is said of broken ones."""

import struct
import threading
import zlib

import numpy as np
import pytest

from scorax.data_sources import tfrecords
from scorax.data_sources.crc32c import crc32c, masked_crc32c

rng = np.random.default_rng(0)


# Checksums


@pytest.mark.parametrize(
    "data, expected",
    [  # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (
            bytes.fromhex(
                "01c00000000000000000000000000000140000000000040000000014000000182800000000000000"
                "0200000000000000"
            ),
            0xD9963A56,
        ),
        (b"123456789", 0xE3069283),  # the check value of the CRC catalogue
        (b"", 0),
    ],
)
def test_crc32c_of_known_data(data, expected):
    assert crc32c(data) == expected


def slow_crc32c(data):
    """Bit by bit: division of polynomials, highest power in the lowest bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 1151, 1153, 4096, 30_000])
def test_crc32c_of_any_length(size):
    data = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
    assert crc32c(data) == slow_crc32c(data)
    assert crc32c(bytes(size)) == slow_crc32c(bytes(size))


def test_masked_crc32c_of_a_known_record():
    # The first record of every TensorBoard file, "brain.Event:2" at a time of 0.
    length = struct.pack("<Q", 24)
    assert struct.pack("<I", masked_crc32c(length)) == b"\xa3\x7f\x4b\x22"


# Files


def field(number, payload):
    """A protobuf field of bytes."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def feature(name, kind, payload):
    return field(1, field(1, name.encode()) + field(2, field(kind, payload)))


def example(image, shape=None, packed=True):
    """A tf.train.Example with an image (C, H, W), serialised as StyleGAN's dataset_tool does."""
    numbers = [varint(n) for n in (image.shape if shape is None else shape)]
    packed_numbers = field(1, b"".join(numbers))
    single_numbers = b"".join(b"\x08" + n for n in numbers)
    shape = feature("shape", 3, packed_numbers if packed else single_numbers)
    return field(1, shape + feature("data", 1, field(1, image.tobytes())))


def record(data):
    header = struct.pack("<Q", len(data))
    return b"".join((header, checksum(header), data, checksum(data)))


def checksum(data):
    crc = slow_crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def noise(size=8, channels=3):
    return rng.integers(0, 256, (channels, size, size), dtype=np.uint8)


def write(path, images, **how):
    path.write_bytes(b"".join(record(example(x, **how)) for x in images))
    return str(path)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_in_order_for_both_splits(tmp_path, split, channels, packed):
    x = [noise(20, channels) for _ in range(4)]
    path = write(tmp_path / "faces.tfrecords", x, packed=packed)
    source = tfrecords.load(path, split, 20)
    assert len(source) == 4
    for i in (2, 0, 3, 1):
        np.testing.assert_array_equal(source[i]["image"], x[i].transpose(1, 2, 0), strict=True)
        assert source[i]["label"] == 0 and source[i]["label"].dtype == np.int32


def test_the_file_of_a_resolution(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "ffhq"
    folder.mkdir(parents=True)
    for level in (2, 3, 4):
        write(folder / f"ffhq-r{level:02}.tfrecords", [noise(2**level)] * level)
    (folder / "ffhq-r03.labels").write_bytes(b"passed over")
    assert len(tfrecords.load_ffhq("", "train", 8)) == 3
    assert len(tfrecords.load(str(folder), "train", 16)) == 4
    with pytest.raises(
        ValueError, match="data/ffhq' holds ffhq-r02.*r04.tfrecords where one .* 32"
    ):
        tfrecords.load_ffhq("", "train", 32)
    write(tmp_path / "other.tfrecord", [noise()])
    assert len(tfrecords.load(str(tmp_path), "train", 8)) == 1


@pytest.mark.parametrize(
    "load, message",
    [
        (tfrecords.load_ffhq, "'data/ffhq' holds no .tfrecords file.*ffhq-dataset.*data.dir=FILE"),
        (tfrecords.load_celebahq, "'data/celebahq' holds no .*create_celebahq.*data.dir=FILE"),
        (tfrecords.load, "'' holds no .tfrecords file .* set --config.data.dir to a .tfrecords"),
    ],
)
def test_missing_files(tmp_path, monkeypatch, load, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        load("", "train", 256)
    with pytest.raises(ValueError, match="unknown split 'valid'; choose from: train, test"):
        load("", "valid", 256)


def test_threads_read_one_file(tmp_path):
    x = [noise(32) for _ in range(20)]
    source = tfrecords.load(write(tmp_path / "a.tfrecords", x), "train", 32)
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).permutation(20):
            if not np.array_equal(source[i]["image"], x[i].transpose(1, 2, 0)):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Broken files

WHOLE = [record(example(noise())) for _ in range(3)]
SIZE = len(WHOLE[0])


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is empty; fetch it again"),
        (b"".join(WHOLE)[:-1], "is cut off in record 2; fetch it again"),
        (b"".join(WHOLE)[: SIZE + 30], "is cut off in record 1; fetch it again"),
        (b"".join(WHOLE)[: SIZE + 7], "is cut off in record 1; fetch it again"),
        (flip(b"".join(WHOLE), SIZE + 1), f"wrong checksum at byte {SIZE}, the start of record 1"),
        (flip(b"".join(WHOLE), SIZE + 9), f"wrong checksum at byte {SIZE}, the start of record 1"),
        (b"<!DOCTYPE html>", "wrong checksum at byte 0, the start of record 0; fetch it again"),
        (zlib.compress(b"".join(WHOLE)), "wrong checksum at byte 0.*uncompressed"),
        (flip(WHOLE[0], 60), "wrong checksum in record 0; fetch it again"),
        (record(b"not a protobuf"), "holds no image in record 0"),
        (record(b""), "holds no image in record 0 .its shape is ..*dataset_tool.py"),
        (record(example(noise(), (8, 8))), "holds no image in record 0 .its shape is .8, 8."),
        (record(example(noise(), (3, 8, 0))), "holds no image in record 0 .its shape is .3, 8, 0."),
        (record(example(noise(), (3, 8, 9))), "record 0 .it has 192 bytes of data and the shape"),
        (record(example(noise(), (2**62, 8, 8))), "record 0 .it has 192 bytes of data"),
    ],
)
def test_damaged_file(tmp_path, data, message):
    path = tmp_path / "a.tfrecords"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"a.tfrecords .*{message}"):
        tfrecords.load(str(path), "train", 8)


def test_a_damaged_record_is_named_and_leaves_the_others(tmp_path):
    path = tmp_path / "a.tfrecords"
    path.write_bytes(flip(b"".join(WHOLE), SIZE + 60) + record(example(noise(4))))
    source = tfrecords.load(str(path), "train", 8)
    with pytest.raises(ValueError, match="a.tfrecords has a wrong checksum in record 1; fetch"):
        source[1]
    assert source[2]["image"].shape == (8, 8, 3)
    with pytest.raises(ValueError, match="a.tfrecords has the shape .3, 4, 4. in record 3 and"):
        source[3]
