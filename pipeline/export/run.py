"""`ci2p export`: find the run, build the graph, write it, hold it against the run."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ci2p_cache.errors import InputError
from ci2p_cache.publish import publish
from pipeline.baselines.pixel_spec import is_pixels
from pipeline.encode.encoder import Encoder
from pipeline.evaluate.images import LatentRendering, open_rendering
from pipeline.evaluate.onnx_model import OnnxModel
from pipeline.export.agreement import LARGEST, Agreement, choose_pictures, compare
from pipeline.export.graph import classifier, example_input, images_to_inputs
from pipeline.export.int8 import behind_encoder, measure, open_splits, quantise
from pipeline.export.onnx_file import IMAGES, LATENTS, onnx_bytes, onnx_graph, with_record
from pipeline.export.packages import TO_WRITE, require_packages
from pipeline.export.record import Int8Cost, Reads, export_record
from pipeline.export.torch_program import load_program, program_bytes
from pipeline.train.run_folder import newest_run, writing_to
from pipeline.train.trained_model import load_model

Target = Literal["onnx", "torch"]

_SUFFIXES: dict[Target, str] = {"onnx": ".onnx", "torch": ".pt2"}


@dataclass(frozen=True)
class ExportedFile:
    """One file, and how near it is to the run."""

    path: Path
    reads: Reads
    num_bytes: int
    seconds: float
    agreement: Agreement
    int8: Int8Cost | None = None

    def lines(self) -> list[str]:
        """For people."""
        what = {"uint8": "RGB 0 to 255", "float": "RGB in [0, 1]", "latents": "latents"}[self.reads]
        return [
            f"{self.path}: {what} in, probabilities out, {self.num_bytes / 2**20:.1f} MiB, {self.seconds:.1f} s",
            f"  {self.agreement.line()}",
            *([] if self.int8 is None else [f"  {self.int8.line()}"]),
        ]

    def measured(self) -> dict[str, Any]:
        """For --json."""
        int8 = None if self.int8 is None else self.int8.model_dump()
        return asdict(self) | {"path": str(self.path), "int8": int8}


def export(
    run: str | None,
    to: Target,
    *,
    out: Path | None = None,
    takes: Literal["uint8", "float"] = "uint8",
    images: str | None = None,
    weights: str = "bundled",
    int8: bool = False,
    shards: str | None = None,
) -> list[ExportedFile]:
    """Writes a run (the newest under runs/ by default) as a file of images, and one of latents beside it.

    `out` is the first's name, by default model.onnx or model.pt2 in the run; the other's has -latents behind it. A
    pixel baseline has no second. `int8` adds both once more, with -int8 behind, calibrated and measured on the cache,
    which `shards` names where it is not where the run left it. Raises InputError where a package is missing or the run
    or its cache cannot be read, and WorkError when a file's probabilities are not the run's (promise T6): that file is
    then not written.
    """
    if to == "onnx":
        require_packages(TO_WRITE, "--to onnx")
    path = newest_run() if run is None else Path(run)
    model, config = load_model(path)
    folder = path if path.is_dir() else path.parent
    first = out or folder / f"model{_SUFFIXES[to]}"
    if first.suffix != _SUFFIXES[to]:
        raise InputError(f"--out {first}: give a name that ends in {_SUFFIXES[to]}")
    reads_pixels = is_pixels(config.data.spec)
    if int8 and reads_pixels:
        raise InputError(
            f"--int8 is calibrated on a cache of latents, and the model of {path} reads pixels; leave it out"
        )
    splits = open_splits(path, config, shards) if int8 else None
    rendering = open_rendering(config.data.spec, weights, "cpu")
    encoder: Encoder | None = rendering.encoder if isinstance(rendering, LatentRendering) else None
    pictures = choose_pictures(path, config, rendering, images, weights)
    state = model.state_dict()

    def checked(content: bytes, reads: Reads, file: Path, begin: float, refuse_above: float = LARGEST) -> ExportedFile:
        exported = OnnxModel(content, str(file)).probabilities if to == "onnx" else load_program(content)
        seconds = time.monotonic() - begin
        as_read = {"from_latents": reads == "latents", "as_floats": reads == "float"}
        agreement = compare(model, rendering, pictures, exported, **as_read, refuse_above=refuse_above)
        with writing_to(file.parent):
            publish(file, content)
        return ExportedFile(file, reads, len(content), seconds, agreement)

    files = []
    wanted: list[tuple[Reads, Path]] = [(takes, first)]
    if not reads_pixels:
        wanted.append(("latents", first.with_name(f"{first.stem}-latents{first.suffix}")))
    for reads, file in wanted:
        begin = time.monotonic()
        record = export_record(config, state, reads)
        module = classifier(model, config.data, encoder, reads)
        example = example_input(config.data, reads)
        content = onnx_bytes(module, example, record) if to == "onnx" else program_bytes(module, example, record)
        files.append(checked(content, reads, file, begin))
    if splits is None:
        return files

    # In int8, from the last of them, which reads latents.
    begin = time.monotonic()
    train, val = splits
    graph, num_calibrated = quantise(content, train)
    quantised = OnnxModel(with_record(graph, record), "the file in int8")
    cost = measure(OnnxModel(content, str(file)), quantised, val, num_calibrated)
    for reads, float32 in wanted:
        whole = graph
        if reads != "latents":
            front = images_to_inputs(config.data, encoder, reads)
            whole = behind_encoder(onnx_graph(front, example_input(config.data, reads), IMAGES, LATENTS), graph)
        record = export_record(config, state, reads).model_copy(update={"int8": cost})
        file = float32.with_name(f"{float32.stem}-int8{float32.suffix}")
        made = checked(with_record(whole, record), reads, file, begin, refuse_above=1.0)
        files.append(replace(made, int8=cost))
        begin = time.monotonic()
    return files
