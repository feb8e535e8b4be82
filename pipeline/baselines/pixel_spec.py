"""How the images of a pixel run were found and prepared."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from ci2p_cache.bounds import complaint
from ci2p_cache.errors import InputError
from pipeline.encode.augmentation import Augment
from pipeline.encode.crops import NO_CROPS, Crops, random_crops
from pipeline.encode.preprocess import Preprocessing, ResizeMode

ShownCrops = Literal["none", "fresh"]


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
    crops: Literal["fresh"] | None = None  # of each training image one, another every epoch, in place of the plain view
    crop_scale: tuple[float, float] | None = None  # least and largest share of the area; None without crops
    augment: Literal["randaugment", "authors"] | None = None  # what the crops go through besides

    @model_serializer(mode="wrap")
    def _serialise(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later, where it is not made use of: the fingerprint of a run stays what it was."""
        fields: dict[str, Any] = serialise(self)
        for name in ("columns", "crops", "crop_scale", "augment"):
            if fields.get(name) is None:
                fields.pop(name, None)
        return fields

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.image_size, self.short_edge, self.resize_mode)

    def crops_of_run(self, seed: int) -> Crops:
        """The crops of a run with this seed: the number of an epoch is that of its crop. NO_CROPS where there are none.

        Raises InputError as `random_crops` does.
        """
        if self.crops is None:
            return NO_CROPS
        return random_crops(1, self.crop_scale, seed, self.augment or "none")


def pixel_spec_of_record(fields: Mapping[str, Any]) -> PixelSpec:
    """The spec that a run keeps of its images. Raises InputError when it is none."""
    try:
        return PixelSpec.model_validate(fields)
    except ValidationError as error:
        raise InputError(
            f"what the model keeps of the images that it was trained on is damaged ({complaint(error)}); put back the "
            "file as it was written"
        ) from error


def fresh_crops(
    crops: ShownCrops, scale: tuple[float, float] | None, augment: Augment, resident: str
) -> dict[str, Any]:
    """The fields of a `PixelSpec` for --crops, --crop-scale and --augment. Raises InputError for what cannot be."""
    checked = random_crops(int(crops == "fresh"), scale, 0, augment, option="--crops fresh")
    if crops == "none":
        return {}
    if resident == "cpu":
        raise InputError(
            "--resident cpu and --crops fresh: fresh crops are cut from the image files, every epoch anew; use "
            "--resident auto, which keeps val in memory, or off"
        )
    return {"crops": crops, "crop_scale": checked.scale, "augment": None if augment == "none" else augment}


def is_pixels(spec: dict[str, Any]) -> bool:
    """Whether a run's spec is a `PixelSpec` and not a cache's."""
    return spec.get("kind") == "pixels"
