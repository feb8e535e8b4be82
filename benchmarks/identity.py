"""What knowing every image by its content costs stage one: hashing and looking, as a share of decoding and of encoding.

    python benchmarks/identity.py --images imagenette/val [--count 256] [--rounds 7] [--image-size 256]

One process, files in the page cache. Each round times, over the same images: looking at the file and hashing its bytes,
reading and decoding it, and encoding its plain view and mirror image in float32. Prints medians in ms an image and the
shares; the stated limit is 2 % of what an image costs in all.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ci2p_cache.items import hash_content
from pipeline.encode.encoder import load_encoder
from pipeline.encode.preprocess import load_pixels, preprocessing

LIMIT = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="images, at any depth")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--image-size", type=int, default=256)
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.images.rglob("*") if path.is_file())
    files = files[:: max(1, len(files) // arguments.count)][: arguments.count]
    pre, encoder = preprocessing(arguments.image_size), load_encoder("bundled", "cpu")
    contents = [file.read_bytes() for file in files]
    pixels = torch.from_numpy(np.stack([load_pixels(data, pre) for data in contents[:16]]))

    def look_and_hash() -> int:
        for file, data in zip(files, contents, strict=True):
            file.stat()
            hash_content(data)
        return len(files)

    def read_and_decode() -> int:
        for file in files:
            load_pixels(file.read_bytes(), pre)
        return len(files)

    def encode() -> int:
        encoder.views(pixels, ("plain", "mirror"))
        return len(pixels)

    steps = {"look and hash": look_and_hash, "read and decode": read_and_decode, "encode": encode}
    rounds = [{name: milliseconds(step) for name, step in steps.items()} for _ in range(arguments.rounds + 1)][1:]
    for name in steps:
        values = [each[name] for each in rounds]
        print(f"{name:16s} {statistics.median(values):8.3f} ms an image ({min(values):.3f} to {max(values):.3f})")
    shares = [each["look and hash"] / sum(each.values()) for each in rounds]
    share = statistics.median(shares)
    print(
        f"hashing and looking: {100 * share:.2f} % of what an image costs ({100 * min(shares):.2f} to "
        f"{100 * max(shares):.2f}; n = {arguments.rounds}), {share / LIMIT:.2f} of the limit of {100 * LIMIT:g} %; "
        f"{sum(map(len, contents)) / len(contents) / 1000:.1f} kB an image"
    )


def milliseconds(step: Callable[[], int]) -> float:
    begin = time.perf_counter()
    num_images = step()
    return 1000 * (time.perf_counter() - begin) / num_images


if __name__ == "__main__":
    main()
