"""Rate and distortion of codecs on one folder, by CompressAI's own evaluation, beside the published model's curve.

    python benchmarks/rate_distortion.py --images kodak start=start.pth.tar shipped=factorized-prior.pth.tar

Draws docs/rate-distortion.png and writes docs/rate-distortion.json. The published points are those that CompressAI
gives for `bmshj2018-factorized` (mse) on the 24 Kodak images, coded with its entropy coder.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np

from ci2p_cache.publish import publish

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).parents[1] / "docs"
PUBLISHED_BPP = (0.1226, 0.1885, 0.2879, 0.4404, 0.6481, 0.9670, 1.3512, 1.8333)  # qualities 1 to 8
PUBLISHED_PSNR = (26.909, 28.218, 29.617, 31.277, 32.956, 35.381, 37.397, 39.621)
EVALUATE = "import pipeline, runpy; runpy.run_module('compressai.utils.eval_model', run_name='__main__')"


def evaluate(checkpoint: str, images: str) -> dict[str, float]:
    """bpp and psnr by `python -m compressai.utils.eval_model checkpoint`; `pipeline` first: see its docstring."""
    arguments = ["checkpoint", images, "-a", "bmshj2018-factorized", "-p", checkpoint]
    finished = subprocess.run([sys.executable, "-c", EVALUATE, *arguments], capture_output=True, text=True)
    if finished.returncode:
        sys.exit(finished.stderr)
    results = json.loads(finished.stdout[finished.stdout.index("{") :])["results"]
    bpp, psnr = results["bpp"][0], results["psnr-rgb"][0]
    return {"bpp": bpp, "psnr": psnr, "below_published": float(np.interp(bpp, PUBLISHED_BPP, PUBLISHED_PSNR)) - psnr}


def draw(found: dict[str, dict[str, float]]) -> None:
    figure, axes = plt.subplots(figsize=(6, 4), dpi=120)
    axes.plot(PUBLISHED_BPP, PUBLISHED_PSNR, "o-", color="0.5", label="CompressAI's published models, qualities 1 to 8")
    for (name, point), marker in zip(found.items(), "s^Dv*P", strict=False):
        axes.plot(point["bpp"], point["psnr"], marker, markersize=9, label=name)
        below = f"{point['below_published']:.1f} dB below"
        axes.annotate(below, (point["bpp"], point["psnr"]), (8, -4), textcoords="offset points")
    axes.set(xlabel="bits per pixel", ylabel="PSNR (RGB), dB", title="Kodak, 24 images", xlim=(0, 1.5), ylim=(26, 38))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(DOCS / "rate-distortion.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("codecs", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--images", required=True, help="the folder of the Kodak images")
    arguments = parser.parse_args()
    found = {name: evaluate(file, arguments.images) for name, file in (c.split("=", 1) for c in arguments.codecs)}
    publish(DOCS / "rate-distortion.json", (json.dumps(found, indent=1) + "\n").encode())
    draw(found)
    for name, point in found.items():
        gap = point["below_published"]
        print(f"{name}: {point['psnr']:.2f} dB at {point['bpp']:.3f} bit/pixel, {gap:.2f} dB below the published curve")


if __name__ == "__main__":
    main()
