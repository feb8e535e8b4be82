"""The models that read latents. Importing the package registers them with timm."""

from pipeline.models.ci2p_vit import ci2p_vit_base, ci2p_vit_small, ci2p_vit_tiny
from pipeline.models.inverted_residual import InvertedResidual
from pipeline.models.model_factory import create_model, model_names
from pipeline.models.patch_reshape import PatchReshape

__all__ = [
    "InvertedResidual",
    "PatchReshape",
    "ci2p_vit_base",
    "ci2p_vit_small",
    "ci2p_vit_tiny",
    "create_model",
    "model_names",
]
