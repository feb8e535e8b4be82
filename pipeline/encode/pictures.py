"""Latents -> pictures, by the decoder of the codec whose encoder made them. Legend: B pictures, S image size."""

from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ci2p_cache.errors import InputError
from ci2p_cache.spec import CacheSpec
from pipeline.encode.codec import load_synthesis
from pipeline.running.devices import resolve_device

_JPEG_QUALITY = 88


class PictureDecoder:
    """The synthesis transform that belongs to a cache's encoder."""

    def __init__(self, spec: CacheSpec, weights: str, device: str):
        """Raises InputError when `weights` are not those of the codec that made the cache."""
        synthesis, weights_sha256 = load_synthesis(weights)
        if weights_sha256 != spec.weights_sha256:
            raise InputError(
                f"--weights {weights} cannot decode this cache: its weights_sha256 begins with {weights_sha256[:12]} "
                f"and the cache's with {spec.weights_sha256[:12]}; give the codec that made it"
            )
        self._device = resolve_device(device)
        self._synthesis = synthesis.to(self._device)

    @torch.inference_mode()
    def __call__(self, latents_BCHW: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Latents -> uint8 RGB [B, S, S, 3]."""
        pixels = self._synthesis(torch.from_numpy(latents_BCHW).to(self._device)) * 255
        pictures: NDArray[np.uint8] = pixels.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return pictures

    def image(self, latents_CHW: NDArray[np.float32]) -> Image.Image:
        """One latent -> an RGB picture of S x S pixels."""
        return Image.fromarray(np.ascontiguousarray(self(latents_CHW[None])[0]))


def as_jpeg(picture_SS3: NDArray[np.uint8]) -> bytes:
    """A picture as a small file, for pages."""
    file = BytesIO()
    Image.fromarray(picture_SS3).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
