"""Encoding views, ours beside CompressAI's model called as its documentation shows, in one run: views/s.

    python benchmarks/encoding.py [--device cpu] [--batch-size 16] [--rounds 5] [--images kodak]

Ours is measured in both precisions (in float32 alone where a CPU has no bfloat16), by torch and, where it is installed,
by OpenVINO. Pixels are synthetic (the speed does not depend on them) unless --images names a folder. Prints medians,
ranges and ratios, the share of the machine's own float32 matrix-multiply rate that the encoder reaches, and the share
of rounded latents that differ from what CompressAI gives; with --json, writes the figures.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from ci2p_cache.publish import publish
from pipeline.encode.encoder import load_encoder
from pipeline.encode.preprocess import load_pixels, preprocessing
from pipeline.encode.whole_codec import load_codec
from pipeline.running.bfloat16 import lacks_bfloat16
from pipeline.running.devices import resolve_device

MACS_PER_VIEW = 2.764e9  # of the analysis transform at 256 px


def measure(encode: Callable[[], object], views: int, rounds: int, device: torch.device) -> list[float]:
    rates = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        encode()
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(views / (time.perf_counter() - begin))
    return rates[1:]


def some_pixels(folder: Path | None, count: int) -> torch.Tensor:
    """uint8 [count, 3, 256, 256]: the folder's first images, or noise."""
    if folder is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (count, 3, 256, 256), dtype=torch.uint8, generator=generator)
    paths = sorted(path for path in folder.iterdir() if path.is_file())[:count]
    return torch.from_numpy(np.stack([load_pixels(path.read_bytes(), preprocessing()) for path in paths]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=16, help="images; each makes two views")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=Path, help="a folder of images, the first of which are encoded")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    pixels = some_pixels(arguments.images, arguments.batch_size)
    both = torch.cat([pixels, pixels.flip(-1)]).to(device).float() / 255
    model = load_codec("bundled").to(device)
    views = ("plain", "mirror")
    num_views = len(both)

    @torch.inference_mode()
    def as_documented() -> torch.Tensor:
        return model.g_a(both)

    rates = {"CompressAI as documented": measure(as_documented, num_views, arguments.rounds, device)}
    exact = as_documented().unflatten(0, (len(views), -1)).transpose(0, 1).round().cpu()
    changed = {}
    engines = ("torch", "openvino") if device.type == "cpu" and find_spec("openvino") else ("torch",)
    precisions = ("float32",) if lacks_bfloat16(device) else ("float32", "bfloat16")
    for engine, precision in itertools.product(engines, precisions):
        encoder = load_encoder("bundled", device, precision, engine=engine)
        name = f"ours, {engine}, {precision}"
        rates[name] = measure(lambda encoder=encoder: encoder.views(pixels, views), num_views, arguments.rounds, device)
        changed[name] = float((encoder.views(pixels, views).round().cpu() != exact).float().mean())
    matrix = torch.randn(2048, 2048, device=device)
    multiplies = measure(lambda: matrix @ matrix, 1, arguments.rounds, device)
    peak = statistics.median(multiplies) * 2048**3
    base = statistics.median(rates["CompressAI as documented"])
    print(f"float32 matrix multiply: {peak / 1e9:.0f} GMAC/s")
    for name, values in rates.items():
        median = statistics.median(values)
        print(
            f"{name:<26}{median:>8.1f} views/s ({min(values):.1f}-{max(values):.1f}), {median / base:.2f}x, "
            f"{100 * median * MACS_PER_VIEW / peak:.0f} % of that multiply"
            + (f", {100 * changed[name]:.2f} % of the integers differ" if name in changed else "")
        )
    if arguments.json:
        result = {"views_per_s": rates, "share_of_integers_that_differ": changed, "matrix_macs_per_s": peak}
        publish(arguments.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
