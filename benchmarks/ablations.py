"""Does the encoder matter, and what does rounding cost? One recipe, several caches of the same images, several seeds.

    python benchmarks/ablations.py --data-dir imagenette --encoder start=start.pth.tar --work /tmp/ablations

Arms: a random frozen encoder, every `--encoder NAME=FILE`, and the bundled one stored as float16, rounded to steps
of 0.5, 1 and 2, and run in bfloat16. Every arm is encoded and trained by the `ci2p` commands, so a killed run goes on
where it was. Prints the table of docs/ablations.md and writes docs/ablations.json.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from commands import ci2p, cores
from sweep import Arm, folder_of, parser_of, subset_of, sweep

from ci2p_cache.publish import publish
from pipeline.encode.whole_codec import new_codec

REFERENCE = "bundled, step 1"


@dataclass(frozen=True)
class Encoding:
    """A row of the table: how its cache is made."""

    name: str
    weights: str
    options: tuple[str, ...]  # of ci2p encode

    @property
    def folder(self) -> str:
        return folder_of(self.name)


def encodings(work: Path, encoders: list[str]) -> list[Encoding]:
    random = random_weights(work / "random.pth.tar")
    others = [Encoding(f"{name}, step 1", file, ("--step", "1")) for name, file in (e.split("=", 1) for e in encoders)]
    steps = [Encoding(f"bundled, step {step}", "bundled", ("--step", step)) for step in ("0.5", "1", "2")]
    return [
        Encoding("random, float16", str(random), ("--store", "float16")),
        *others,
        Encoding("bundled, float16", "bundled", ("--store", "float16")),
        *steps,
        Encoding("bundled in bfloat16, step 1", "bundled", ("--step", "1", "--precision", "bfloat16")),
    ]


def random_weights(path: Path) -> Path:
    """A codec that nobody trained, the same one every time."""
    torch.manual_seed(0)
    content = io.BytesIO()
    torch.save({"state_dict": new_codec().state_dict()}, content)
    publish(path, content.getvalue())
    return path


def encode(how: Encoding, images: Path, work: Path, image_size: int) -> float:
    measured = ci2p(
        *("encode", "--dataset", "folder", "--data-dir", images, "--out", work / "caches" / how.folder),
        *("--weights", how.weights, *how.options, "--image-size", image_size),
        report=work / f"{how.folder}.encode.json",
        threads=cores(),
    )
    return float(measured["train"]["bytes_per_view"])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--encoder", action="append", default=[], metavar="NAME=FILE")
    arguments = parser.parse_args()
    images = subset_of(arguments)
    chosen = encodings(arguments.work, arguments.encoder)
    sizes = {each.name: encode(each, images, arguments.work, arguments.image_size) for each in chosen}
    sweep(
        [Arm(each.name, each.folder) for each in chosen],
        sizes,
        images,
        arguments,
        what="encoder and store | bytes a view",
        sizes_name="bytes_per_view",
        reference=REFERENCE,
        report="ablations.json",
    )


if __name__ == "__main__":
    main()
