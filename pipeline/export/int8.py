"""`--int8`: the ViT's matrices as bytes, by onnxruntime's static quantisation, and what that costs.

Static: the range of what flows into each matrix is measured once, on latents of the training split. The encoder stays
in float32, before the very same matrices: what it gives is rounded to the cache's step, which 256 values do not hold.
So do the convolutions of PatchReshape: in int8 onnxruntime computes depthwise ones more slowly than in float32.
"""

# B batch, C latent channels, H=W latent grid

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.errors import InputError
from ci2p_cache.loader import PLAIN_VIEW
from ci2p_cache.reader import ViewReader
from ci2p_cache.spec import ON_THE_FLY
from pipeline.evaluate.onnx_model import OnnxModel
from pipeline.evaluate.predictions import refuse_other_latents
from pipeline.export.agreement import spread
from pipeline.export.onnx_file import LATENTS
from pipeline.export.record import Int8Cost
from pipeline.train.data_place import find_data
from pipeline.train.run_folder import RunConfig

_CALIBRATED_ON = 256  # latents of the training split, at most
_MEASURED_ON = 10_000  # samples of the validation split, at most
_BATCH = 32


def open_splits(run: Path, config: RunConfig, shards: str | None) -> tuple[Cache, Cache]:
    """train and val of what a run was trained on. Raises InputError where they are not, or hold other latents."""
    if shards is None and ON_THE_FLY in config.data.spec:
        raise InputError(
            f"--int8 is calibrated on a cache of latents, and {run} was trained without one; give --shards CACHE, of "
            "its images"
        )
    path = shards or find_data(config.data, run)
    train, val = open_cache(path, "train"), open_cache(path, "val")
    for cache in (train, val):
        refuse_other_latents(config.data, cache)
    return train, val


def quantise(content: bytes, train: Cache) -> tuple[Any, int]:
    """A file that reads latents -> its graph with matrices in int8, and how many latents it was calibrated on.

    A matrix has a step for each of its columns; what is multiplied with it 256 steps over the range that was seen.
    Products of two activations (attention), norms and softmax stay in float32.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    matrices = ["MatMul", "Gemm"]
    rows = np.array(spread(train.num_samples, _CALIBRATED_ON))
    with tempfile.TemporaryDirectory() as folder, _without_advice():
        out = Path(folder) / "int8.onnx"
        quantize_static(
            onnx.load_from_string(content),
            out,
            _Calibration(_latents(train, rows)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=matrices,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": matrices},
        )
        return onnx.load(out), len(rows)


def behind_encoder(encoder: Any, classifier: Any) -> Any:
    """Images -> latents and latents -> probabilities, as one graph."""
    import onnx

    named = onnx.compose.add_prefix(encoder, "encoder/", rename_inputs=False, rename_outputs=False)
    named.ir_version = classifier.ir_version
    return onnx.compose.merge_models(named, classifier, [(LATENTS, LATENTS)])


def measure(float32: OnnxModel, int8: OnnxModel, val: Cache, num_calibrated: int) -> Int8Cost:
    """Both files' predictions for the same samples of the validation split, all of it or some evenly spread."""
    rows = np.array(spread(val.num_samples, _MEASURED_ON))
    right, num_other = np.zeros(2), 0
    for begin, latents_BCHW in enumerate(_latents(val, rows)):
        labels_B = val.labels[rows[begin * _BATCH : begin * _BATCH + len(latents_BCHW)]]
        said = [model.probabilities(torch.from_numpy(latents_BCHW)).argmax(1).numpy() for model in (float32, int8)]
        right += [int((classes == labels_B).sum()) for classes in said]
        num_other += int((said[0] != said[1]).sum())
    top1_float32, top1_int8 = (right / len(rows)).tolist()
    return Int8Cost(
        top1_float32=top1_float32,
        top1_int8=top1_int8,
        num_images=len(rows),
        num_other_class=num_other,
        measured_on=f"{PurePosixPath(val.path).name}/{val.split}",
        num_calibrated=num_calibrated,
    )


class _Calibration:
    """What onnxruntime asks for one batch after another."""

    def __init__(self, batches: Iterator[NDArray[np.float32]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch_BCHW = next(self._batches, None)
        return None if batch_BCHW is None else {LATENTS: batch_BCHW}


def _latents(cache: Cache, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """The plain views of some samples, float32 [B,C,H,W]."""
    reader = ViewReader(cache.split_dir, cache.manifest)
    for begin in range(0, len(rows), _BATCH):
        positions = cache.positions[rows[begin : begin + _BATCH]]
        yield reader.read_latents(positions, np.full(len(positions), PLAIN_VIEW, dtype=np.int64))


@contextmanager
def _without_advice() -> Iterator[None]:
    """onnxruntime advises through the root logger to optimise the graph first, which the exporter has done."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
