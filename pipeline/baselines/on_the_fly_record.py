"""What a run that was trained without a cache keeps of its images, and of how they became latents.

It keeps the spec of the cache that would hold the same latents, so that it is evaluated, asked and exported as others
are, and beside it where the images come from.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ci2p_cache.bounds import complaint
from ci2p_cache.errors import InputError
from ci2p_cache.spec import ON_THE_FLY, CacheSpec
from pipeline.baselines.pixel_spec import PixelSpec, is_pixels, pixel_spec_of_record
from pipeline.encode.encoder import Precision


class OnTheFly(BaseModel):
    """How images became latents while the model was trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: PixelSpec
    weights: str
    """The encoder's: bundled, zoo or the name of a file; which they were the spec's `weights_sha256` says."""
    precision: Precision
    """Of the encoder's products."""


def recorded(latents: CacheSpec, how: OnTheFly) -> dict[str, Any]:
    """The spec of such a run, as JSON types."""
    return latents.model_dump(mode="json") | {ON_THE_FLY: how.model_dump(mode="json")}


def on_the_fly_of(spec: Mapping[str, Any]) -> OnTheFly | None:
    """How the latents of a run were made, where no cache holds them. Raises InputError for a record that is damaged."""
    if ON_THE_FLY not in spec:
        return None
    try:
        return OnTheFly.model_validate(spec[ON_THE_FLY])
    except ValidationError as error:
        raise InputError(
            f"what the model keeps of the images that it was trained on is damaged ({complaint(error)}); put back the "
            "file as it was written"
        ) from error


def images_of_record(spec: dict[str, Any]) -> PixelSpec | None:
    """How the images of a run were found that needed no cache, be it of pixels or encoded on the fly; None of others.

    Raises InputError for a record that is damaged.
    """
    if is_pixels(spec):
        return pixel_spec_of_record(spec)
    how = on_the_fly_of(spec)
    return None if how is None else how.images


def without_data_dir(spec: dict[str, Any]) -> dict[str, Any]:
    """A run's spec without the place of its images."""
    if is_pixels(spec):
        return spec | {"data_dir": None}
    how = on_the_fly_of(spec)
    if how is None:
        return spec
    images = how.images.model_copy(update={"data_dir": None})
    return spec | {ON_THE_FLY: how.model_copy(update={"images": images}).model_dump(mode="json")}
