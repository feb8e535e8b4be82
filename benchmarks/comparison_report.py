"""What `comparison` has come to so far: a page, its data and a picture."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from seeds import mean_and_deviation

from ci2p_cache.publish import publish
from pipeline.models.complexity import measure

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WAYS = {"time": "Equal time", "cold": "Equal time, encoding counted", "epochs": "Equal epochs"}
_AXES = {
    "epochs": (0, "epochs"),
    "time": (1, "minutes of training and validation"),
    "cold": (1, "minutes, of encoding too"),
}
"""In the picture from left to right: which of a curve's numbers lies along the axis, and what it is."""
_IMAGES = {
    "all": "training images, which the bundled encoder was trained on without their labels, and validation images, "
    "which it was not",
    "unseen": "images of the validation split alone, three quarters of each class to train: the bundled encoder was "
    "not trained on any of them",
}


def reads_cache(model: str) -> bool:
    return model.startswith("ci2p")


_VIEWS = {
    "best": " The cache has eight crops of each image, which went through RandAugment.",
    "best-plain": " That is `best` on a cache of the plain images and their mirror images.",
}


@dataclass(frozen=True)
class Block:
    """One data set under one recipe."""

    data: str
    recipe: str
    encoded: dict[str, Any]
    models: dict[str, str]
    epochs: dict[str, dict[str, int]]
    """By way, of each model that takes part in it."""

    @property
    def title(self) -> str:
        return f"{'all images' if self.data == 'all' else 'images that no encoder saw'}, recipe `{self.recipe}`"

    @property
    def encoding(self) -> float:
        """Seconds, of both splits."""
        return sum(float(self.encoded[split]["seconds"]) for split in ("train", "val"))

    def seconds_before(self, way: str, name: str) -> float:
        """That a model's training begins later: its cache is encoded first."""
        return self.encoding if way == "cold" and reads_cache(self.models[name]) else 0.0

    def lengths(self, name: str) -> list[int]:
        """The trainings that a model needs; one that is of both ways is trained once."""
        return sorted({way[name] for way in self.epochs.values() if name in way})


@dataclass(frozen=True)
class Trained:
    """One training that has ended."""

    data: str
    recipe: str
    name: str
    epochs: int
    seed: int
    measured: dict[str, Any]


def write_report(
    report: Path,
    blocks: Sequence[Block],
    done: Sequence[Trained],
    *,
    seeds: int,
    image_size: int,
    minutes: float,
    setting: str,
    command: str,
) -> None:
    """Writes REPORT.md, REPORT.json and REPORT.png; what is missing stands in them."""
    planned = seeds * sum(len(block.lengths(name)) for block in blocks for name in block.models)
    missing = f"**Not complete: {len(done)} of {planned} trainings are done.**" if len(done) < planned else ""
    gmacs = {
        model: measure([model], [image_size])[0].gmacs_trained
        for model in {model for block in blocks for model in block.models.values()}
    }
    lines = ["# CI2P-ViT beside the pixel models", "", f"Written by `{command}`.", "", setting, ""]
    lines += [
        "Baselines read pixels that were decoded once and lie in memory, unless they draw fresh crops, which flatters "
        "them: they wait for no decoder. Minutes are those of training and validation, and of encoding where a title "
        "counts it. Last and best top-1 are of validation images, mean and standard deviation over the seeds; bands in "
        "the picture are one standard deviation to either side.",
        "",
        *([missing, ""] if missing else []),
        f"![accuracy as training goes on]({report.name}.png)",
        "",
    ]
    for block in blocks:
        sizes = ", ".join(f"{block.encoded[split]['num_images']:,} {split}" for split in ("train", "val"))
        lines += [
            f"## {block.title[:1].upper()}{block.title[1:]}",
            "",
            f"Images: {sizes}; {_IMAGES[block.data]}. Encoding the cache, once for all trainings to come: "
            f"{block.encoding / 60:.1f} minutes on all cores, {block.encoded['train']['bytes_per_view']:,.0f} bytes a "
            f"view.{_VIEWS.get(block.recipe, '')}",
            "",
        ]
        for way in block.epochs:
            ran = {name: _of(done, block, name, epochs) for name, epochs in block.epochs[way].items()}
            length = {"time": f", {minutes:g} minutes", "cold": f", {minutes + block.encoding / 60:.1f} minutes"}.get(
                way, ""
            )
            lines += [f"### {WAYS[way]}{length}, `{block.recipe}`, {block.data}"]
            lines += ["", *_table(block, way, ran, gmacs, seeds), ""]
            left_out = sorted(set(block.models) - set(ran))
            if left_out:
                lines += [f"Left out, for it would take over {2 * minutes:g} minutes: {', '.join(left_out)}.", ""]
    report.parent.mkdir(parents=True, exist_ok=True)
    publish(report.with_suffix(".md"), "\n".join(lines).encode())
    result = {
        "setting": setting,
        "command": command,
        "complete": not missing,
        "blocks": [asdict(block) for block in blocks],
        "runs": [asdict(trained) for trained in done],
    }
    publish(report.with_suffix(".json"), (json.dumps(result, indent=1) + "\n").encode())
    _draw(report.with_suffix(".png"), blocks, done)


def _of(done: Sequence[Trained], block: Block, name: str, epochs: int) -> list[dict[str, Any]]:
    wanted = (block.data, block.recipe, name, epochs)
    ours = [t for t in done if (t.data, t.recipe, t.name, t.epochs) == wanted]
    return [t.measured for t in sorted(ours, key=lambda t: t.seed)]


def _table(
    block: Block, way: str, ran: dict[str, list[dict[str, Any]]], gmacs: dict[str, float], seeds: int
) -> list[str]:
    lines = [
        "| model | trained parameters | trained G MACs | epochs | minutes | training images/s | last top-1, % "
        "| best top-1, % | n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in ran.items():
        start = f"| {name} (`{block.models[name]}`) "
        macs, epochs = f"{gmacs[block.models[name]]:.2f}", block.epochs[way][name]
        if not runs:
            lines.append(f"{start}| | {macs} | {epochs} | | | | | 0 of {seeds} |")
            continue
        count = str(seeds) if len(runs) == seeds else f"{len(runs)} of {seeds}"
        taken, rate = (statistics.fmean(run[key] for run in runs) for key in ("seconds", "images_per_s"))
        taken += block.seconds_before(way, name)
        lines.append(
            f"{start}| {runs[0]['params']:,} | {macs} | {epochs} | {taken / 60:.1f} | {rate:.1f} "
            f"| {mean_and_deviation([100 * run['final_top1'] for run in runs])} "
            f"| {mean_and_deviation([100 * run['best_top1'] for run in runs])} | {count} |"
        )
    return lines


def curve(measured: dict[str, Any], seconds: float = 0.0) -> tuple[list[float], list[float], list[float]]:
    """Epochs, minutes from so many seconds on, and top-1 in percent, epoch after epoch."""
    epochs, minutes, top1 = [], [], []
    for line in measured["metrics"]:
        seconds += line["seconds"]
        if line["val_top1"] is not None:
            epochs.append(line["epoch"])
            minutes.append(seconds / 60)
            top1.append(100 * line["val_top1"])
    return epochs, minutes, top1


def _draw(file: Path, blocks: Sequence[Block], done: Sequence[Trained]) -> None:
    ways = [way for way in _AXES if any(way in block.epochs for block in blocks)]
    size = (5.5 * len(ways), 4 * len(blocks))
    figure, rows = plt.subplots(len(blocks), len(ways), figsize=size, dpi=120, sharey="row", squeeze=False)
    for block, row in zip(blocks, rows, strict=True):
        for axes, way in zip(row, ways, strict=True):
            place, xlabel = _AXES[way]
            for color, name in enumerate(block.models):
                if name not in block.epochs.get(way, {}):
                    continue
                before = block.seconds_before(way, name)
                curves = [curve(measured, before) for measured in _of(done, block, name, block.epochs[way][name])]
                if not curves:
                    continue
                x = [statistics.fmean(points) for points in zip(*(each[place] for each in curves), strict=True)]
                seeds = list(zip(*(each[2] for each in curves), strict=True))
                mean = [statistics.fmean(points) for points in seeds]
                axes.plot(x, mean, ".-", color=f"C{color}", label=f"{name}, n = {len(curves)}")
                if len(curves) > 1:
                    half = [statistics.stdev(points) for points in seeds]
                    low = [middle - width for middle, width in zip(mean, half, strict=True)]
                    high = [middle + width for middle, width in zip(mean, half, strict=True)]
                    axes.fill_between(x, low, high, color=f"C{color}", alpha=0.2, linewidth=0)
            axes.grid(alpha=0.3)
            if axes.get_lines():
                axes.legend(loc="lower right", fontsize="small")
            axes.set(xlabel=xlabel, title=f"{WAYS[way].lower()}: {block.title}".replace("`", ""))
        row[0].set_ylabel("validation top-1, %")
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)
