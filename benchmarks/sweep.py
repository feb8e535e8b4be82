"""Arms of one question: every arm trained with every seed on caches of the same images, and a table of them.

Shared by `ablations` and `augmentation`: model, recipe and precision are theirs alike, and so is the subset of images.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from commands import DOCS, ci2p, command_line, cores, machine

from ci2p_cache.publish import publish


@dataclass(frozen=True)
class Arm:
    """A row of the table: options of `ci2p train` on the cache in a folder of that name under WORK/caches."""

    name: str
    cache: str
    options: tuple[str, ...] = ()


def folder_of(name: str) -> str:
    """An arm's name without blanks and commas."""
    return name.replace(", ", "-").replace(" ", "")


def parser_of(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="DIR/train/CLASS/x.jpg and DIR/val/CLASS/x.jpg")
    parser.add_argument("--work", type=Path, required=True, help="where caches and runs go")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--train-per-class", type=int, default=10**9)
    parser.add_argument("--val-per-class", type=int, default=10**9)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the report goes")
    return parser


def subset_of(arguments: argparse.Namespace) -> Path:
    """The images that every arm sees."""
    counts = {"train": arguments.train_per_class, "val": arguments.val_per_class}
    return subset(arguments.data_dir, arguments.work, counts)


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


def train(arm: Arm, seed: int, arguments: argparse.Namespace) -> float:
    """Top-1 of the last epoch, in percent."""
    work, folder = arguments.work, folder_of(arm.name)
    measured = ci2p(
        *("train", "--shards", work / "caches" / arm.cache, "--out", work / "runs" / f"{folder}-{seed}"),
        *("--recipe", "quick", "--model", "ci2p_vit_tiny", "--epochs", arguments.epochs, "--seed", seed),
        *("--precision", "bfloat16", "--workers", "1", "--no-pictures", *arm.options),
        report=work / f"{folder}.{seed}.train.json",
        threads=max(1, cores() // arguments.jobs),
    )
    return 100 * float(measured["final_top1"])


def table(
    sizes: dict[str, float],
    top1: dict[str, list[float]],
    *,
    what: str,
    reference: str,
    seeds: int,
    figures: dict[str, dict[str, float | None]],
) -> str:
    """A row an arm: mean top-1 over the seeds, and its difference to the reference's over the seeds that both have."""
    more = "".join(f" {name} |" for name in figures)
    lines = [f"| {what} |{more} top-1, % | sd | against {reference} | n |"]
    lines.append(f"|{'---|' * (what.count('|') + 5 + len(figures))}")
    for name, values in top1.items():
        mean = f"{statistics.fmean(values):.2f}" if values else ""
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        gaps = [ours - theirs for ours, theirs in zip(values, top1.get(reference, ()), strict=False)]
        error = f" ± {statistics.stdev(gaps) / len(gaps) ** 0.5:.2f}" if len(gaps) > 1 else ""
        against = f"{statistics.fmean(gaps):+.2f}{error}" if gaps and name != reference else ""
        cells = "".join(f" {'' if each[name] is None else f'{each[name]:.2f}'} |" for each in figures.values())
        count = str(seeds) if len(values) == seeds else f"{len(values)} of {seeds}"
        lines.append(f"| {name} | {sizes[name]:,.0f} |{cells} {mean} | {spread} | {against} | {count} |")
    return "\n".join(lines)


def sweep(
    arms: Sequence[Arm],
    sizes: dict[str, float],
    images: Path,
    arguments: argparse.Namespace,
    *,
    what: str,
    sizes_name: str,
    reference: str,
    report: str,
    figures: dict[str, dict[str, float | None]] | None = None,
) -> None:
    """Trains the arms, the first seed of all before the second; writes the report after each, and prints the table.

    `sizes` are the arms', in bytes, and go by `sizes_name` in the report; `figures` are further columns, by their
    headings, of every arm. Without seeds nothing is trained.
    """
    numbers = {split: len(list((images / split).glob("*/*"))) for split in ("train", "val")}
    setting = (
        f"{numbers['train']:,} training and {numbers['val']:,} validation images at {arguments.image_size} px, "
        f"`ci2p_vit_tiny`, recipe `quick`, {arguments.epochs} epochs, bfloat16; top-1 of the last epoch; "
        f"the same seeds in every arm, differences by seed with their standard error; {machine()}"
    )
    top1: dict[str, list[float]] = {arm.name: [] for arm in arms}

    def write() -> None:
        result = {
            "setting": setting,
            "command": command_line(),
            "seeds": arguments.seeds,
            "complete": all(len(values) == arguments.seeds for values in top1.values()),
            sizes_name: sizes,
            **({"figures": figures} if figures else {}),
            "top1": top1,
        }
        arguments.docs.mkdir(parents=True, exist_ok=True)
        publish(arguments.docs / report, (json.dumps(result, indent=1) + "\n").encode())

    write()
    jobs = [(arm, seed) for seed in range(arguments.seeds) for arm in arms]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for (arm, _), value in zip(jobs, pool.map(lambda job: train(*job, arguments), jobs), strict=True):
            top1[arm.name].append(value)  # seed by seed, as they were asked for
            write()
    written = table(sizes, top1, what=what, reference=reference, seeds=arguments.seeds, figures=figures or {})
    print(f"{setting}\n\n{written}")
