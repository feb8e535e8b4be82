"""Promise T6: what is exported predicts what ci2p predicts. Held at every export, on pictures as real as there are.

--images DIR    the images of the split that the folder holds, or any other folder's
else            latents of the run's cache, decoded to pictures
else            noise, which is said
"""

# N images, S image size, K classes

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import Ci2pError, InputError, WorkError
from ci2p_cache.printable import counted
from ci2p_cache.reader import ViewReader
from pipeline.baselines.pixel_spec import is_pixels
from pipeline.encode.decoding import decode_batches, default_workers
from pipeline.encode.pictures import PictureDecoder
from pipeline.evaluate.images import Rendering
from pipeline.evaluate.predictions import predict_inputs
from pipeline.evaluate.run_images import images_of_run
from pipeline.running.finite import refuse_non_finite_outputs
from pipeline.train.data_place import find_data
from pipeline.train.run_folder import RunConfig

LARGEST = 1e-3
"""Of a difference between two probabilities."""

_IMAGES = 64  # that an export is checked on
_NOISE_SEED = 0
_BATCH = 16


@dataclass(frozen=True)
class Pictures:
    """What an export is checked on."""

    pixels: Tensor  # uint8 RGB [N, 3, S, S]
    described: str


@dataclass(frozen=True)
class Agreement:
    """How near an exported file's probabilities are to ci2p's own."""

    largest: float
    num_images: int
    num_other_class: int
    measured_on: str

    def line(self) -> str:
        """For people."""
        return (
            f"largest difference of a probability from ci2p's own: {self.largest:.2g}, {self.num_other_class} of "
            f"{counted(self.num_images, 'prediction')} differ ({self.measured_on})"
        )


def choose_pictures(run: Path, config: RunConfig, rendering: Rendering, images: str | None, weights: str) -> Pictures:
    """Pictures as real as there are. Raises InputError for `images` that hold none of use."""
    if images is not None:
        chosen = images_of_run(run, config, images)
        rows = spread(len(chosen.keys), _IMAGES)
        batches = [rows[begin : begin + _BATCH] for begin in range(0, len(rows), _BATCH)]
        found = list(decode_batches(chosen, rendering.preprocessing, batches, workers=default_workers(), pin=False))
        pixels = torch.cat([batch.pixels[0] for batch in found if batch.indices])
        if not len(pixels):
            raise InputError(f"--images {images}: none of {counted(len(rows), 'image')} that were tried can be decoded")
        return Pictures(pixels, f"{len(pixels)} of {chosen.described}")
    decoded = _decode_cache(run, config, weights)
    if decoded is not None:
        return decoded
    size = rendering.preprocessing.image_size
    noise = torch.randint(0, 256, (_IMAGES, 3, size, size), generator=torch.Generator().manual_seed(_NOISE_SEED))
    return Pictures(noise.byte(), f"{_IMAGES} pictures of noise: give --images DIR to check it on real ones")


def _decode_cache(run: Path, config: RunConfig, weights: str) -> Pictures | None:
    """None where there is no cache to ask, or no decoder."""
    if is_pixels(config.data.spec):
        return None
    try:
        cache = open_cache(find_data(config.data, run), "val")
        decoder = PictureDecoder(cache.spec, weights, "cpu")
    except Ci2pError:
        return None
    reader = ViewReader(cache.split_dir, cache.manifest)
    positions = cache.positions[spread(cache.num_samples, _IMAGES)]
    pictures = [
        decoder(reader.read_latents(part, np.zeros(len(part), dtype=np.int64)))
        for part in np.array_split(positions, -(-len(positions) // _BATCH))
    ]
    pixels = torch.from_numpy(np.ascontiguousarray(np.concatenate(pictures).transpose(0, 3, 1, 2)))
    return Pictures(pixels, f"{len(pixels)} latents of {cache.split_dir}, decoded to pictures")


def compare(
    model: nn.Module,
    rendering: Rendering,
    pictures: Pictures,
    exported: Callable[[Tensor], Tensor],
    *,
    from_latents: bool,
    as_floats: bool,
    refuse_above: float = LARGEST,
) -> Agreement:
    """Holds the probabilities of an exported file, [B,...] -> [B,K], against the model's by ci2p's own way.

    Raises WorkError when one differs by more than `refuse_above`, or is no number.
    """
    largest, num_other = 0.0, 0
    for begin, pixels in enumerate(_batches(pictures.pixels)):
        inputs = rendering.inputs(pixels, rendering.views[:1])
        own = predict_inputs(model, inputs)
        refuse_non_finite_outputs(own, partial(_named, begin * _BATCH))
        given = inputs[:, 0] if from_latents else pixels.float() / 255 if as_floats else pixels
        with torch.inference_mode():
            theirs = exported(given)
        difference = float((own - theirs).abs().max())
        largest = difference if not difference <= largest else largest
        num_other += int((own.argmax(1) != theirs.argmax(1)).sum())
    agreement = Agreement(largest, len(pictures.pixels), num_other, pictures.described)
    if not largest <= refuse_above:
        raise WorkError(
            f"the exported file is not ci2p's own: {agreement.line()}; more than {refuse_above:g} is refused, "
            "and nothing was written"
        )
    return agreement


def _named(begin: int, row: int) -> str:
    return f"picture {begin + row + 1} of those that the export is checked on"


def _batches(pixels_N3SS: Tensor) -> Iterator[Tensor]:
    for begin in range(0, len(pixels_N3SS), _BATCH):
        yield pixels_N3SS[begin : begin + _BATCH]


def spread(count: int, most: int) -> list[int]:
    """`most` of `count` rows, evenly spread, or all."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))
