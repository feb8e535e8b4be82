"""Models as timm makes them of a folder for the Hugging Face Hub: by what stands in its config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import nn


def build_by_name(architecture: str, num_classes: int, model_args: Mapping[str, Any]) -> nn.Module:
    """A model with fresh weights."""
    model: nn.Module = timm.create_model(architecture, num_classes=num_classes, **model_args)
    return model


def load_by_timm(folder: Path) -> nn.Module:
    """A folder's model with its weights, in evaluation mode."""
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()
