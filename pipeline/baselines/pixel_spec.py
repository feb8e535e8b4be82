"""How the images of a pixel run were found and prepared."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from ci2p_cache.bounds import complaint
from ci2p_cache.errors import InputError
from pipeline.encode.preprocess import Preprocessing, ResizeMode


class PixelSpec(BaseModel):
    """How a run's images were found and prepared: what evaluation needs to do alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pixels"] = "pixels"
    dataset: str
    data_dir: str | None
    columns: tuple[str, ...] | None = None  # of a table, as `CacheSpec.columns`
    val_fraction: float | None
    data_seed: int
    image_size: int
    short_edge: int
    resize_mode: ResizeMode

    @model_serializer(mode="wrap")
    def _serialise(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later, where it is not made use of: the fingerprint of a run stays what it was."""
        fields: dict[str, Any] = serialise(self)
        if self.columns is None:
            fields.pop("columns", None)
        return fields

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.image_size, self.short_edge, self.resize_mode)


def pixel_spec_of_record(fields: Mapping[str, Any]) -> PixelSpec:
    """The spec that a run keeps of its images. Raises InputError when it is none."""
    try:
        return PixelSpec.model_validate(fields)
    except ValidationError as error:
        raise InputError(
            f"what the model keeps of the images that it was trained on is damaged ({complaint(error)}); put back the "
            "file as it was written"
        ) from error


def is_pixels(spec: dict[str, Any]) -> bool:
    """Whether a run's spec is a `PixelSpec` and not a cache's."""
    return spec.get("kind") == "pixels"
