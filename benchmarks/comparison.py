"""The paper's comparison: CI2P-ViT from a cache beside ViTs and plain CNNs from pixels, on one machine.

    python benchmarks/comparison.py --data-dir imagenette --work /tmp/comparison --minutes 30 --unseen

Same images, order, split, recipe and seeds, in the ways of --ways. `time`: every model trains for as many epochs as fit
into --minutes, with a schedule of that length, found by a short run of each. `cold`: the pixel models, which need no
cache, have the time of its encoding besides. `epochs`: as many for all as --epochs says, or as fit for the slowest; a
model that would take more than twice --minutes for those is left out of them, and the report says so. Under every
recipe of --recipes: the paper's, which only flips, and `best`, for which the cache holds eight crops of an image with
RandAugment and the pixel models, which may, draw a fresh one every epoch. `best-plain` is `best` with a cache of the
plain image and its mirror image alone, which is soon made and enough for a short training.
With --unseen all of it a second time, on images that the bundled encoder was not trained on: those of DIR/val, three
quarters of each class to train and the rest to validate.

All is done by `ci2p` commands, so a killed run goes on where it was, by the same command. Seed 0 of everything comes
first. docs/results.md, .json and .png (or `--name`) are written after every training, and say how many of their seeds
they lack.
"""

import argparse
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from commands import DOCS, ci2p, command_line, cores, machine, set_options
from comparison_report import WAYS, Block, Trained, reads_cache, write_report
from sweep import subset_of

from ci2p_cache.printable import counted

WIDTHS = {
    "tiny": {
        "CI2P-ViT": "ci2p_vit_tiny",
        "ViT/16": "vit_tiny",
        "ViT/32": "vit_tiny_p32",
        "CNN-ViT": "cnn_vit_tiny",
        "ViT-S/16": "vit_small",
        "ResNet-18": "resnet18",
    },
    "base": {
        "CI2P-ViT": "ci2p_vit_base",
        "CI2P-ViT DS": "ci2p_vit_ds",
        "ViT/16": "vit_base",
        "ViT/32": "vit_base_p32",
        "CNN-ViT": "cnn_vit",
        "ViT-S/16": "vit_small",
        "ResNet-18": "resnet18",
        "ResNet-50-D": "resnet50d",
    },
}
# What a recipe takes beside the plain image and its mirror image: of `encode`, and of `baseline`.
_BEST = ("--crop-scale", "0.25", "1", "--augment", "randaugment")
_AUTHORS = ("--crop-scale", "0.08", "1", "--augment", "authors")
CROPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "best": (("--crops", "8", *_BEST), ("--crops", "fresh", *_BEST)),
    "best-plain": ((), ("--crops", "fresh", *_BEST)),
    "authors-animals10": (("--crops", "8", *_AUTHORS), ("--crops", "fresh", *_AUTHORS)),
}
RECIPES = {"best-plain": "best"}
"""What is trained by where the name in --recipes is not a recipe's own."""
_VALIDATION_COST = 1 / 3  # of a validation image, in training images: no backward pass


@dataclass(frozen=True)
class Setting:
    """One data set under one recipe: what is the same for all models."""

    data: str
    images: Path
    recipe: str
    work: Path
    arguments: argparse.Namespace

    @property
    def threads(self) -> int:
        return max(1, cores() // int(self.arguments.jobs))

    @property
    def _views(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return CROPS.get(self.recipe, ((), ()))

    @property
    def cache(self) -> str:
        """Its name: recipes of the same views share it."""
        return "-".join([self.data, *(word.strip("-") for word in self._views[0])])

    def encode(self) -> dict[str, Any]:
        return ci2p(
            *("encode", "--dataset", "folder", "--data-dir", self.images, "--out", self.work / "caches" / self.cache),
            *("--image-size", self.arguments.image_size, *self._views[0]),
            report=self.work / f"{self.cache}.encode.json",
            threads=cores(),
        )

    def train(self, name: str, model: str, *options: object) -> dict[str, Any]:
        """Report of a run, with its epochs' metrics."""
        own: tuple[object, ...] = ("baseline", "--data-dir", self.images, "--image-size", self.arguments.image_size)
        own += self._views[1]
        if reads_cache(model):
            own = ("train", "--shards", self.work / "caches" / self.cache)
        name = f"{self.data}-{self.recipe}-{name}"
        run = self.work / "runs" / name
        measured = ci2p(
            *(*own, "--model", model, "--recipe", RECIPES.get(self.recipe, self.recipe)),
            *("--precision", self.arguments.precision, *set_options(self.arguments.set)),
            *("--workers", self.threads, "--no-pictures", "--out", run, *options),
            report=self.work / f"{name}.json",
            threads=self.threads,
        )
        lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
        return measured | {"metrics": [json.loads(line) for line in lines]}

    def pace(self, model: str, sizes: dict[str, int]) -> float:
        """Seconds an epoch takes, validation included."""
        length = ("--epochs", 10_000, "--max-minutes", self.arguments.pace_minutes)
        measured = self.train(f"pace-{model}", model, *length)
        return (sizes["train"] + _VALIDATION_COST * sizes["val"]) / float(measured["images_per_s"])


def plan(setting: Setting, models: dict[str, str], encoded: dict[str, Any], paces: dict[str, float]) -> Block:
    """How many epochs every model trains for, in each of the ways."""
    budget = 60 * float(setting.arguments.minutes)
    block = Block(setting.data, setting.recipe, encoded, models, {})
    fitting = {name: math.ceil(budget / seconds) for name, seconds in paces.items()}
    same = setting.arguments.epochs or min(fitting.values())
    ways = {
        "time": fitting,
        "cold": {
            name: math.ceil((budget + (not reads_cache(model)) * block.encoding) / paces[name])
            for name, model in models.items()
        },
        "epochs": {name: same for name in models if same * paces[name] <= 2 * budget},
    }
    chosen = {way: epochs for way, epochs in ways.items() if way in setting.arguments.ways}
    return replace(block, epochs=chosen)


def unseen(data_dir: Path, work: Path, per_class: int) -> Path:
    """Links to the first images of every class of DIR/val: three of four to train, every fourth to validate."""
    root = work / "images-unseen"
    for folder in sorted((data_dir / "val").iterdir()):
        for number, image in enumerate(sorted(folder.iterdir())[:per_class]):
            link = root / ("val" if number % 4 == 3 else "train") / folder.name / image.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(image.resolve())
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="DIR/train/CLASS/x.jpg and DIR/val/CLASS/x.jpg")
    parser.add_argument("--work", type=Path, required=True, help="where caches and runs go")
    parser.add_argument("--unseen", action="store_true", help="also on images of DIR/val alone, a part held out")
    parser.add_argument("--width", choices=WIDTHS, default="tiny")
    parser.add_argument("--models", nargs="+", help="names of the table's rows; all of the width if not given")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--train-per-class", type=int, default=10**9, help="the first so many images by name")
    parser.add_argument("--val-per-class", type=int, default=10**9)
    parser.add_argument("--minutes", type=float, default=30, help="of training each model")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["time", "epochs"])
    parser.add_argument("--epochs", type=int, help="of the equal-epochs way; what fits the slowest if not given")
    parser.add_argument("--recipes", nargs="+", default=["paper-animals10", "best"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over every recipe")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each with its share of the cores")
    parser.add_argument("--pace-minutes", type=float, default=1, help="of the short run that sets the epochs")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the report goes")
    parser.add_argument("--name", default="results", help="of the report's files")
    parser.add_argument("--note", help="what else a reader has to know of this run, for the report")
    arguments = parser.parse_args()
    models = WIDTHS[arguments.width]
    unknown = sorted(set(arguments.models or ()) - set(models))
    if unknown:
        parser.error(f"--models {unknown[0]}: of width {arguments.width} there are {', '.join(models)}")
    models = {name: model for name, model in models.items() if name in (arguments.models or models)}
    images = {"all": subset_of(arguments)}
    if arguments.unseen:
        images["unseen"] = unseen(arguments.data_dir, arguments.work, arguments.val_per_class)
    settings = [
        Setting(data, folder, recipe, arguments.work, arguments)
        for data, folder in images.items()
        for recipe in arguments.recipes
    ]
    encoded = [setting.encode() for setting in settings]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        blocks = []
        for setting, report in zip(settings, encoded, strict=True):
            sizes = {split: int(report[split]["num_images"]) for split in ("train", "val")}
            paces = pool.map(lambda model, s=setting, n=sizes: s.pace(model, n), models.values())  # type: ignore[misc]
            blocks.append(plan(setting, models, report, dict(zip(models, paces, strict=True))))
        _train_all(pool, settings, blocks, arguments)


def _train_all(
    pool: ThreadPoolExecutor, settings: list[Setting], blocks: list[Block], arguments: argparse.Namespace
) -> None:
    """Trains what is planned, seed by seed, and writes the report after each."""
    done: list[Trained] = []
    lock = Lock()

    def train(setting: Setting, name: str, model: str, epochs: int, seed: int) -> None:
        measured = setting.train(f"{model}-{epochs}-{seed}", model, "--epochs", epochs, "--seed", seed)
        with lock:
            done.append(Trained(setting.data, setting.recipe, name, epochs, seed, measured))
            write_report(
                arguments.docs / arguments.name,
                blocks,
                done,
                seeds=arguments.seeds,
                image_size=arguments.image_size,
                minutes=arguments.minutes,
                setting=_describe(arguments, settings[0].threads),
                command=command_line(),
            )

    jobs = [
        pool.submit(train, setting, name, model, epochs, seed)
        for seed in range(arguments.seeds)
        for setting, block in zip(settings, blocks, strict=True)
        for name, model in block.models.items()
        for epochs in block.lengths(name)
    ]
    for job in jobs:
        job.result()


def _describe(arguments: argparse.Namespace, threads: int) -> str:
    is_reduced = arguments.width != "base" or arguments.image_size < 256 or arguments.train_per_class < 10**9
    return " ".join(
        [
            f"`{arguments.data_dir.name}` at {arguments.image_size} px, {arguments.precision}"
            + "".join(f", `{each}`" for each in arguments.set)
            + f"; {arguments.seeds} seeds asked for; the same images in the same order for every model. {machine()};",
            f"{counted(arguments.jobs, 'training')} at a time with {counted(threads, 'thread')} each.",
            *(["**This is a reduced scale.**"] if is_reduced else []),
            *([arguments.note] if arguments.note else []),
        ]
    )


if __name__ == "__main__":
    main()
