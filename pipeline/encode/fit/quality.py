"""How good a codec is: bits per pixel and PSNR on images of any size, as CompressAI's evaluation counts them."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad

from pipeline.encode.fit.crops import read_image
from pipeline.encode.psnr import psnr
from pipeline.encode.whole_codec import Codec, compute_padding

_MULTIPLE = 64  # what CompressAI's evaluation pads images to


@dataclass(frozen=True)
class Quality:
    """Means over images."""

    bpp: float  # bits per pixel by the prior (its own coder spends under 1 % more)
    psnr: float  # dB, of 8-bit RGB
    num_images: int

    def __str__(self) -> str:
        return f"{self.psnr:.2f} dB at {self.bpp:.3f} bit/pixel"


@torch.inference_mode()
def measure_quality(codec: Codec, files: Iterable[Path], device: torch.device) -> Quality:
    """Codes and decodes each file, in float32 and rounded as stored; the codec is left in evaluation mode.

    Images are padded with zeros to a multiple of 64 and the rate is that of the padded image over the pixels of the
    image itself, as in `compressai.utils.eval_model`. Raises WorkError for a file that is no usable image.
    """
    codec.eval()
    rates, psnrs = [], []
    for file in files:
        pixels = torch.from_numpy(np.array(read_image(file))).to(device).permute(2, 0, 1)[None].float()
        height, width = pixels.shape[2:]
        around, back = compute_padding(height, width, min_div=_MULTIPLE)
        coded = codec(pad(pixels / 255, around))
        bits = -torch.log2(coded["likelihoods"]["y"]).sum()
        decoded = (pad(coded["x_hat"], back) * 255).clamp(0, 255).round()
        rates.append(float(bits) / (height * width))
        psnrs.append(psnr(decoded, pixels))
    return Quality(statistics.fmean(rates), statistics.fmean(psnrs), len(rates))
