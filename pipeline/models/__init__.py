"""The models: those that read latents, and the pixel baselines. Importing the package registers them with timm."""

from pipeline.models.ci2p_vit import ci2p_vit_base, ci2p_vit_large, ci2p_vit_small, ci2p_vit_tiny
from pipeline.models.cnn_vit import CnnVit
from pipeline.models.dual_scale_vit import DualScaleVit, ci2p_vit_ds
from pipeline.models.inverted_residual import InvertedResidual
from pipeline.models.model_factory import baseline_names, create_model, has_image_size, model_names, reads_pixels
from pipeline.models.patch_reshape import PatchReshape
from pipeline.models.published import build_by_name, load_by_timm, name_for_timm
from pipeline.models.variant import Variant

__all__ = [
    "CnnVit",
    "DualScaleVit",
    "InvertedResidual",
    "PatchReshape",
    "Variant",
    "baseline_names",
    "build_by_name",
    "ci2p_vit_base",
    "ci2p_vit_ds",
    "ci2p_vit_large",
    "ci2p_vit_small",
    "ci2p_vit_tiny",
    "create_model",
    "has_image_size",
    "load_by_timm",
    "model_names",
    "name_for_timm",
    "reads_pixels",
]
