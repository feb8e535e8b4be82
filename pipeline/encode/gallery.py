"""Looking through a cache: stored latents decoded back to pictures, views side by side, as the ViT's input shows them.

Legend: N images, V views, R renderings (views without the mirror images), S image size.
"""

import statistics
import sys
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
from ci2p_cache.items import Contents, hash_content
from ci2p_cache.marker import Failure
from ci2p_cache.printable import counted
from ci2p_cache.publish import publish
from ci2p_cache.reader import ViewReader
from ci2p_cache.remote_path import AnyPath
from ci2p_cache.views import MIRROR, whole_views
from pipeline.encode.crops import crops_of, load_renderings
from pipeline.encode.datasets import ImageSplit, open_pool
from pipeline.encode.decoding import OnError
from pipeline.encode.pictures import PictureDecoder
from pipeline.encode.preprocess import BadImage, preprocessing_of
from pipeline.encode.psnr import psnr

_COLUMNS = 4  # images side by side, each with all its views,
_PICTURES = 8  # unless that makes more pictures than this
_GAP = 6  # pixels
_BATCH = 16  # pictures decoded at once


@dataclass(frozen=True)
class Gallery:
    """What was drawn, and how near it is to the originals."""

    path: AnyPath
    num_images: int
    psnr: dict[str, float]  # dB by view, mean over the images; empty without originals
    failures: tuple[Failure, ...] = ()  # images that were not compared

    def lines(self) -> list[str]:
        """For people."""
        near = ", ".join(f"{view} {value:.2f} dB" for view, value in self.psnr.items())
        near = f"; PSNR {near}" if near else ""
        drawn = f"{self.path}: {counted(self.num_images, 'image')} decoded from latents{near}"
        return [drawn, *(f"not compared: {failure.key}: {failure.reason}" for failure in self.failures)]


def draw_gallery(
    cache_dir: AnyPath,
    split: str,
    out: Path,
    *,
    count: int,
    weights: str,
    data_dir: str | None,
    device: str,
    on_error: OnError = "stop",
) -> Gallery:
    """Draws `count` images of a split, spread evenly over its positions, into a PNG with their labels.

    With `data_dir`, the images that the cache was made from, PSNR of every view against the pixels that were encoded.
    Raises InputError for another encoder than the cache's and for an image that is not there, and WorkError for one
    that has changed or cannot be decoded; "skip" leaves them out.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"--images {out}: give a name that ends in .png")
    cache = open_cache(cache_dir, split)
    decoder = PictureDecoder(cache.spec, weights, device)
    rows = np.unique(np.linspace(0, cache.num_samples - 1, min(count, cache.num_samples)).round().astype(np.int64))
    pictures_NVSS3 = np.concatenate(list(_decode(cache, rows, decoder)))
    near, failures = ({}, []) if data_dir is None else _compare(cache, rows, pictures_NVSS3, data_dir, on_error)
    labels = [cache.classes[label] for label in cache.labels[rows]]
    png = BytesIO()
    _draw(pictures_NVSS3, labels, cache.spec.views).save(png, "PNG")
    publish(out, png.getvalue())
    return Gallery(out, len(rows), near, tuple(failures))


def _decode(cache: Cache, rows: NDArray[np.int64], decoder: PictureDecoder) -> Iterator[NDArray[np.uint8]]:
    """Yields uint8 [n, V, S, S, 3]."""
    spec = cache.spec
    reader = ViewReader(cache.split_dir, cache.manifest)
    num_views = len(spec.views)
    num_images = max(1, _BATCH // num_views)
    for begin in range(0, len(rows), num_images):
        positions = cache.positions[rows[begin : begin + num_images]]
        latents = reader.read_latents(np.repeat(positions, num_views), np.tile(np.arange(num_views), len(positions)))
        yield decoder(latents).reshape(len(positions), num_views, spec.image_size, spec.image_size, 3)


def _compare(
    cache: Cache, rows: NDArray[np.int64], pictures_NVSS3: NDArray[np.uint8], data_dir: str, on_error: OnError
) -> tuple[dict[str, float], list[Failure]]:
    spec = cache.spec
    preprocessing = preprocessing_of(spec, max_pixels=sys.maxsize)  # which it passed as it was encoded
    pool = open_pool(
        spec.dataset,
        data_dir,
        spec.split,
        is_held_out=spec.val_fraction is not None,
        seed=spec.seed,
        columns=spec.columns,
        classes=cache.classes,
    )
    index_of = {key: index for index, key in enumerate(pool.keys)}
    keys, contents = cache.read_items().keys, cache.read_contents()
    found: dict[str, list[float]] = {view: [] for view in spec.views}
    failures: list[Failure] = []
    for row, pictures_VSS3 in zip(rows.tolist(), pictures_NVSS3, strict=True):
        position = int(cache.positions[row])
        key = keys[position]
        try:
            if key not in index_of:
                if on_error == "stop":
                    raise InputError(
                        f"--data-dir {data_dir} lacks image {key}; give the folder that the cache was made from, or "
                        "use --on-error skip to leave such images out"
                    )
                raise BadImage(f"it is not in {data_dir}")
            data = _read_original(pool, index_of[key], contents, position)
            renderings_R3SS = load_renderings(data, key, preprocessing, crops_of(spec))
        except BadImage as error:
            if on_error == "stop":
                raise WorkError(
                    f"--data-dir {data_dir}: image {key}: {error.reason}; give the folder that the cache was "
                    "made from, or use --on-error skip to leave such images out"
                ) from error
            failures.append(Failure(key=key, reason=error.reason))
            continue
        for view, picture, original in zip(
            spec.views, pictures_VSS3, _originals(renderings_R3SS, spec.views), strict=True
        ):
            found[view].append(psnr(torch.from_numpy(picture), torch.from_numpy(original)))
    return {view: statistics.fmean(values) for view, values in found.items() if values}, failures


def _read_original(pool: ImageSplit, index: int, contents: Contents | None, position: int) -> bytes:
    """The image file, if it holds what was encoded; else raises BadImage."""
    try:
        data = pool.read_bytes(index)
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror or type(error).__name__}") from error
    is_known = contents is not None and contents.known[position]
    if is_known and contents is not None and hash_content(data) != contents.hash_at(position):
        raise BadImage("it has changed since it was encoded")
    return data


def _originals(renderings_R3SS: NDArray[np.uint8], views: tuple[str, ...]) -> Iterator[NDArray[np.uint8]]:
    """Yields what each view shows, uint8 [S, S, 3]: every rendering and, where the cache has them, its mirror image."""
    for rendering_3SS in renderings_R3SS:
        picture = rendering_3SS.transpose(1, 2, 0)
        for view in whole_views(views):
            yield np.ascontiguousarray(picture[:, ::-1] if view == MIRROR else picture)


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
