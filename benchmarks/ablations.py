"""Does the encoder matter, and what does rounding cost? One recipe, several caches of the same images, several seeds.

    python benchmarks/ablations.py --data-dir imagenette --encoder start=start.pth.tar --work /tmp/ablations

Arms: a random frozen encoder, every `--encoder NAME=FILE`, and the bundled one, each stored as float16 and rounded to
steps of 0.5, 1 and 2; and the bundled one run in bfloat16. Of every arm, before anything is trained: how near its
decoder comes to the pixels (PSNR, where it has a decoder that was trained), and what a linear probe reads from the
latents (`probe.py`); then the top-1 of a model. `--seeds 0` ends behind the first two, `--arms` chooses rows.

Every arm is encoded and trained by the `ci2p` commands, so a killed run goes on where it was. docs/ablations.json is
written after every training and says whether it is complete; the table of docs/ablations.md is printed in the end.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from commands import ci2p, cores
from probe import probe
from sweep import Arm, folder_of, parser_of, subset_of, sweep

from ci2p_cache.publish import publish
from pipeline.encode.whole_codec import new_codec

REFERENCE = "bundled, step 1"


STEPS = ("0.5", "1", "2")


@dataclass(frozen=True)
class Encoding:
    """A row of the table: how its cache is made."""

    name: str
    weights: str
    options: tuple[str, ...]  # of ci2p encode
    has_decoder: bool = True

    @property
    def folder(self) -> str:
        return folder_of(self.name)


def encodings(work: Path, encoders: list[str]) -> list[Encoding]:
    weights = {"random": str(random_weights(work / "random.pth.tar"))}
    weights |= dict(each.split("=", 1) for each in encoders) | {"bundled": "bundled"}
    found = []
    for name, file in weights.items():
        has_decoder = name != "random"  # nobody trained that one either
        found.append(Encoding(f"{name}, float16", file, ("--store", "float16"), has_decoder))
        found += [Encoding(f"{name}, step {step}", file, ("--step", step), has_decoder) for step in STEPS]
    bfloat16 = Encoding("bundled in bfloat16, step 1", "bundled", ("--step", "1", "--precision", "bfloat16"))
    return [*found, bfloat16]


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


def near(how: Encoding, images: Path, work: Path, count: int) -> float | None:
    """PSNR in dB of the plain views of some validation images, decoded from what the cache holds."""
    if not how.has_decoder:
        return None
    measured = ci2p(
        *("inspect", work / "caches" / how.folder, "--images", work / f"{how.folder}.png", "--count", count),
        *("--data-dir", images, "--weights", how.weights),
        report=work / f"{how.folder}.psnr.json",
        threads=cores(),
    )
    return float(measured["val"]["psnr"]["plain"])


def probed(how: Encoding, work: Path) -> float:
    """The probe's top-1 in percent; that of an earlier call is taken as it is."""
    report = work / f"{how.folder}.probe.json"
    if not report.exists():
        publish(report, json.dumps(probe(work / "caches" / how.folder)).encode())
    return float(json.loads(report.read_text()))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--encoder", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="names of the rows; all if not given")
    parser.add_argument("--psnr-images", type=int, default=64, help="validation images that are decoded")
    arguments = parser.parse_args()
    images = subset_of(arguments)
    known = encodings(arguments.work, arguments.encoder)
    unknown = sorted(set(arguments.arms or ()) - {each.name for each in known})
    if unknown:
        parser.error(f"--arms {unknown[0]!r}: there are {', '.join(repr(each.name) for each in known)}")
    chosen = [each for each in known if each.name in (arguments.arms or each.name)]
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
        figures={
            "PSNR, dB": {each.name: near(each, images, arguments.work, arguments.psnr_images) for each in chosen},
            "linear probe, %": {each.name: probed(each, arguments.work) for each in chosen},
        },
    )


if __name__ == "__main__":
    main()
