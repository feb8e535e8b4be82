"""JPEGs decoded at their own size and at a reduced one (`--jpeg-decode scaled`): time, and what it does to latents.

    python benchmarks/jpeg_decoding.py --images kodak --image-size 96

Every image of a folder is made a JPEG of quality 95 in memory, prepared in both ways, and encoded by the bundled
encoder. Prints milliseconds an image on one core (medians over the images of the fastest of three), the ratio, how far
pixels differ, and the share of rounded latents that change; with --json, writes them.
"""

import argparse
import json
import statistics
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ci2p_cache.publish import publish
from pipeline.encode.encoder import load_encoder
from pipeline.encode.preprocess import Preprocessing, decode, load_pixels, preprocessing

_ROUNDS = 3


def as_jpeg(path: Path) -> bytes:
    buffer = BytesIO()
    Image.open(path).convert("RGB").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def seconds_of(data: bytes, how: Preprocessing) -> float:
    times = []
    for _ in range(_ROUNDS):
        begin = time.process_time()
        load_pixels(data, how)
        times.append(time.process_time() - begin)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(path for path in arguments.images.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    jpegs = [as_jpeg(path) for path in paths]
    full, scaled = (preprocessing(arguments.image_size, jpeg_decode=how) for how in ("full", "scaled"))
    reduced = sum(decode(data).size != decode(data, scaled.least_side).size for data in jpegs)
    times = {how.jpeg_decode: [1000 * seconds_of(data, how) for data in jpegs] for how in (full, scaled)}
    pixels = {
        how.jpeg_decode: torch.from_numpy(np.stack([load_pixels(data, how) for data in jpegs]))
        for how in (full, scaled)
    }
    encoder = load_encoder("bundled", "cpu")
    latents = {name: encoder(batch).round() for name, batch in pixels.items()}
    changes = (latents["full"] - latents["scaled"]).abs()
    difference = (pixels["full"].int() - pixels["scaled"].int()).abs()
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{len(jpegs)} images, {reduced} of them decoded at a reduced scale, to {arguments.image_size} px")
    print(
        f"full {medians['full']:.1f} ms, scaled {medians['scaled']:.1f} ms an image, "
        f"{medians['full'] / medians['scaled']:.2f}x; pixels differ by {difference.float().mean():.2f} levels"
    )
    print(
        f"{100 * (changes > 0).float().mean():.2f} % of the rounded latents change, "
        f"{100 * (changes > 1).float().mean():.3f} % by more than one step"
    )
    if arguments.json:
        share = {f"by more than {steps}": float((changes > steps).float().mean()) for steps in (0, 1)}
        result = {"ms_an_image": times, "share_of_integers_that_change": share}
        publish(arguments.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
