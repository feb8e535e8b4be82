"""What an exported file says of itself, so that whoever has the file alone knows what to feed it and what comes out."""

import hashlib
import json
from pathlib import PurePosixPath
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from ci2p_cache.printable import counted
from pipeline.baselines.on_the_fly_record import without_data_dir
from pipeline.train.run_folder import DataRecord, RunConfig

Reads = Literal["uint8", "float", "latents"]
"""What a file takes: RGB 0 to 255, RGB in [0, 1], or latents."""

_JSON_FIELDS = ("classes", "preprocessing", "data", "int8")


class Int8Cost(BaseModel):
    """What a file's matrices in int8 cost, on the validation split of the cache."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    top1_float32: float
    """In [0, 1]: of the same weights in float32."""
    top1_int8: float
    num_images: int
    num_other_class: int
    """Images of which the two say different classes."""
    measured_on: str
    num_calibrated: int
    """Latents of the training split."""

    def line(self) -> str:
        """For people."""
        points = 100 * (self.top1_int8 - self.top1_float32)
        return (
            f"int8: top-1 {100 * self.top1_int8:.2f} % beside {100 * self.top1_float32:.2f} % in float32 "
            f"({points:+.2f} points), {self.num_other_class} of {counted(self.num_images, 'prediction')} differ "
            f"({self.measured_on}); calibrated on {counted(self.num_calibrated, 'latent')} of train"
        )


class ExportRecord(BaseModel):
    """The metadata of an exported file. Every value is plain text or JSON, for readers without ci2p."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ci2p_version: str
    model: str
    reads: Reads
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    """Decode, turn upright, RGB, short edge to `short_edge` (bicubic), centre crop of `image_size`; or `squash`."""
    weights_sha256: str
    """Over names, shapes and values of the model's weights."""
    data: DataRecord
    """As the run's config.json has it; of the cache's place only the name is kept."""
    int8: Int8Cost | None = None
    """None of a file in float32."""

    def as_metadata(self) -> dict[str, str]:
        """As ONNX has it: text by name."""
        fields = self.model_dump(mode="json", exclude={"int8"} if self.int8 is None else None)
        return {name: json.dumps(value) if name in _JSON_FIELDS else str(value) for name, value in fields.items()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> "ExportRecord":
        """The inverse of `as_metadata`. Raises ValueError for metadata of another kind."""
        return cls.model_validate(
            {name: json.loads(value) if name in _JSON_FIELDS else value for name, value in metadata.items()}
        )


def export_record(config: RunConfig, weights: dict[str, torch.Tensor], reads: Reads) -> ExportRecord:
    """What a file made of a run says of itself."""
    data = without_places(config.data)
    spec = data.spec
    fields = ("image_size", "short_edge", "resize_mode", "interpolation", "jpeg_decode")
    return ExportRecord(
        ci2p_version=config.versions["ci2p"],
        model=config.recipe.model,
        reads=reads,
        classes=data.classes,
        preprocessing={name: spec[name] for name in fields if name in spec},
        weights_sha256=hash_state(weights),
        data=data,
    )


def without_places(data: DataRecord) -> DataRecord:
    """What a run was trained on, without what it says of the machine that trained: of a path only the name is kept."""
    spec = without_data_dir(data.spec)
    return data.model_copy(
        update={"spec": spec, "path": PurePosixPath(data.path).name, "absolute_path": "", "path_from_run": ""}
    )


def hash_state(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and values of weights, the same whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
