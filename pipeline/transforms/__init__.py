"""The codec's two transforms, on torch alone: both stages import them, the first frozen, the second to be trained."""

from pipeline.transforms.analysis import HIDDEN_CHANNELS, PIXEL_CHANNELS, PIXELS_PER_LATENT, AnalysisTransform
from pipeline.transforms.frozen import freeze
from pipeline.transforms.gdn import GDN
from pipeline.transforms.synthesis import SynthesisTransform

__all__ = [
    "GDN",
    "HIDDEN_CHANNELS",
    "PIXELS_PER_LATENT",
    "PIXEL_CHANNELS",
    "AnalysisTransform",
    "SynthesisTransform",
    "freeze",
]
