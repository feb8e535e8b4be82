"""Looking through a cache: stored latents decoded back to pictures, views side by side, as the ViT's input shows them.

Legend: N images, V views, R renderings (views without the mirror images), S image size.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.manifest import read_marker
from ci2p_cache.publish import publish
from ci2p_cache.reader import ViewReader
from ci2p_cache.verify import find_splits
from ci2p_cache.views import MIRROR, whole_views
from pipeline.encode.codec import hash_weights, load_codec
from pipeline.encode.crops import crops_of, load_renderings
from pipeline.encode.datasets import open_dataset
from pipeline.encode.encoder import resolve_device
from pipeline.encode.fit.quality import psnr
from pipeline.encode.preprocess import BadImage, preprocessing_of

_COLUMNS = 4  # images side by side, each with all its views,
_PICTURES = 8  # unless that makes more pictures than this
_GAP = 6  # pixels
_BATCH = 16  # pictures decoded at once


@dataclass(frozen=True)
class Gallery:
    """What was drawn, and how near it is to the originals."""

    path: Path
    num_images: int
    psnr: dict[str, float]  # dB by view, mean over the images; empty without originals

    def lines(self) -> list[str]:
        """For people."""
        near = ", ".join(f"{view} {value:.2f} dB" for view, value in self.psnr.items())
        return [f"{self.path}: {self.num_images} images decoded from their latents{f'; PSNR {near}' if near else ''}"]


def draw_gallery(
    cache_dir: Path, split: str, out: Path, *, count: int, weights: str, data_dir: str | None, device: str
) -> Gallery:
    """Draws `count` images of a split, spread evenly over its positions, into a PNG with their labels.

    With `data_dir`, the images that the cache was made from, PSNR of every view against the pixels that were encoded.
    Raises InputError for another encoder than the cache's, and for a data set that lacks one of the images.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"--images {out}: give a name that ends in .png")
    cache = open_cache(cache_dir, split)
    codec = load_codec(weights)
    weights_sha256 = hash_weights(codec.g_a.state_dict())
    if weights_sha256 != cache.spec.weights_sha256:
        raise InputError(
            f"--weights {weights} cannot decode this cache: its weights_sha256 begins with {weights_sha256[:12]} and "
            f"the cache's with {cache.spec.weights_sha256[:12]}; give the codec that made it"
        )
    rows = np.unique(np.linspace(0, cache.num_samples - 1, min(count, cache.num_samples)).round().astype(np.int64))
    pictures_NVSS3 = np.concatenate(list(_decode(cache, rows, codec.g_s, resolve_device(device))))
    near = {} if data_dir is None else _compare(cache, rows, pictures_NVSS3, data_dir)
    labels = [cache.classes[label] for label in cache.labels[rows]]
    png = BytesIO()
    _draw(pictures_NVSS3, labels, cache.spec.views).save(png, "PNG")
    publish(out, png.getvalue())
    return Gallery(out, len(rows), near)


def _decode(
    cache: Cache, rows: NDArray[np.int64], synthesis: torch.nn.Module, device: torch.device
) -> Iterator[NDArray[np.uint8]]:
    """Yields uint8 [n, V, S, S, 3]."""
    spec = cache.spec
    reader = ViewReader(cache.split_dir, cache.manifest)
    synthesis = synthesis.to(device)
    num_views = len(spec.views)
    num_images = max(1, _BATCH // num_views)
    for begin in range(0, len(rows), num_images):
        positions = cache.positions[rows[begin : begin + num_images]]
        latents = torch.from_numpy(
            reader.read_latents(np.repeat(positions, num_views), np.tile(np.arange(num_views), len(positions)))
        )
        with torch.inference_mode():
            pixels = (synthesis(latents.to(device)) * 255).clamp(0, 255).round().byte()
        pictures: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).cpu().numpy()
        yield pictures.reshape(len(positions), num_views, spec.image_size, spec.image_size, 3)


def _compare(
    cache: Cache, rows: NDArray[np.int64], pictures_NVSS3: NDArray[np.uint8], data_dir: str
) -> dict[str, float]:
    spec = cache.spec
    preprocessing = preprocessing_of(spec)
    splits = open_dataset(
        spec.dataset, data_dir, splits=find_splits(Path(cache.path)), val_fraction=None, seed=spec.seed
    ).values()  # all of them: how many images were held out for which is not in the spec
    items = {key: (split, index) for split in splits for index, key in enumerate(split.keys)}
    found: dict[str, list[float]] = {view: [] for view in spec.views}
    for row, pictures_VSS3 in zip(rows.tolist(), pictures_NVSS3, strict=True):
        key = _key_at(cache, int(cache.positions[row]))
        if key not in items:
            raise InputError(f"--data-dir {data_dir} has no image {key}; give the folder that the cache was made from")
        split, index = items[key]
        try:
            renderings_R3SS = load_renderings(split.read_bytes(index), key, preprocessing, crops_of(spec))
        except BadImage as error:
            raise WorkError(f"image {key}: {error.reason}") from error
        for view, picture, original in zip(
            spec.views, pictures_VSS3, _originals(renderings_R3SS, spec.views), strict=True
        ):
            found[view].append(psnr(torch.from_numpy(picture), torch.from_numpy(original)))
    return {view: statistics.fmean(values) for view, values in found.items()}


def _originals(renderings_R3SS: NDArray[np.uint8], views: tuple[str, ...]) -> Iterator[NDArray[np.uint8]]:
    """Yields what each view shows, uint8 [S, S, 3]: every rendering and, where the cache has them, its mirror image."""
    for rendering_3SS in renderings_R3SS:
        picture = rendering_3SS.transpose(1, 2, 0)
        for view in whole_views(views):
            yield np.ascontiguousarray(picture[:, ::-1] if view == MIRROR else picture)


def _key_at(cache: Cache, position: int) -> str:
    shard, place = divmod(position, cache.spec.shard_size)
    marker = read_marker(Path(cache.split_dir), shard)
    if marker is None:
        raise WorkError(f"the marker of shard {shard} of {cache.split_dir} is missing; run `ci2p verify`")
    return marker.keys[place]


def _draw(pictures_NVSS3: NDArray[np.uint8], labels: list[str], views: tuple[str, ...]) -> Image.Image:
    """Rows of images, each with its views side by side and its label under them."""
    num_images, num_views, size = pictures_NVSS3.shape[:3]
    columns = min(_COLUMNS, num_images, max(1, _PICTURES // num_views))
    points = max(10, size // 16)
    font = ImageFont.load_default(points)
    caption = round(points * 1.6)
    width, height = num_views * size + 2 * _GAP, size + caption + _GAP
    sheet = Image.new("RGB", (columns * width, -(-num_images // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (pictures_VSS3, label) in enumerate(zip(pictures_NVSS3, labels, strict=True)):
        row, column = divmod(number, columns)
        for view, picture in enumerate(pictures_VSS3):
            sheet.paste(Image.fromarray(picture), (column * width + _GAP + view * size, row * height + _GAP))
        text = f"{label} ({' | '.join(views)})"
        pen.text((column * width + _GAP, row * height + size + _GAP + 1), text, fill="black", font=font)
    return sheet
