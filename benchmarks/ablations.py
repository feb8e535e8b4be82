"""Does the encoder matter, and what does rounding cost? One recipe, several caches of the same images, several seeds.

    python benchmarks/ablations.py --data-dir imagenette --encoder start=start.pth.tar --work /tmp/ablations

Arms: a random frozen encoder, every `--encoder NAME=FILE`, and the bundled one stored as float16, rounded to steps
of 0.5, 1 and 2, and run in bfloat16. Every arm is encoded and trained by the `ci2p` commands, so a killed run goes on
where it was. Prints the table of docs/ablations.md and writes docs/ablations.json.
"""

import argparse
import io
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from commands import DOCS, ci2p, command_line, cores, machine

from ci2p_cache.publish import publish
from pipeline.encode.codec import new_codec

REFERENCE = "bundled, step 1"


@dataclass(frozen=True)
class Arm:
    name: str
    weights: str
    store: tuple[str, ...]  # options of ci2p encode

    @property
    def folder(self) -> str:
        return self.name.replace(", ", "-").replace(" ", "")


def arms(work: Path, encoders: list[str]) -> list[Arm]:
    random = random_weights(work / "random.pth.tar")
    others = [Arm(f"{name}, step 1", file, ("--step", "1")) for name, file in (e.split("=", 1) for e in encoders)]
    steps = [Arm(f"bundled, step {step}", "bundled", ("--step", step)) for step in ("0.5", "1", "2")]
    return [
        Arm("random, float16", str(random), ("--store", "float16")),
        *others,
        Arm("bundled, float16", "bundled", ("--store", "float16")),
        *steps,
        Arm("bundled in bfloat16, step 1", "bundled", ("--step", "1", "--precision", "bfloat16")),
    ]


def random_weights(path: Path) -> Path:
    """A codec that nobody trained, the same one every time."""
    torch.manual_seed(0)
    content = io.BytesIO()
    torch.save({"state_dict": new_codec().state_dict()}, content)
    publish(path, content.getvalue())
    return path


def subset(data_dir: Path, work: Path, per_class: dict[str, int]) -> Path:
    """The first so many images of every class by name, as links: the same for every arm and machine."""
    root = work / "images"
    for split, count in per_class.items():
        for folder in sorted((data_dir / split).iterdir()):
            target = root / split / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for image in sorted(folder.iterdir())[:count]:
                link = target / image.name
                if not link.exists():
                    link.symlink_to(image.resolve())
    return root


def encode(arm: Arm, images: Path, work: Path, image_size: int) -> float:
    measured = ci2p(
        *("encode", "--dataset", "folder", "--data-dir", images, "--out", work / "caches" / arm.folder),
        *("--weights", arm.weights, *arm.store, "--image-size", image_size),
        report=work / f"{arm.folder}.encode.json",
        threads=cores(),
    )
    return float(measured["train"]["bytes_per_view"])


def train(arm: Arm, seed: int, work: Path, epochs: int, threads: int) -> float:
    measured = ci2p(
        *("train", "--shards", work / "caches" / arm.folder, "--out", work / "runs" / f"{arm.folder}-{seed}"),
        *("--recipe", "quick", "--model", "ci2p_vit_tiny", "--epochs", epochs, "--seed", seed),
        *("--precision", "bfloat16", "--workers", "1"),
        report=work / f"{arm.folder}.{seed}.train.json",
        threads=threads,
    )
    return 100 * float(measured["final_top1"])


def table(sizes: dict[str, float], top1: dict[str, list[float]], *, what: str, reference: str) -> str:
    """A row an arm: mean top-1 over the seeds, and its difference to the reference's, seed by seed."""
    lines = [f"| {what} | top-1, % | sd | against {reference} | n |", f"|{'---|' * (what.count('|') + 5)}"]
    for name, values in top1.items():
        several = len(values) > 1
        spread = f"{statistics.stdev(values):.2f}" if several else ""
        gaps = [ours - theirs for ours, theirs in zip(values, top1[reference], strict=True)]
        error = f" ± {statistics.stdev(gaps) / len(gaps) ** 0.5:.2f}" if several else ""
        against = "" if name == reference else f"{statistics.fmean(gaps):+.2f}{error}"
        mean = statistics.fmean(values)
        lines.append(f"| {name} | {sizes[name]:,.0f} | {mean:.2f} | {spread} | {against} | {len(values)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="DIR/train/CLASS/x.jpg and DIR/val/CLASS/x.jpg")
    parser.add_argument("--work", type=Path, required=True, help="where caches and runs go")
    parser.add_argument("--encoder", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--train-per-class", type=int, default=10**9)
    parser.add_argument("--val-per-class", type=int, default=10**9)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    arguments = parser.parse_args()
    counts = {"train": arguments.train_per_class, "val": arguments.val_per_class}
    images = subset(arguments.data_dir, arguments.work, counts)
    chosen = arms(arguments.work, arguments.encoder)
    sizes = {arm.name: encode(arm, images, arguments.work, arguments.image_size) for arm in chosen}
    jobs = [(arm, seed) for seed in range(arguments.seeds) for arm in chosen]
    threads = max(1, cores() // arguments.jobs)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        found = list(pool.map(lambda job: train(*job, arguments.work, arguments.epochs, threads), jobs))
    top1: dict[str, list[float]] = {arm.name: [] for arm in chosen}
    for (arm, _), value in zip(jobs, found, strict=True):
        top1[arm.name].append(value)
    numbers = {split: len(list((images / split).glob("*/*"))) for split in counts}
    setting = (
        f"{numbers['train']:,} training and {numbers['val']:,} validation images at {arguments.image_size} px, "
        f"`ci2p_vit_tiny`, recipe `quick`, {arguments.epochs} epochs, bfloat16; top-1 of the last epoch; "
        f"the same seeds in every arm, differences by seed with their standard error; {machine()}"
    )
    result = {"setting": setting, "command": command_line(), "bytes_per_view": sizes, "top1": top1}
    publish(DOCS / "ablations.json", (json.dumps(result, indent=1) + "\n").encode())
    rows = table(sizes, top1, what="encoder and store | bytes a view", reference=REFERENCE)
    print(f"{setting}\n\n{rows}")


if __name__ == "__main__":
    main()
