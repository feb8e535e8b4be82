"""`--to onnx`: the graph as one ONNX file that says of itself what it takes and gives."""

import contextlib
import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.export.record import ExportRecord
from pipeline.export.torch_program import trace

IMAGES, LATENTS, PROBABILITIES = "images", "latents", "probabilities"


def onnx_bytes(module: nn.Module, example: Tensor, record: ExportRecord) -> bytes:
    """The file, its weights inside."""
    name = LATENTS if record.reads == "latents" else IMAGES
    return with_record(onnx_graph(module, example, name, PROBABILITIES), record)


def onnx_graph(module: nn.Module, example: Tensor, takes: str, gives: str) -> Any:
    """The module as onnx's ModelProto, its input and output by these names."""
    program = trace(module, example)
    # The exporter prints its steps, and torch's own deprecations as warnings.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(program, dynamo=True, input_names=[takes], output_names=[gives], verbose=False)
    assert exported is not None
    proto = exported.model_proto
    _name_batch(proto)
    return proto


def with_record(proto: Any, record: ExportRecord) -> bytes:
    """The graph as a file that says of itself what it is, and nothing else."""
    import onnx

    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, record.as_metadata())
    proto.producer_name, proto.producer_version = "ci2p", record.ci2p_version
    content: bytes = proto.SerializeToString()
    return content


def _name_batch(proto: Any) -> None:
    """The batch's dimension bears a symbol of torch's; readers expect a name."""
    graph = proto.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
        del value.metadata_props[:]
