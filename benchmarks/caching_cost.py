"""What caching costs: minutes to levels of accuracy from a cache, cold and warm, beside the encoder in every step.

    python benchmarks/caching_cost.py --data-dir imagenette --work /tmp/caching-cost --image-size 128 --epochs 20

Two pairs of ways to train one model by one recipe for equal epochs: the plain picture and its mirror image, from a
cache or encoded on the fly; and random-resized crops, as many as a cache holds or fresh ones every epoch. Warm minutes
are those of training steps, cold ones have the encoding of the training images in front; validation is in neither.
Every way is trained by `ci2p` commands, the first seed of all before the second, so a killed run goes on where it was.
Writes caching-cost.md, with the rows in which the cache loses, and caching-cost.json.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import ci2p, command_line, cores, machine, set_options
from seeds import mean_and_deviation
from sweep import parser_of, subset_of

from ci2p_cache.printable import counted
from ci2p_cache.publish import publish


@dataclass(frozen=True)
class Way:
    """A row of the table."""

    name: str
    folder: str
    options: tuple[object, ...]  # of `ci2p encode`, or of `ci2p train --encode on-the-fly`
    is_cached: bool


@dataclass(frozen=True)
class Trained:
    """What one seed of a way came to."""

    minutes: list[float]  # of training steps, until the end of each epoch that was evaluated
    top1: list[float]  # percent, after these

    def minutes_to(self, level: float) -> float | None:
        """None where it was not reached."""
        return next((spent for spent, top1 in zip(self.minutes, self.top1, strict=True) if top1 >= level), None)


@dataclass(frozen=True)
class Found:
    """A way with all its seeds."""

    way: Way
    encoding: float  # minutes, of the training images; 0 on the fly
    seeds: list[Trained]

    @property
    def last(self) -> list[float]:
        return [seed.top1[-1] for seed in self.seeds]

    def reached(self, level: float, *, cold: bool) -> list[float]:
        """Minutes of those seeds that reached a level."""
        warm = [minutes for seed in self.seeds if (minutes := seed.minutes_to(level)) is not None]
        return [minutes + self.encoding * cold for minutes in warm]


def pairs(crops: int, augment: str) -> list[tuple[Way, Way]]:
    """The cached way and the one on the fly."""
    more = () if augment == "none" else ("--augment", augment)
    and_more = "" if augment == "none" else f", {augment}"
    return [
        (
            Way("cache: plain and mirror image", "cache-plain", (), True),
            Way("on the fly: plain and mirror image", "fly-plain", (), False),
        ),
        (
            Way(f"cache: {crops} crops{and_more}", f"cache-crops-{crops}", ("--crops", crops, *more), True),
            Way(f"on the fly: fresh crops{and_more}", "fly-crops", ("--crops", "fresh", *more), False),
        ),
    ]


def trained(metrics: Sequence[dict[str, Any]], images_per_step: int) -> Trained:
    """Of the lines of metrics.jsonl."""
    minutes, top1, spent, step = [], [], 0.0, 0
    for line in metrics:
        spent += (line["step"] - step) * images_per_step / line["images_per_s"] / 60
        step = line["step"]
        if line["val_top1"] is not None:
            minutes.append(spent)
            top1.append(100 * line["val_top1"])
    return Trained(minutes, top1)


def encode(way: Way, images: Path, arguments: argparse.Namespace) -> float:
    """Minutes, of the training images."""
    if not way.is_cached:
        return 0.0
    measured = ci2p(
        *("encode", "--dataset", "folder", "--data-dir", images, "--out", cache_of(way, arguments)),
        *("--image-size", arguments.image_size, "--device", arguments.device, *way.options),
        *("--precision", arguments.encoder_precision),
        report=arguments.work / f"{way.folder}.encode.json",
        threads=cores(),
    )["train"]
    share = measured["num_encoded"] / measured["num_images"]  # the rest was there when a killed run was gone on with
    return float(measured["seconds"]) / share / 60


def train(way: Way, seed: int, images: Path, arguments: argparse.Namespace) -> Trained:
    data: tuple[object, ...] = ("--shards", cache_of(way, arguments))
    if not way.is_cached:
        data = ("--encode", "on-the-fly", "--data-dir", images, "--image-size", arguments.image_size, *way.options)
        data += ("--encoder-precision", arguments.encoder_precision)
    run = arguments.work / "runs" / f"{way.folder}-{seed}"
    workers = 1 if way.is_cached else max(1, cores() // arguments.jobs)
    ci2p(
        *("train", *data, "--out", run, "--model", arguments.model, "--recipe", arguments.recipe, "--seed", seed),
        *("--epochs", arguments.epochs, "--precision", arguments.precision, "--device", arguments.device),
        *("--workers", workers, "--no-pictures", *set_options(arguments.set)),
        report=arguments.work / f"{way.folder}-{seed}.json",
        threads=max(1, cores() // arguments.jobs),
    )
    batch_size = json.loads((run / "config.json").read_text())["recipe"]["batch_size"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return trained(lines, min(batch_size, len(list((images / "train").glob("*/*")))))


def cache_of(way: Way, arguments: argparse.Namespace) -> Path:
    folder: Path = arguments.work / "caches" / way.folder
    return folder


def table(found: list[Found], levels: Sequence[float]) -> list[str]:
    heads = [f"{state} to {level:g} %" for level in levels for state in ("cold", "warm")]
    lines = [
        f"| way | encoding | training | {' | '.join(heads)} | last top-1, % | n |",
        "|---" * (len(heads) + 5) + "|",
    ]
    for each in found:
        cells = [shown(each, level, cold=cold) for level in levels for cold in (True, False)]
        whole = statistics.fmean(seed.minutes[-1] for seed in each.seeds)
        lines.append(
            f"| {each.way.name} | {each.encoding:.1f} | {whole:.1f} | {' | '.join(cells)} | "
            f"{mean_and_deviation(each.last)} | {len(each.seeds)} |"
        )
    return lines


def shown(found: Found, level: float, *, cold: bool) -> str:
    """The mean over the seeds that reached a level, and how many did where not all."""
    minutes = found.reached(level, cold=cold)
    if not minutes:
        return "-"
    of = f" ({len(minutes)} of {len(found.seeds)})" if len(minutes) < len(found.seeds) else ""
    return f"{statistics.fmean(minutes):.1f}{of}"


def lost(cached: Found, fresh: Found, levels: Sequence[float]) -> list[str]:
    """Rows in which a cache does worse than the encoder on the fly: later at a level, or not there; less accurate."""
    rows = []
    for level in levels:
        for cold in (True, False):
            ours, theirs = cached.reached(level, cold=cold), fresh.reached(level, cold=cold)
            is_later = len(ours) == len(theirs) > 0 and statistics.fmean(ours) > statistics.fmean(theirs)
            if len(ours) < len(theirs) or is_later:
                what = f"minutes to {level:g} %, {'cold' if cold else 'warm'}"
                rows.append((what, shown(cached, level, cold=cold), shown(fresh, level, cold=cold)))
    ours_last, theirs_last = statistics.fmean(cached.last), statistics.fmean(fresh.last)
    if ours_last < theirs_last:
        rows.append(("last top-1, %", f"{ours_last:.2f}", f"{theirs_last:.2f}"))
    return [f"| {what} | {cached.way.name} | {ours} | {theirs} |" for what, ours, theirs in rows]


def paid_back(cached: Found, fresh: Found) -> str:
    """After how many trainings of these epochs the encoding has been paid back."""
    ours, theirs = (statistics.fmean(seed.minutes[-1] for seed in each.seeds) for each in (cached, fresh))
    when = "never: a training from it is no quicker"
    if theirs > ours:
        when = f"by training {max(1, math.ceil(cached.encoding / (theirs - ours)))}"
    return f"* {cached.way.name}: {when} ({cached.encoding:.1f} minutes once, {ours:.1f} each, against {theirs:.1f})"


def report(found: list[tuple[Found, Found]], images: Path, arguments: argparse.Namespace) -> str:
    counts = {split: len(list((images / split).glob("*/*"))) for split in ("train", "val")}
    setting = (
        f"{counts['train']:,} training and {counts['val']:,} validation images of `{arguments.data_dir.name}` at "
        f"{arguments.image_size} px, `{arguments.model}`, recipe `{arguments.recipe}`, {arguments.epochs} epochs, "
        f"{arguments.precision}, the encoder {arguments.encoder_precision}"
        + "".join(f", `{each}`" for each in arguments.set)
        + f", {counted(arguments.seeds, 'seed')}; {machine()}; "
        f"{counted(arguments.jobs, 'training')} at a time. " + (arguments.note or "")
    )
    rows = [row for pair in found for row in lost(*pair, arguments.levels)]
    losses = ["| what | cache | its | on the fly |", "|---|---|---|---|", *rows] if rows else ["In none of the above."]
    minutes = (
        "Minutes, means over the seeds that reach a level: warm of training steps, cold with the encoding of the "
        "training images in front of them. Neither has the validation, nor the decoding into memory with which plain "
        "pictures on the fly begin, which flatters that row; fresh crops are decoded every epoch."
    )
    parts = [
        f"# What caching costs\n\nWritten by `{command_line()}`.",
        setting.rstrip(),
        minutes,
        "\n".join(table([each for pair in found for each in pair], arguments.levels)),
        "## Where the cache loses",
        "\n".join(losses),
        "## When a cache has paid for itself",
        "\n".join(paid_back(*pair) for pair in found),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="ci2p_vit_tiny")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over the recipe")
    parser.add_argument("--precision", default="bfloat16", help="of the training")
    parser.add_argument("--encoder-precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--crops", type=int, default=8, help="that the second cache holds of an image")
    parser.add_argument("--augment", choices=["none", "randaugment", "authors"], default="none", help="of all crops")
    parser.add_argument("--levels", type=float, nargs="+", default=[60.0, 70.0, 80.0], help="of top-1, in percent")
    parser.add_argument("--note", help="what else a reader has to know of this run, for the report")
    arguments = parser.parse_args()
    images = subset_of(arguments)
    chosen = pairs(arguments.crops, arguments.augment)
    ways = [way for pair in chosen for way in pair]
    encoding = {way: encode(way, images, arguments) for way in ways}
    jobs = [(way, seed) for seed in range(arguments.seeds) for way in ways]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        done = dict(zip(jobs, pool.map(lambda job: train(*job, images, arguments), jobs), strict=True))
    by_way = {way: Found(way, encoding[way], [done[way, seed] for seed in range(arguments.seeds)]) for way in ways}
    found = [(by_way[cached], by_way[fresh]) for cached, fresh in chosen]
    text = report(found, images, arguments)
    curves = {way.name: [{"minutes": seed.minutes, "top1": seed.top1} for seed in by_way[way].seeds] for way in ways}
    result = {
        "command": command_line(),
        "machine": machine(),
        "encoding_minutes": {way.name: encoding[way] for way in ways},
        "curves": curves,
    }
    publish(arguments.docs / "caching-cost.md", text.encode())
    publish(arguments.docs / "caching-cost.json", (json.dumps(result, indent=1) + "\n").encode())
    print(text)


if __name__ == "__main__":
    main()
