"""`ci2p export`: find the run, build the graph, write it, hold it against the run."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ci2p_cache.errors import InputError
from ci2p_cache.publish import publish
from pipeline.baselines.pixel_spec import is_pixels
from pipeline.encode.encoder import Encoder
from pipeline.evaluate.images import LatentRendering, open_rendering
from pipeline.evaluate.onnx_model import OnnxModel
from pipeline.export.agreement import Agreement, choose_pictures, compare
from pipeline.export.graph import classifier, example_input
from pipeline.export.onnx_file import onnx_bytes
from pipeline.export.packages import TO_WRITE, require_packages
from pipeline.export.record import ExportRecord, Reads, export_record
from pipeline.export.torch_program import load_program, program_bytes
from pipeline.train.run_folder import newest_run, writing_to
from pipeline.train.trained_model import load_model

Target = Literal["onnx", "torch"]
Written = Callable[[nn.Module, Tensor, ExportRecord], bytes]

_SUFFIXES: dict[Target, str] = {"onnx": ".onnx", "torch": ".pt2"}


@dataclass(frozen=True)
class ExportedFile:
    """One file, and how near it is to the run."""

    path: Path
    reads: Reads
    num_bytes: int
    seconds: float
    agreement: Agreement

    def lines(self) -> list[str]:
        """For people."""
        what = {"uint8": "RGB 0 to 255", "float": "RGB in [0, 1]", "latents": "latents"}[self.reads]
        return [
            f"{self.path}: {what} in, probabilities out, {self.num_bytes / 2**20:.1f} MiB, {self.seconds:.1f} s",
            f"  {self.agreement.line()}",
        ]

    def measured(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self) | {"path": str(self.path)}


def export(
    run: str | None,
    to: Target,
    *,
    out: Path | None = None,
    takes: Literal["uint8", "float"] = "uint8",
    images: str | None = None,
    weights: str = "bundled",
) -> list[ExportedFile]:
    """Writes a run (the newest under runs/ by default) as a file of images, and one of latents beside it.

    `out` is the first's name, by default model.onnx or model.pt2 in the run; the other's has -latents behind it. A
    pixel baseline has no second. Raises InputError where a package is missing or the run cannot be read, and WorkError
    when a file's probabilities are not the run's (promise T6): that file is then not written.
    """
    if to == "onnx":
        require_packages(TO_WRITE, "--to onnx")
    path = newest_run() if run is None else Path(run)
    model, config = load_model(path)
    folder = path if path.is_dir() else path.parent
    first = out or folder / f"model{_SUFFIXES[to]}"
    if first.suffix != _SUFFIXES[to]:
        raise InputError(f"--out {first}: give a name that ends in {_SUFFIXES[to]}")
    rendering = open_rendering(config.data.spec, weights, "cpu")
    encoder: Encoder | None = rendering.encoder if isinstance(rendering, LatentRendering) else None
    pictures = choose_pictures(path, config, rendering, images, weights)
    state = model.state_dict()
    files = []
    wanted: list[tuple[Reads, Path]] = [(takes, first)]
    if not is_pixels(config.data.spec):
        wanted.append(("latents", first.with_name(f"{first.stem}-latents{first.suffix}")))
    for reads, file in wanted:
        begin = time.monotonic()
        record = export_record(config, state, reads)
        module = classifier(model, config.data, encoder, reads)
        example = example_input(config.data, reads)
        content = onnx_bytes(module, example, record) if to == "onnx" else program_bytes(module, example, record)
        exported = OnnxModel(content, str(file)).probabilities if to == "onnx" else load_program(content)
        seconds = time.monotonic() - begin
        agreement = compare(
            model, rendering, pictures, exported, from_latents=reads == "latents", as_floats=reads == "float"
        )
        with writing_to(file.parent):
            publish(file, content)
        files.append(ExportedFile(file, reads, len(content), seconds, agreement))
    return files
