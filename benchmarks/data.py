"""Speed and memory of reading batches from array_record files, compared with decoding alone.

python -m benchmarks.data --size 512 --batch 16

The images are synthetic JPEGs, smooth with some grain. The pipeline reads, decodes, flips, scales
to the model's range and makes batches. The decoder alone is PIL with as many threads, on files in
memory. The two are timed alternately. Then the memory of the process is followed over many reads.
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_collections
import numpy as np
import PIL
from PIL import Image

from scorax import datasets
from scorax.configs import base
from scorax.data_sources import array_records
from scorax.utils.logging import versions

LAYERS = ((4, 0.5), (16, 0.25), (64, 0.15), (0, 0.1))  # (pixels of the noise or 0 for all, share)


def synthetic_jpeg(size: int, seed: int, quality: int = 90) -> bytes:
    """Returns the JPEG file of a colour image of `size` pixels."""
    rng = np.random.default_rng(seed)
    x = np.zeros((size, size, 3), np.float32)
    for pixels, share in LAYERS:
        noise = rng.integers(0, 256, (pixels or size, pixels or size, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)
        x += share * np.asarray(layer, np.float32)
    file = io.BytesIO()
    Image.fromarray(x.astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def write_images(folder: Path, count: int, size: int) -> list[bytes]:
    """Writes a prepared data set of `count` images; returns their JPEG files."""
    files = [synthetic_jpeg(size, seed) for seed in range(count)]
    writer = array_records.Writer(folder, "train")
    for label, file in enumerate(files):
        writer.write(file, label)
    writer.close()
    info = {"size": size, "channels": 3, "classes": [""], "splits": {"train": writer.shards}}
    array_records.write_info(folder, info)
    return files


def get_config(folder: Path, args: argparse.Namespace) -> ml_collections.ConfigDict:
    """Returns the default config, with the images in `folder` as its data."""
    config = base.get_config()
    config.data.update(dataset="array_record", dir=str(folder), image_size=args.size)
    config.data.update(num_threads=args.threads, centered=args.centered)
    config.training.batch_size = args.batch
    return config


def decode(file: bytes) -> int:
    """Decodes a file to an array and returns its number of values."""
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB")).size


def decoder_call(files: list[bytes], count: int, threads: int) -> Callable[[], None]:
    """Returns a function that decodes `count` files."""

    def call() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(decode, (files[i % len(files)] for i in range(count))):
                pass

    return call


def resident_mib() -> float:
    """Returns the current memory of this process (Linux only)."""
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 2**10


def compare(
    config: ml_collections.ConfigDict, files: list[bytes], args: argparse.Namespace
) -> None:
    """Times the decoder and the pipeline alternately, and prints images per second."""
    batches = max(1, args.images // args.batch)
    count = batches * args.batch
    dataset = datasets.get_dataset(config)

    def read() -> None:
        iterator = datasets.get_iterator(dataset, config)
        for _ in range(batches):
            next(iterator)
        iterator.close()  # images that were read ahead are not counted

    calls = {"decoder alone": decoder_call(files, count, args.threads), "pipeline": read}
    rates = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            begin = time.monotonic()
            call()
            rates[name].append(count / (time.monotonic() - begin))
    share = np.median(np.array(rates["pipeline"]) / np.array(rates["decoder alone"]))
    print(f"{args.rounds} rounds of {count} images\n")
    print("| | images/s, median | slowest to fastest round |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {np.median(rate):.0f} | {min(rate):.0f} to {max(rate):.0f} |")
    print(f"\npipeline / decoder: {share:.2f}", flush=True)


def follow_memory(config: ml_collections.ConfigDict, reads: int) -> None:
    """Prints the memory of the process after each quarter of many reads."""
    iterator = datasets.get_iterator(datasets.get_dataset(config), config)
    batches = reads // config.training.batch_size
    print("\n| images read | resident memory, MiB |\n|---|---|")
    print(f"| 0 | {resident_mib():.0f} |")
    begin = time.monotonic()
    for k in range(1, batches + 1):
        next(iterator)
        if k in (1, *(round(batches * q / 4) for q in range(1, 5))):
            print(f"| {k * config.training.batch_size} | {resident_mib():.0f} |", flush=True)
    rate = batches * config.training.batch_size / (time.monotonic() - begin)
    iterator.close()
    print(f"\n{rate:.0f} images/s over all of them", flush=True)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=512, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=base.get_config().data.num_threads)
    parser.add_argument("--centered", action="store_true", help="data in [-1, 1]")
    parser.add_argument("--files", type=int, default=500, help="number of different images")
    parser.add_argument("--images", type=int, default=1000, help="images per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--reads", type=int, default=20_000, help="images to read while the memory is followed"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        files = write_images(Path(name), args.files, args.size)
        v, kib = versions(), sum(map(len, files)) / len(files) / 2**10
        print(
            f"JPEGs of {args.size} pixels, {kib:.0f} KiB each, batch {args.batch}, {args.threads} "
            f"threads on {len(os.sched_getaffinity(0))} cores, Pillow {PIL.__version__}, "
            f"grain {v['grain']}, python {v['python']}, commit {v['commit']}\n"
        )
        config = get_config(Path(name), args)
        if args.rounds:
            compare(config, files, args)
        files.clear()
        if args.reads:
            follow_memory(config, args.reads)


if __name__ == "__main__":
    main()
