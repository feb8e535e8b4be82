"""An exported ONNX file in place of a run: what is deployed is what is measured."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ci2p_cache.errors import InputError
from ci2p_cache.spec import spec_of_record
from ci2p_cache.views import PLAIN
from pipeline.baselines.pixel_spec import is_pixels, pixel_spec_of_record
from pipeline.baselines.pixels import VIEWS
from pipeline.encode.preprocess import Preprocessing, preprocessing_of
from pipeline.export.packages import TO_READ, require_packages
from pipeline.export.record import ExportRecord
from pipeline.train.run_folder import DataRecord

SUFFIX = ".onnx"


class OnnxModel(nn.Module):
    """Runs an exported file on the CPU, in the place of a model."""

    def __init__(self, content: bytes, path: str) -> None:
        """Raises InputError, naming `path`, for content that is damaged or not exported by ci2p."""
        super().__init__()
        require_packages(TO_READ, f"{path}")
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        refused = (
            errors.InvalidProtobuf, errors.InvalidGraph, errors.Fail, errors.NotImplemented, errors.RuntimeException,
            errors.InvalidArgument,
        )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except refused as error:
            raise InputError(f"{path} cannot be read as ONNX ({' '.join(str(error).split())[:120]})") from error
        try:
            self.record = ExportRecord.from_metadata(self._session.get_modelmeta().custom_metadata_map)
        except ValueError as error:
            raise InputError(
                f"{path} lacks the metadata that `ci2p export` writes (classes, preprocessing); export it again"
            ) from error
        self._name = self._session.get_inputs()[0].name

    def probabilities(self, inputs: Tensor) -> Tensor:
        """What the file reads, [B, ...] -> float32 [B, K]."""
        (output,) = self._session.run(None, {self._name: inputs.cpu().contiguous().numpy()})
        return torch.from_numpy(output)

    def forward(self, inputs: Tensor) -> Tensor:
        """The same as logits, whose softmax gives the probabilities back."""
        return self.probabilities(inputs).log()


def open_onnx(path: Path) -> OnnxModel:
    """The model of a file. Raises InputError for one that is missing, damaged, or not exported by ci2p."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; make it with `ci2p export RUN --to onnx`")
    return OnnxModel(path.read_bytes(), str(path))


@dataclass(frozen=True)
class ImageRendering:
    """Pixels as a file that reads images takes them."""

    data: DataRecord
    reads_floats: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def preprocessing(self) -> Preprocessing:
        if is_pixels(self.data.spec):
            return pixel_spec_of_record(self.data.spec).preprocessing
        return preprocessing_of(spec_of_record(self.data.spec))

    @property
    def views(self) -> tuple[str, ...]:
        return VIEWS

    def inputs(self, pixels: Tensor, views: tuple[str, ...]) -> Tensor:
        """uint8 RGB [B, 3, S, S] -> uint8, or float32 in [0, 1], [B, V, 3, S, S]."""
        taken = pixels.float() / 255 if self.reads_floats else pixels
        return torch.stack([taken if view == PLAIN else taken.flip(-1) for view in views], dim=1)
