"""Which augmentation of latents helps? One recipe with each alone and with all, several seeds.

    python benchmarks/augmentation.py --data-dir imagenette --work /tmp/augmentation

Three caches of the same images serve all arms: a plain one, one of larger images for random windows, and one with
crops. Every arm is trained by `ci2p train`, so a killed run goes on where it was. Prints the table of
docs/augmentation.md and writes docs/augmentation.json.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ablations import subset, table
from commands import DOCS, ci2p, command_line, cores, machine

from ci2p_cache.publish import publish

REFERENCE = "none"
_WINDOW = 0.8  # side of the window, of the larger images' side
_CROPS = 2


@dataclass(frozen=True)
class Arm:
    name: str
    cache: str
    settings: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return self.name.replace(", ", "-").replace(" ", "")


def arms(image_size: int) -> list[Arm]:
    mix = ("mixup=0.8", "cutmix=1.0")
    return [
        Arm(REFERENCE, "plain"),
        Arm("mixup 0.8", "plain", mix[:1]),
        Arm("cutmix 1.0", "plain", mix[1:]),
        Arm("erase 0.25", "plain", ("erase=0.25",)),
        Arm("token_drop 0.25", "plain", ("token_drop=0.25",)),
        Arm("ema_decay 0.999", "plain", ("ema_decay=0.999",)),
        Arm("window", "larger", (f"window={image_size // 16}",)),
        Arm(f"{_CROPS} crops", "crops"),
        Arm("window, mixup, cutmix, erase", "larger", (*mix, "erase=0.25", f"window={image_size // 16}")),
    ]


def encode(images: Path, work: Path, image_size: int) -> dict[str, float]:
    """Cache -> bytes an image of the training split, all its views together."""
    options = {
        "plain": ("--image-size", image_size),
        "larger": ("--image-size", round(image_size / _WINDOW)),
        "crops": ("--image-size", image_size, "--crops", _CROPS),
    }
    sizes = {}
    for name, chosen in options.items():
        measured = ci2p(
            *("encode", "--dataset", "folder", "--data-dir", images, "--out", work / "caches" / name, *chosen),
            report=work / f"{name}.encode.json",
            threads=cores(),
        )["train"]
        sizes[name] = measured["bytes_total"] / measured["num_images"]
    return sizes


def train(arm: Arm, seed: int, work: Path, epochs: int, threads: int) -> float:
    measured = ci2p(
        *("train", "--shards", work / "caches" / arm.cache, "--out", work / "runs" / f"{arm.folder}-{seed}"),
        *("--recipe", "quick", "--model", "ci2p_vit_tiny", "--epochs", epochs, "--seed", seed),
        *("--precision", "bfloat16", "--workers", "1"),
        *(part for setting in arm.settings for part in ("--set", setting)),
        report=work / f"{arm.folder}.{seed}.train.json",
        threads=threads,
    )
    return 100 * float(measured["final_top1"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="DIR/train/CLASS/x.jpg and DIR/val/CLASS/x.jpg")
    parser.add_argument("--work", type=Path, required=True, help="where caches and runs go")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--train-per-class", type=int, default=10**9)
    parser.add_argument("--val-per-class", type=int, default=10**9)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    arguments = parser.parse_args()
    counts = {"train": arguments.train_per_class, "val": arguments.val_per_class}
    images = subset(arguments.data_dir, arguments.work, counts)
    sizes = encode(images, arguments.work, arguments.image_size)
    chosen = arms(arguments.image_size)
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
    bytes_an_image = {arm.name: sizes[arm.cache] for arm in chosen}
    result = {"setting": setting, "command": command_line(), "bytes_per_image": bytes_an_image, "top1": top1}
    publish(DOCS / "augmentation.json", (json.dumps(result, indent=1) + "\n").encode())
    print(f"{setting}\n\n{table(bytes_an_image, top1, what='augmentation | bytes an image', reference=REFERENCE)}")


if __name__ == "__main__":
    main()
