"""The encoder: the analysis transform of the factorized prior (Ballé et al. 2018).

    pixels [B,3,S,S] -> conv 5x5 /2 -> GDN -> conv 5x5 /2 -> GDN -> conv 5x5 /2 -> GDN -> conv 5x5 /2
        -> latents [B,192,S/16,S/16]

N = 128 channels between, M = 192 out: 1,493,312 parameters. Layers are numbered as CompressAI numbers them, so that
its weights can be loaded; its outputs are the same to the last bit.
"""

from itertools import pairwise

from torch import nn

from ci2p_cache.spec import LATENT_CHANNELS
from pipeline.transforms.gdn import GDN

PIXEL_CHANNELS = 3
PIXELS_PER_LATENT = 16
"""Per side; a latent position covers 16 x 16 pixels."""
HIDDEN_CHANNELS = 128


class AnalysisTransform(nn.Sequential):
    """float pixels [B,3,S,S] in [0,1], no normalisation -> latents [B,latent_channels,S/16,S/16]; random weights."""

    def __init__(self, hidden_channels: int = HIDDEN_CHANNELS, latent_channels: int = LATENT_CHANNELS) -> None:
        widths = (PIXEL_CHANNELS, hidden_channels, hidden_channels, hidden_channels, latent_channels)
        layers: list[nn.Module] = []
        for channels_in, channels_out in pairwise(widths):
            if layers:
                layers.append(GDN(channels_in))
            layers.append(nn.Conv2d(channels_in, channels_out, kernel_size=5, stride=2, padding=2))
        super().__init__(*layers)
