"""What an image becomes in a shard: stored values -> a buffer a view; and back, for images that are kept."""

from dataclasses import dataclass

import numpy as np

from ci2p_cache import codecs
from ci2p_cache.errors import WorkError
from ci2p_cache.spec import CacheSpec
from pipeline.encode.stored_batch import StoredBatch


@dataclass(frozen=True)
class Row:
    """One stored image: its views' buffers, its escapes and the range of its dequantised latents."""

    buffers: tuple[bytes, ...]
    escapes: list[tuple[int, int, int]]  # view, index, integer
    low: float
    high: float


def pack_row(batch: StoredBatch, place: int, key: str, spec: CacheSpec) -> Row:
    """The image at `place` of a batch, once it is there. Raises WorkError for latents that cannot be stored."""
    try:
        views, escapes, (low, high) = batch.image(place)
    except WorkError as error:
        raise WorkError(f"{spec.split} image {key}: {error}") from error
    return Row(tuple(codecs.pack(view, spec.store) for view in views), escapes, low, high)


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
