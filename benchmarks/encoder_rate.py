"""The encoder alone, from pixels on the host to stored values on the host, nothing decoded or compressed: views/s."""

import statistics
from types import SimpleNamespace
from typing import Any

import torch
from training import seconds_of

from pipeline.encode.encoder import Precision, load_encoder
from pipeline.encode.stored_batch import StoredBatch

_BATCHES = 3  # under way at once, as many as `ci2p encode` has
_IMAGES = 32  # of a batch


def encoder_rate(device: str, precision: Precision, image_size: int, rounds: int) -> float:
    """Of both views of noise, the median."""
    encoder = load_encoder("bundled", device, precision)
    pixels_RB3SS = torch.randint(0, 256, (1, _IMAGES, 3, image_size, image_size), dtype=torch.uint8)
    if encoder.device.type == "cuda":
        pixels_RB3SS = pixels_RB3SS.pin_memory()
    spec: Any = SimpleNamespace(store="int", step=1.0, views=("plain", "mirror"))

    def encode() -> None:
        for batch in [StoredBatch(encoder, pixels_RB3SS, spec) for _ in range(_BATCHES)]:
            batch.image(0)  # which waits

    encode()
    seconds = statistics.median(seconds_of(encode, encoder.device) for _ in range(rounds))
    return 2 * _IMAGES * _BATCHES / seconds
