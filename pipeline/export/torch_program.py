"""`--to torch`: the graph as torch.export has it, one .pt2 file that torch loads without ci2p."""

import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.export.record import ExportRecord

METADATA = "ci2p.json"
"""Name of the record among the file's extra files."""


def trace(module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The module as a program for any batch size."""
    with warnings.catch_warnings():  # of torch's own deprecations, which nobody here can mend
        warnings.simplefilter("ignore")
        batch: Any = torch.export.Dim("batch", min=1)
        return torch.export.export(module, (example,), dynamic_shapes=({0: batch},))


def program_bytes(module: nn.Module, example: Tensor, record: ExportRecord) -> bytes:
    """The program as a .pt2 file. Its `ci2p.json` says what it takes and gives."""
    buffer = io.BytesIO()
    program = trace(module, example)
    with warnings.catch_warnings():  # of weights that share memory and "may not be on the CPU": they are
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer, extra_files={METADATA: record.model_dump_json(indent=1)})
    return buffer.getvalue()


def load_program(content: bytes) -> nn.Module:
    """The program as a module, as any user of torch would load it."""
    return torch.export.load(io.BytesIO(content)).module()
