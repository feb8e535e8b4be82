"""The paper's comparison: CI2P-ViT from a cache beside ViT/16, ViT/32 and CNN-ViT from pixels, on one machine.

    python benchmarks/comparison.py --data-dir imagenette --work /tmp/comparison --minutes 30

Same images, order, split, recipe and seeds, in two ways: for equal time, in which every model trains for as many
epochs as fit into --minutes, with a schedule of that length, found by a short run of each; and for equal epochs, as
many as --epochs says, or as fit for the slowest. A model that would take more than twice --minutes for those is left
out of them, and the report says so. All is done by `ci2p` commands, so a killed run goes on where it was. Writes
docs/results.md, docs/results.json and docs/comparison.png.
"""

import argparse
import json
import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from commands import DOCS, ci2p, command_line, cores, machine
from sweep import subset_of

from ci2p_cache.publish import publish

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WIDTHS = {
    "tiny": {
        "CI2P-ViT": "ci2p_vit_tiny",
        "ViT/16": "vit_tiny",
        "ViT/32": "vit_tiny_p32",
        "CNN-ViT": "cnn_vit_tiny",
    },
    "base": {
        "CI2P-ViT": "ci2p_vit_base",
        "CI2P-ViT DS": "ci2p_vit_ds",
        "ViT/16": "vit_base",
        "ViT/32": "vit_base_p32",
        "CNN-ViT": "cnn_vit",
    },
}
_VALIDATION_COST = 1 / 3  # of a validation image, in training images: no backward pass


@dataclass(frozen=True)
class Comparison:
    """What is the same for all models."""

    data_dir: Path
    work: Path
    image_size: int
    threads: int
    options: tuple[str, ...]  # of every training

    @property
    def cache(self) -> Path:
        return self.work / "caches" / "images"

    def encode(self) -> dict[str, Any]:
        return ci2p(
            *("encode", "--dataset", "folder", "--data-dir", self.data_dir, "--out", self.cache),
            *("--image-size", self.image_size),
            report=self.work / "encode.json",
            threads=cores(),
        )

    def train(self, name: str, model: str, *options: object) -> dict[str, Any]:
        """Report of a run, with its epochs' metrics."""
        data = ("baseline", "--data-dir", self.data_dir, "--image-size", self.image_size)
        if model.startswith("ci2p"):
            data = ("train", "--shards", self.cache)
        run = self.work / "runs" / name
        report = self.work / f"{name}.json"
        measured = ci2p(
            *(*data, "--model", model, "--workers", "1", "--out", run, *self.options, *options),
            report=report,
            threads=self.threads,
        )
        lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
        return measured | {"metrics": [json.loads(line) for line in lines]}


def pace(comparison: Comparison, model: str, sizes: dict[str, int]) -> float:
    """Seconds an epoch takes, validation included."""
    measured = comparison.train(f"pace-{model}", model, "--epochs", 10_000, "--max-minutes", 1)
    images = sizes["train"] + _VALIDATION_COST * sizes["val"]
    return images / float(measured["images_per_s"])


def curve(measured: dict[str, Any]) -> tuple[list[float], list[float], list[float]]:
    """Epochs, minutes and top-1 in percent, epoch after epoch."""
    epochs, minutes, top1 = [], [], []
    seconds = 0.0
    for line in measured["metrics"]:
        seconds += line["seconds"]
        if line["val_top1"] is not None:
            epochs.append(line["epoch"])
            minutes.append(seconds / 60)
            top1.append(100 * line["val_top1"])
    return epochs, minutes, top1


def draw(found: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), dpi=120, sharey=True)
    for color, name in enumerate(found["time"]):
        for axes, way, place in ((left, "epochs", 0), (right, "time", 1)):
            for number, measured in enumerate(found[way].get(name, [])):
                points = curve(measured)
                axes.plot(points[place], points[2], ".-", color=f"C{color}", label=None if number else name)
    left.set(xlabel="epochs", ylabel="validation top-1, %", title="equal epochs")
    right.set(xlabel="minutes of training and validation", title="equal time")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(DOCS / "comparison.png")


def table(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = [
        "| model | trained parameters | epochs | minutes | training images/s | last top-1, % | best top-1, % | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, seeds in runs.items():
        mean = {key: statistics.fmean(seed[key] for seed in seeds) for key in ("seconds", "images_per_s")}
        last, best = (", ".join(f"{100 * seed[key]:.2f}" for seed in seeds) for key in ("final_top1", "best_top1"))
        lines.append(
            f"| {name} | {seeds[0]['params']:,} | {seeds[0]['epochs']} | {mean['seconds'] / 60:.1f} | "
            f"{mean['images_per_s']:.1f} | {last} | {best} | {len(seeds)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="DIR/train/CLASS/x.jpg and DIR/val/CLASS/x.jpg")
    parser.add_argument("--work", type=Path, required=True, help="where cache and runs go")
    parser.add_argument("--width", choices=WIDTHS, default="tiny")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--train-per-class", type=int, default=10**9, help="the first so many images by name")
    parser.add_argument("--val-per-class", type=int, default=10**9)
    parser.add_argument("--minutes", type=float, default=30, help="of training each model")
    parser.add_argument("--epochs", type=int, help="of the equal-epochs way; as many as the slowest fits if not given")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each with its share of the cores")
    parser.add_argument("--note", help="what else a reader has to know of this run, for the report")
    arguments = parser.parse_args()
    comparison = Comparison(
        subset_of(arguments),
        arguments.work,
        arguments.image_size,
        max(1, cores() // arguments.jobs),
        ("--recipe", arguments.recipe, "--precision", arguments.precision),
    )
    models = WIDTHS[arguments.width]
    encoded = comparison.encode()
    sizes = {split: int(encoded[split]["num_images"]) for split in ("train", "val")}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        paces = dict(zip(models, pool.map(lambda model: pace(comparison, model, sizes), models.values()), strict=True))
        fitting = {name: math.ceil(60 * arguments.minutes / seconds) for name, seconds in paces.items()}
        same = arguments.epochs or min(fitting.values())
        in_reach = [name for name in models if same * paces[name] <= 2 * 60 * arguments.minutes]
        # The longest first; a model whose time is up after `same` epochs is both.
        jobs = [("time", name, fitting[name]) for name in models]
        jobs += sorted((("epochs", name, same) for name in in_reach), key=lambda job: -paces[job[1]])
        pending = {
            (way, name): [
                pool.submit(
                    partial(comparison.train, f"{model_run(models[name], epochs)}-{seed}", models[name]),
                    *("--epochs", epochs, "--seed", seed),
                )
                for seed in range(arguments.seeds)
            ]
            for way, name, epochs in jobs
            if way == "time" or epochs != fitting[name]
        }
        done = {job: [future.result() for future in futures] for job, futures in pending.items()}
    found = {
        "time": {name: done["time", name] for name in models},
        "epochs": {name: done.get(("epochs", name), done["time", name]) for name in in_reach},
    }
    report(comparison, arguments, encoded, found)


def model_run(model: str, epochs: int) -> str:
    return f"{model}-{epochs}"


def report(
    comparison: Comparison,
    arguments: argparse.Namespace,
    encoded: dict[str, Any],
    found: dict[str, dict[str, list[dict[str, Any]]]],
) -> None:
    seconds = sum(encoded[split]["seconds"] for split in ("train", "val"))
    seeds = "seed 0" if arguments.seeds == 1 else f"seeds 0 to {arguments.seeds - 1}"
    is_reduced = arguments.width != "base" or arguments.image_size < 256 or arguments.train_per_class < 10**9
    full = " **This is a reduced scale.**" if is_reduced else ""
    setting = (
        f"{encoded['train']['num_images']:,} training and {encoded['val']['num_images']:,} validation images of "
        f"`{arguments.data_dir.name}` at {arguments.image_size} px, recipe `{arguments.recipe}`, "
        f"{arguments.precision}, {seeds} (n = {arguments.seeds}), the same images in the same "
        f"order for every model. {machine()}; {arguments.jobs} trainings at a time with "
        f"{comparison.threads} thread{'s' * (comparison.threads > 1)} each.{full}"
    )
    if arguments.note:
        setting += f" {arguments.note}"
    notes = (
        f"Encoding the cache, once for all trainings to come: {seconds / 60:.1f} minutes on all cores, not in the "
        f"tables; {encoded['train']['bytes_per_view']:,.0f} bytes a view. Baselines read pixels that were decoded once "
        "and lie in memory, which flatters them: they wait for no decoder. Minutes are those of training and "
        "validation; last and best top-1 are of validation images, by seed."
    )
    left_out = sorted(set(found["time"]) - set(found["epochs"]))
    missing = f"Left out, for it would take over {2 * arguments.minutes:g} minutes: {', '.join(left_out)}."
    lines = [
        "# CI2P-ViT beside the pixel models",
        "",
        f"Written by `{command_line()}`.",
        "",
        setting,
        "",
        notes,
        "",
        "![accuracy against epochs and against minutes](comparison.png)",
        "",
        f"## Equal time, {arguments.minutes:g} minutes",
        "",
        *table(found["time"]),
        "",
        "## Equal epochs",
        "",
        *table(found["epochs"]),
        "",
        *([missing, ""] if left_out else []),
    ]
    publish(DOCS / "results.md", "\n".join(lines).encode())
    result = {"setting": setting, "command": command_line(), "encode": encoded, "runs": found}
    publish(DOCS / "results.json", (json.dumps(result, indent=1) + "\n").encode())
    draw(found)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
