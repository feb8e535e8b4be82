"""Which augmentation of latents helps? One recipe with each alone and with all, several seeds.

    python benchmarks/augmentation.py --data-dir imagenette --work /tmp/augmentation

Three caches of the same images serve all arms: a plain one, one of larger images for random windows, and one with
crops. Every arm is trained by `ci2p train`, so a killed run goes on where it was. Prints the table of
docs/augmentation.md and writes docs/augmentation.json.
"""

from pathlib import Path

from commands import ci2p, cores
from sweep import Arm, parser_of, subset_of, sweep

REFERENCE = "none"
_WINDOW = 0.8  # side of the window, of the larger images' side
_CROPS = 2


def arms(image_size: int) -> list[Arm]:
    mixup, cutmix, erase = ("--set", "mixup=0.8"), ("--set", "cutmix=1.0"), ("--set", "erase=0.25")
    window = ("--set", f"window={image_size // 16}")
    return [
        Arm(REFERENCE, "plain"),
        Arm("mixup 0.8", "plain", mixup),
        Arm("cutmix 1.0", "plain", cutmix),
        Arm("erase 0.25", "plain", erase),
        Arm("token_drop 0.25", "plain", ("--set", "token_drop=0.25")),
        Arm("ema_decay 0.999", "plain", ("--set", "ema_decay=0.999")),
        Arm("window", "larger", window),
        Arm(f"{_CROPS} crops", "crops"),
        Arm("window, mixup, cutmix, erase", "larger", (*mixup, *cutmix, *erase, *window)),
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


def main() -> None:
    arguments = parser_of(__doc__).parse_args()
    images = subset_of(arguments)
    chosen = arms(arguments.image_size)
    sizes = encode(images, arguments.work, arguments.image_size)
    sweep(
        chosen,
        {arm.name: sizes[arm.cache] for arm in chosen},
        images,
        arguments,
        what="augmentation | bytes an image",
        sizes_name="bytes_per_image",
        reference=REFERENCE,
        report="augmentation.json",
    )


if __name__ == "__main__":
    main()
