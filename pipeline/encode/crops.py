"""Random-resized crops: further views of a training image, each a function of (seed, key, crop number) alone.

    share of the area    uniform within `scale`
    width / height       uniform in its logarithm, 3/4 to 4/3
    place                uniform among the whole pixels where the crop fits

This is the distribution of torchvision's RandomResizedCrop, its last resort included: a shape that does not fit is
drawn anew, ten times at most; then the crop is the largest one of an allowed ratio from the centre. What a crop goes
through besides is in `augmentation.py`.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ci2p_cache.errors import InputError
from ci2p_cache.spec import CacheSpec
from ci2p_cache.views import num_crops
from pipeline.encode.augmentation import Augment, augment_crop
from pipeline.encode.bad_image import memory_for
from pipeline.encode.decode import decode_scaled
from pipeline.encode.preprocess import Preprocessing, render, render_plain

DEFAULT_SCALE = (0.25, 1.0)
RATIO = (3 / 4, 4 / 3)  # width / height; a change is a new format version
_DRAWS = 10


@dataclass(frozen=True)
class Crops:
    """How many crops are cut from every image, and which; every field changes the stored values.

    Raises InputError for values outside of their range.
    """

    count: int = 0
    scale: tuple[float, float] = DEFAULT_SCALE  # least and largest share of the area
    seed: int = 0
    augment: Augment = "none"

    def __post_init__(self) -> None:
        low, high = self.scale
        if self.count < 0:
            raise InputError(f"--crops is {self.count}: give 0 for none, or how many to cut from each training image")
        if not 0 < low <= high <= 1:
            raise InputError(
                f"--crop-scale {low:g} {high:g}: give the least and the largest share of the area, "
                f"0 < LOW <= HIGH <= 1, such as {DEFAULT_SCALE[0]:g} {DEFAULT_SCALE[1]:g}"
            )


NO_CROPS = Crops()


def random_crops(
    count: int, scale: tuple[float, float] | None, seed: int, augment: Augment = "none", *, option: str = "--crops K"
) -> Crops:
    """Checked `Crops`, of 25 to 100 % of the area without a `scale`.

    Raises InputError for a scale or an augmentation without crops, which the `option` asks for.
    """
    if augment != "none" and not count:
        raise InputError(f"--augment {augment} is of crops, the plain view stays plain; give {option} too")
    if scale is not None and not count:
        raise InputError(f"--crop-scale {scale[0]:g} {scale[1]:g} is for crops; give {option} too, or leave it out")
    return Crops(count, scale or DEFAULT_SCALE, seed, augment)


def crops_of(spec: CacheSpec) -> Crops:
    """The crops that a split of a cache holds."""
    if spec.crop_scale is None:
        return NO_CROPS
    return Crops(num_crops(spec.views), spec.crop_scale, spec.seed, spec.augment or "none")


def load_renderings(data: bytes, key: str, preprocessing: Preprocessing, crops: Crops) -> NDArray[np.uint8]:
    """The plain rendering of an encoded image, then its crops, from one decoding: uint8 RGB [1 + K, 3, S, S].

    Raises BadImage as `load_pixels` does.
    """
    decoded = decode_scaled(data, preprocessing.least_side, preprocessing.max_pixels)
    size = preprocessing.image_size
    with memory_for(decoded.size):
        renderings = [render_plain(decoded, preprocessing)]
        renderings += [_render_crop(decoded.image, size, crops, key, number) for number in range(crops.count)]
        return np.stack(renderings)


def load_crop(data: bytes, key: str, preprocessing: Preprocessing, crops: Crops, number: int) -> NDArray[np.uint8]:
    """One crop of an encoded image, whatever `crops.count`: uint8 RGB [3, S, S]. Raises BadImage as `load_pixels`."""
    image = decode_scaled(data, preprocessing.least_side, preprocessing.max_pixels).image
    with memory_for(image.size):
        return _render_crop(image, preprocessing.image_size, crops, key, number)


def _render_crop(image: Image.Image, size: int, crops: Crops, key: str, number: int) -> NDArray[np.uint8]:
    """A crop, cut from the picture at its full size, resized as if nothing were around it, as torchvision does, and
    then augmented: uint8 RGB [3, S, S]."""
    crop = image.crop(crop_box(image.size, crops, key, number))
    square_3SS = render(crop, (0, 0, *crop.size), size)
    if crops.augment == "none":
        return square_3SS
    square = Image.fromarray(square_3SS.transpose(1, 2, 0))
    square = augment_crop(square, crops.augment, seed=crops.seed, key=key, number=number)
    return np.asarray(square).transpose(2, 0, 1)


def crop_box(image_size: tuple[int, int], crops: Crops, key: str, number: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a crop, in whole pixels of an upright image of (width, height)."""
    width, height = image_size
    for attempt in range(_DRAWS):
        area, ratio, across, down = _uniform(crops.seed, key, number, attempt)
        pixels = width * height * _between(*crops.scale, area)
        shape = math.exp(_between(math.log(RATIO[0]), math.log(RATIO[1]), ratio))
        crop_width, crop_height = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left, top = int(across * (width - crop_width + 1)), int(down * (height - crop_height + 1))
            return (left, top, left + crop_width, top + crop_height)
    return _central_box(width, height)


def _central_box(width: int, height: int) -> tuple[int, int, int, int]:
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    crop_width, crop_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return (left, top, left + crop_width, top + crop_height)


def _uniform(seed: int, key: str, number: int, attempt: int) -> tuple[float, float, float, float]:
    """Four numbers in [0, 1) from a hash, which no library version and no machine can change."""
    digest = hashlib.blake2b(f"crop\t{seed}\t{number}\t{attempt}\t{key}".encode(), digest_size=32).digest()
    area, ratio, across, down = ((int(value) >> 11) / 2**53 for value in np.frombuffer(digest, ">u8"))
    return area, ratio, across, down


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
