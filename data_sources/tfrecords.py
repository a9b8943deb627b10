"""StyleGAN's tfrecord files of images, the format of FFHQ and CelebA-HQ, read without TensorFlow.

A file holds the images of one resolution: `ffhq-r08.tfrecords` holds images of 2^8 pixels. A record
consists of

    length: uint64   its masked CRC32C: uint32   data   its masked CRC32C: uint32

in little-endian order. The data are a `tf.train.Example` with `shape`: int64 (C, H, W) and `data`:
uint8 bytes. Labels are not read. As in score_sde, the same file serves as train and test split.

Sources: https://www.tensorflow.org/tutorials/load_data/tfrecord (the records) and
https://github.com/NVlabs/stylegan/blob/master/dataset_tool.py (the examples).
"""

import math
import os
import struct
from pathlib import Path

import numpy as np

from scorax.data_sources import tfds_source
from scorax.data_sources.crc32c import masked_crc32c
from scorax.data_sources.source import Source, check_split
from scorax.data_sources.tfds_source import TfdsSource
from scorax.utils.shapes import Size, height_and_width

HEADER = struct.Struct("<QI")  # length, masked CRC32C of its 8 bytes
FOOTER = struct.Struct("<I")  # masked CRC32C of the data
SUFFIXES = (".tfrecords", ".tfrecord")


class TFRecordSource(Source):
    """The images of one file, each read on access; every label is 0."""

    def __init__(self, path: Path):
        """Finds all records by reading their headers, and reads the first image.

        Raises:
          ValueError: if the file is empty, truncated, damaged or holds something else; the message
            names it.
        """
        self.path = path
        self.held_out = False
        self._file = path.open("rb", buffering=0)
        self._records = self._find_records()  # offset and length of each record's data: (N, 2)
        self.shape = self._read(0).shape  # (C, H, W)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict:
        """Returns example i: {"image": uint8 (H, W, C), "label": 0}.

        Raises:
          ValueError: if the record is damaged or its shape differs from the first image's; the
            message names the file and the record.
        """
        image = self._read(i)
        if image.shape != self.shape:
            raise self._error(
                f"has the shape {image.shape} in record {i} and {self.shape} in record 0; write "
                "images of the same size"
            )
        return {"image": np.ascontiguousarray(image.transpose(1, 2, 0)), "label": np.int32(0)}

    def all_labels(self) -> np.ndarray:
        """Returns zeros, int32 (N,)."""
        return np.zeros(len(self), np.int32)

    def sizes(self) -> np.ndarray:
        """Returns the lengths of the records."""
        return self._records[:, 1]

    def _find_records(self) -> np.ndarray:
        file, found, offset = self._file.fileno(), [], 0
        size = os.fstat(file).st_size
        while offset < size:
            header = os.pread(file, HEADER.size, offset)
            if len(header) < HEADER.size:
                raise self._error(f"is cut off in record {len(found)}; fetch it again")
            length, checksum = HEADER.unpack(header)
            if masked_crc32c(header[:8]) != checksum:
                raise self._error(
                    f"has a wrong checksum at byte {offset}, the start of record {len(found)}; "
                    "fetch it again or check that it is an uncompressed tfrecord file"
                )
            offset += HEADER.size
            found.append((offset, length))
            offset += length + FOOTER.size
        if offset > size:
            raise self._error(f"is cut off in record {len(found) - 1}; fetch it again")
        if not found:
            raise self._error("is empty; fetch it again")
        return np.array(found, np.int64)

    def _read(self, i: int) -> np.ndarray:
        """Returns the image of record i: uint8 (C, H, W)."""
        offset, length = self._records[i]
        # pread does not move the file position, so threads do not disturb each other.
        data = os.pread(self._file.fileno(), int(length), int(offset))
        footer = os.pread(self._file.fileno(), FOOTER.size, int(offset + length))
        if FOOTER.pack(masked_crc32c(data)) != footer:
            raise self._error(f"has a wrong checksum in record {i}; fetch it again")
        try:
            return _parse_example(data)
        except Exception as error:  # protobuf's DecodeError, or a ValueError about the shape
            raise self._error(
                f"holds no image in record {i} ({error}); give a file with features 'shape' (C, H, "
                "W) and 'data', as StyleGAN's dataset_tool.py writes it"
            ) from error

    def _error(self, what: str) -> ValueError:
        return ValueError(f"{self.path} {what}")


def load(dir: str, split: str, image_size: Size) -> TFRecordSource:
    """Opens the file `dir`, or the file of `image_size` pixels in the folder `dir`.

    Raises:
      ValueError: if there is no such file; see also `TFRecordSource`.
    """
    missing = (
        "set --config.data.dir to a .tfrecords file or to a folder with one whose name ends in "
        "-rNN, NN = log2(data.image_size)"
    )
    return _load(dir, split, image_size, missing)


def load_ffhq(dir: str, split: str, image_size: Size) -> TFRecordSource:
    """Opens FFHQ (70,000 faces) in a file or folder as in `load`; "" stands for data/ffhq.

    Raises:
      ValueError: see `load`.
    """
    missing = (
        "get the tfrecords of FFHQ (ffhq-r08.tfrecords for 256 pixels, ffhq-r10.tfrecords for "
        "1,024) from https://github.com/NVlabs/ffhq-dataset and put them there, or say where they "
        "are with --config.data.dir=FILE_OR_DIR"
    )
    return _load(dir or "data/ffhq", split, image_size, missing)


def load_celebahq(dir: str, split: str, image_size: Size) -> TFRecordSource | TfdsSource:
    """Opens CelebA-HQ (30,000 faces) in a file or folder as in `load`, or in TFDS's data_dir.

    If `dir` is "", it is read from data/celebahq or, if that does not exist, from TFDS's default
    folder.

    Raises:
      ValueError: see `load`.
    """
    folder = dir or "data/celebahq"
    tfds = dir or not Path(folder).exists()
    if tfds and tfds_source.holds("celebahq", dir, image_size):
        return tfds_source.load("celebahq", dir, split, image_size)
    missing = (
        "make the tfrecords of CelebA-HQ with https://github.com/tkarras/"
        "progressive_growing_of_gans (dataset_tool.py create_celebahq) and put them there, or say "
        "where they or TFDS's data_dir are with --config.data.dir=FILE_OR_DIR"
    )
    return _load(folder, split, image_size, missing)


def _load(dir: str, split: str, image_size: Size, missing: str) -> TFRecordSource:
    check_split(split)
    if dir and Path(dir).is_file():
        return TFRecordSource(Path(dir))
    files = sorted(p for p in Path(dir).glob("*") if p.suffix in SUFFIXES) if dir else []
    side = max(height_and_width(image_size))
    level = f"-r{side.bit_length() - 1:02d}"  # log2 of the size; not all names end in it
    fitting = [p for p in files if p.stem.endswith(level)] or files
    if len(fitting) == 1:
        return TFRecordSource(fitting[0])
    found = ", ".join(p.name for p in fitting) or "no .tfrecords file"
    raise ValueError(f"'{dir}' holds {found} where one file of {side} pixels is wanted; {missing}")


def _parse_example(data: bytes) -> np.ndarray:
    """Returns the image of a serialised `tf.train.Example`: uint8 (C, H, W)."""
    from tensorflow_datasets.proto import tf_example_generated_pb2  # slow to import

    features = tf_example_generated_pb2.Example.FromString(data).features.feature
    shape = tuple(features["shape"].int64_list.value)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"its shape is {shape}")
    pixels = b"".join(features["data"].bytes_list.value)
    if len(pixels) != math.prod(shape):
        raise ValueError(f"it has {len(pixels)} bytes of data and the shape {shape}")
    return np.frombuffer(pixels, np.uint8).reshape(shape)
