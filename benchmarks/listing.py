"""Measures how long it takes to open a folder of many images, and the memory it needs.

python -m benchmarks.listing --files 100000

The files are links to a few small PNG files, in ten class folders. No image is decoded. To compare
two versions, run the command in a checkout of each, alternately.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from scorax.data_sources import images


def main() -> None:
    """Makes the files, opens them several times, and prints seconds and mebibytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        for k in range(10):
            folder = Path(root, "train", f"class{k}")
            folder.mkdir(parents=True)
            first = folder / "first.png"
            noise = np.random.default_rng(k).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(first)
            for i in range(args.files // 10 - 1):
                os.link(first, folder / f"{i:06d}.png")
        seconds = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            source = images.load(root, "train", 32, 3)
            seconds.append(time.perf_counter() - start)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        listed = ", ".join(f"{s:.1f}" for s in seconds)
        print(f"{len(source):,} files: {listed} seconds, {memory:.0f} MiB at most")


if __name__ == "__main__":
    main()
