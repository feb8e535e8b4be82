"""How good a codec is: bits per pixel and PSNR on images of any size, as CompressAI's evaluation counts them."""

import statistics
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import pad

from ci2p_cache.errors import WorkError
from ci2p_cache.printable import counted
from pipeline.encode.fit.images import Images, OnError, read_image, unusable
from pipeline.encode.preprocess import BadImage
from pipeline.encode.psnr import psnr
from pipeline.encode.whole_codec import Codec, compute_padding

_MULTIPLE = 64  # what CompressAI's evaluation pads images to


@dataclass(frozen=True)
class Quality:
    """Means over images."""

    bpp: float  # bits per pixel by the prior (its own coder spends under 1 % more)
    psnr: float  # dB, of 8-bit RGB
    num_images: int
    failures: dict[str, str] = field(default_factory=dict)  # images that were left out, and why

    def __str__(self) -> str:
        return f"{self.psnr:.2f} dB at {self.bpp:.3f} bit/pixel"


@torch.inference_mode()
def measure_quality(codec: Codec, images: Images, device: torch.device, on_error: OnError = "stop") -> Quality:
    """Codes and decodes each image, in float32 and rounded as stored; the codec is left in evaluation mode.

    Images are padded with zeros to a multiple of 64 and the rate is that of the padded image over the pixels of the
    image itself, as in `compressai.utils.eval_model`. Raises WorkError for an image that cannot be used under "stop",
    and where none can.
    """
    codec.eval()
    rates, psnrs = [], []
    failures: dict[str, str] = {}
    for index in range(len(images)):
        try:
            image = read_image(images.path(index), images.max_pixels)
        except BadImage as error:
            if on_error == "stop":
                raise unusable(images.path(index), error.reason) from error
            failures[images.key_of(images.names[index])] = error.reason
            continue
        pixels = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1)[None].float()
        height, width = pixels.shape[2:]
        around, back = compute_padding(height, width, min_div=_MULTIPLE)
        coded = codec(pad(pixels / 255, around))
        bits = -torch.log2(coded["likelihoods"]["y"]).sum()
        decoded = (pad(coded["x_hat"], back) * 255).clamp(0, 255).round()
        rates.append(float(bits) / (height * width))
        psnrs.append(psnr(decoded, pixels))
    if not rates:
        key, reason = next(iter(failures.items()))
        raise WorkError(
            f"none of {counted(len(failures), 'image')} to evaluate on can be used ({key}: {reason}); mend one of them"
        )
    return Quality(statistics.fmean(rates), statistics.fmean(psnrs), len(rates), failures)
