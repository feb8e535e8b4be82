"""Encoding views, ours beside CompressAI's model called as its documentation shows, in one run: views/s.

    python benchmarks/encoding.py [--device cpu] [--batch-size 16] [--rounds 5]

Synthetic pixels (the speed does not depend on them). Prints medians, ranges and ratios, and the share of the machine's
own matrix-multiply rate that the encoder reaches.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from pipeline.encode.codec import new_codec
from pipeline.encode.encoder import load_encoder, resolve_device

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=16, help="images; each makes two views")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (arguments.batch_size, 3, 256, 256), dtype=torch.uint8, generator=generator)
    both = torch.cat([pixels, pixels.flip(-1)]).to(device).float() / 255
    model = new_codec().eval().to(device)
    views = ("plain", "mirror")
    num_views = len(both)

    @torch.inference_mode()
    def as_documented() -> object:
        return model.g_a(both)

    rates = {"CompressAI as documented": measure(as_documented, num_views, arguments.rounds, device)}
    for precision in ("float32", "bfloat16"):
        encoder = load_encoder("bundled", device, precision)
        rates[f"ours, {precision}"] = measure(
            lambda encoder=encoder: encoder.views(pixels, views), num_views, arguments.rounds, device
        )
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
        )


if __name__ == "__main__":
    main()
