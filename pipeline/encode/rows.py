"""What an image becomes in a shard: latents -> stored values -> a buffer a view; and back, for images that are kept.

Legend: B images, R renderings (plain and crops), V views (those and their mirror images), S image size, C = 192,
H = W = S / 16.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ci2p_cache import codecs
from ci2p_cache.errors import WorkError
from ci2p_cache.escapes import find_escapes
from ci2p_cache.spec import CacheSpec
from ci2p_cache.views import whole_views
from pipeline.encode.encoder import Encoder


@dataclass(frozen=True)
class Row:
    """One stored image: its views' buffers, its escapes and the range of its dequantised latents."""

    buffers: tuple[bytes, ...]
    escapes: list[tuple[int, int, int]]  # view, index, integer
    low: float
    high: float


def encode_views(encoder: Encoder, pixels_RB3SS: Tensor, views: tuple[str, ...]) -> NDArray[np.float32]:
    """Latents [B, V, C, H, W], a rendering with its mirror image at a time: crops take no more memory on the device."""
    flips = whole_views(views)
    latents = [encoder.views(pixels_B3SS, flips).cpu() for pixels_B3SS in pixels_RB3SS]
    latents_BVCHW: NDArray[np.float32] = torch.cat(latents, dim=1).numpy()
    return latents_BVCHW


def pack_row(latents_VCHW: NDArray[np.float32], key: str, spec: CacheSpec) -> Row:
    try:
        kept = codecs.quantise(latents_VCHW, spec.store, spec.step)
    except WorkError as error:
        raise WorkError(f"{spec.split} image {key}: {error}") from error
    values = codecs.dequantise(kept, spec.store, spec.step)
    escapes: list[tuple[int, int, int]] = []
    if spec.store != "float16":
        integers = kept.astype(np.int32, copy=False)
        kept, escapes = codecs.zigzag(integers), find_escapes(integers)
    buffers = tuple(codecs.pack(view, spec.store) for view in kept)
    return Row(buffers, escapes, float(values.min()), float(values.max()))


def unpack_row(buffers: tuple[bytes, ...], escapes: list[tuple[int, int, int]], spec: CacheSpec) -> Row:
    """A stored image as `pack_row` gave it."""
    stored = np.empty((len(spec.views), *spec.latent_shape), dtype=codecs.stored_dtype(spec.store))
    for buffer, view in zip(buffers, stored, strict=True):
        codecs.unpack(memoryview(buffer), view, "float16" if spec.store == "float16" else "int")
    size = stored[0].size
    where = np.array([view * size + index for view, index, _ in escapes], dtype=np.int64)
    escaped = (where, np.array([integer for *_, integer in escapes], dtype=np.int32)) if escapes else None
    values = codecs.dequantise(stored, spec.store, spec.step, escaped)
    return Row(buffers, escapes, float(values.min()), float(values.max()))
