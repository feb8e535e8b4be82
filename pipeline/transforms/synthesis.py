"""The decoder: the synthesis transform of the factorized prior (Ballé et al. 2018), the way back from latents.

    latents [B,192,S/16,S/16] -> deconv 5x5 x2 -> IGDN -> deconv 5x5 x2 -> IGDN -> deconv 5x5 x2 -> IGDN
        -> deconv 5x5 x2 -> pixels [B,3,S,S]

Layers are numbered as CompressAI numbers them, so that its weights can be loaded; its outputs are the same to the last
bit.
"""

from itertools import pairwise

from torch import nn

from ci2p_cache.spec import LATENT_CHANNELS
from pipeline.transforms.analysis import HIDDEN_CHANNELS, PIXEL_CHANNELS
from pipeline.transforms.gdn import GDN


class SynthesisTransform(nn.Sequential):
    """float latents [B,latent_channels,H,W] -> pixels [B,3,16H,16W], about [0,1] and not clipped; random weights."""

    def __init__(self, hidden_channels: int = HIDDEN_CHANNELS, latent_channels: int = LATENT_CHANNELS) -> None:
        widths = (latent_channels, hidden_channels, hidden_channels, hidden_channels, PIXEL_CHANNELS)
        layers: list[nn.Module] = []
        for channels_in, channels_out in pairwise(widths):
            if layers:
                layers.append(GDN(channels_in, inverse=True))
            layers.append(
                nn.ConvTranspose2d(channels_in, channels_out, kernel_size=5, stride=2, padding=2, output_padding=1)
            )
        super().__init__(*layers)
