"""What a cached crop may go through besides: RandAugment, or all that the paper's authors put a training image through.

    randaugment   2 operations of timm's increasing set, magnitude 9 of 10 with a deviation of 0.5, each in half of
                  the cases (Cubuk et al., "RandAugment")
    authors       randaugment; grey in a fifth of the crops; a blur in a tenth; solarized in a fifth (their published
                  configuration: docs/paper.md). Erasing and mixing are made on latents, in the recipe.

A crop's augmentation is a function of (seed, key, crop number) and of the versions of timm, Pillow and numpy.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal, cast

import numpy as np
from PIL import Image, ImageFilter, ImageOps

Augment = Literal["none", "randaugment", "authors"]

_RANDAUGMENT = "rand-m9-n2-mstd0.5-inc1"
_IMAGENET_MEAN = (124, 116, 104)  # what fills the corners of a rotated crop
_GREY, _BLUR, _SOLARIZE = 0.2, 0.1, 0.2  # shares of the crops
_BLUR_RADII = (0.1, 2.0)  # pixels
_SOLARIZE_FROM = 128


def augment_crop(crop: Image.Image, augment: Augment, *, seed: int, key: str, number: int) -> Image.Image:
    """Crop `number` of an image, an RGB square at its final size, as it is cached: a picture of the same size."""
    if augment == "none":
        return crop
    with _seeded(seed, key, number):
        crop = _randaugment()(crop)
        if augment == "authors":
            if random.random() < _GREY:
                crop = crop.convert("L").convert("RGB")
            if random.random() < _BLUR:
                crop = crop.filter(ImageFilter.GaussianBlur(random.uniform(*_BLUR_RADII)))
            if random.random() < _SOLARIZE:
                crop = ImageOps.solarize(crop, _SOLARIZE_FROM)
    return crop


@cache
def _randaugment() -> Callable[[Image.Image], Image.Image]:
    from timm.data.auto_augment import rand_augment_transform

    settings: dict[str, object] = {"img_mean": _IMAGENET_MEAN, "interpolation": Image.Resampling.BICUBIC}
    # At 10 a posterized picture keeps 0 bits: it is black, and newer Pillows refuse to make it.
    settings["magnitude_max"] = 9.99
    return cast(Callable[[Image.Image], Image.Image], rand_augment_transform(_RANDAUGMENT, settings))


@contextmanager
def _seeded(seed: int, key: str, number: int) -> Iterator[None]:
    """Python's and numpy's global generators, which timm draws from, in a state of this crop's; then as they were."""
    digest = hashlib.blake2b(f"augment\t{seed}\t{number}\t{key}".encode(), digest_size=32).digest()
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  (timm's own)
    try:
        random.seed(digest)
        np.random.seed(np.frombuffer(digest, ">u4"))  # noqa: NPY002
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
