"""All short benchmarks of cache, encoder and training beside their peers, one after another: docs/benchmarks.md.

    python benchmarks/run_all.py --data-dir imagenette [--work DIR] [--images 2048]      (`make bench DATA=imagenette`)
                                 [--mds-python PYTHON]      of an environment as reading_mds.py says

Encodes the first images of every class into caches of both formats and of the archive's store, and runs each
benchmark on them as its own docstring says. Writes what they print to docs/benchmarks.md, their figures to
docs/benchmarks.json, and those of reading, drawn, to docs/reading.png.
Nothing else should run on the machine meanwhile. The long ones (ablations, augmentation, comparison) are run by
themselves.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
from commands import DOCS, ROOT, ci2p, command_line, cores, machine
from sweep import subset

from ci2p_cache.publish import publish

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def sections(images: Path, zarr: Path, tars: Path, rans: Path, mds_python: str | None) -> dict[str, list[object]]:
    """Title -> benchmark and its arguments."""
    mds = ["--mds-python", mds_python] if mds_python else []
    return {
        "Size": ["size.py", zarr, tars, rans],
        "Codecs": ["codec_choice.py", zarr],
        "Reading": ["reading.py", "--shards", zarr, "--tars", tars, "--data-dir", images, *mds],
        "Shuffling": ["shuffling.py"],
        "Growing": ["scaling.py"],
        "Streaming": ["streaming.py"],
        "Encoding": ["encoding.py", "--images", images / "val" / first_class(images)],
        "Decoding large JPEGs": [
            "jpeg_decoding.py",
            "--images",
            images / "val" / first_class(images),
            "--image-size",
            32,
        ],
        "Training": ["training.py", "--shards", zarr, "--data-dir", images],
    }


def first_class(images: Path) -> str:
    return sorted(folder.name for folder in (images / "val").iterdir())[0]


def run(arguments: list[object], report: Path) -> str:
    """What a benchmark printed; its figures are in `report`. Ends where it fails."""
    command = [sys.executable, ROOT / "benchmarks" / str(arguments[0]), *arguments[1:], "--json", report]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout.rstrip()


def draw(reading: dict[str, list[float]], path: Path) -> None:
    """Views/s of every loader, medians with their ranges."""
    names = sorted(reading, key=lambda name: statistics.median(reading[name]))
    medians = [statistics.median(reading[name]) for name in names]
    below = [median - min(reading[name]) for name, median in zip(names, medians, strict=True)]
    above = [max(reading[name]) - median for name, median in zip(names, medians, strict=True)]
    colors = ["C0" if name.startswith("ours") else "C2" if name.startswith("limit") else "0.7" for name in names]
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    bars = axes.barh(names, medians, xerr=[below, above], color=colors, error_kw={"lw": 0.8})
    axes.bar_label(bars, [f"{median:,.0f}" for median in medians], padding=6, fontsize=8)
    axes.set(xscale="log", xlabel="views/s, one core, batches of 256", xlim=(min(medians) / 2, 3 * max(medians)))
    axes.tick_params(axis="y", labelsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="DIR/train/CLASS/x.jpg and DIR/val/CLASS/x.jpg")
    parser.add_argument("--work", type=Path, help="where caches go; kept, and gone on with, if given")
    parser.add_argument("--images", type=int, default=2048, help="of the training split")
    parser.add_argument("--mds-python", help="an interpreter that has mosaicml-streaming")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        num_classes = len(list((arguments.data_dir / "train").iterdir()))
        per_class = -(-arguments.images // num_classes)
        images = subset(arguments.data_dir, work, {"train": per_class, "val": max(1, per_class // 10)})
        zarr, tars, rans = (work / "caches" / name for name in ("zarr", "webdataset", "rans"))
        encoded = ci2p(
            *("encode", "--dataset", "folder", "--data-dir", images, "--out", zarr),
            report=work / "encode.json",
            threads=cores(),
        )
        ci2p("convert", zarr, tars, "--format", "webdataset", report=work / "convert.json", threads=cores())
        ci2p(*("convert", zarr, rans, "--store", "rans"), report=work / "rans.json", threads=cores())
        setting = (
            f"{encoded['train']['num_images']:,} training images of `{arguments.data_dir.name}`, both views, "
            f"encoded at {encoded['train']['images_per_s']:.1f} images/s by `ci2p encode`. {machine()}."
        )
        found = {}
        for title, benchmark in sections(images, zarr, tars, rans, arguments.mds_python).items():
            print(f"{title} ...", flush=True)
            report = work / f"{title}.json"
            output = run(benchmark, report)
            words = [word.name if isinstance(word, Path) else str(word) for word in benchmark]
            figures = json.loads(report.read_text())
            found[title] = {"command": shlex.join(words), "output": output, "figures": figures}
    lines = ["# Benchmarks", "", f"Written by `{command_line()}`.", "", setting, "", "![views/s](reading.png)", ""]
    for title, section in found.items():
        lines += [
            f"## {title}",
            "",
            f"`python benchmarks/{section['command']}`",
            "",
            "```text",
            section["output"],
            "```",
            "",
        ]
    draw(found["Reading"]["figures"]["views_per_s"], DOCS / "reading.png")
    publish(DOCS / "benchmarks.md", "\n".join(lines).encode())
    result = {"setting": setting, "command": command_line(), "sections": found}
    publish(DOCS / "benchmarks.json", (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
