"""CacheSpec: everything that decides a stored value, and the fingerprint that two caches are compared by."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ci2p_cache.bounds import Finite, Name, Sha256, check_spec, complaint
from ci2p_cache.errors import InputError
from ci2p_cache.remote_path import AnyPath, read_whole

FORMAT_VERSION: Literal[2] = 2  # 1 is read, and `convert` brings it over
LATENT_CHANNELS = 192
# A tar spends a kilobyte on a file of its own; 64 images to one cost 2 % of that.
RECORD_IMAGES: dict[str, int | None] = {"zarr": None, "webdataset": 64}
ENCODER_STRIDE = 16
_ITEMS_AT_ONCE = 1 << 14
SPEC = "spec.json"
ON_THE_FLY = "on_the_fly"  # beside the fields of a spec that a run keeps: its latents were never in a cache


class CacheSpec(BaseModel):
    """What one split of a cache holds. Two caches with equal specs hold equal values.

    Device, precision and library versions are recorded in the manifest and are no part of this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1, 2] = FORMAT_VERSION
    dataset: Name
    split: Name
    # Of a table: the columns of images, of labels and, where one was named, of keys.
    columns: tuple[Name, ...] | None = None
    val_fraction: Finite | None = None  # of each class, held out for val; None where the data set has its own
    items_sha256: Sha256  # of keys and class names in the data set's order: see `hash_items`
    image_size: int  # pixels, a multiple of 32
    short_edge: int  # pixels, the short edge before the centre crop
    resize_mode: Literal["crop", "squash"]
    interpolation: Literal["bicubic"] = "bicubic"
    jpeg_decode: Literal["full", "scaled"] = "full"
    encoder: Name
    weights_sha256: Sha256  # of the analysis transform's tensors, whatever file they came in
    views: tuple[str, ...]  # by name, the plain one first: see `views.py`
    crop_scale: tuple[float, float] | None = None  # least and largest share of the area; None without crops
    augment: Literal["randaugment", "authors"] | None = None  # what crops go through besides
    format: Literal["zarr", "webdataset"]
    store: Literal["int", "rans", "float16"]  # rans: the values of int, coded more tightly
    step: float | None  # quantisation step of the integers; None for float16
    shard_size: int  # images a shard
    record_images: int | None = None  # images a record of a tar; None for zarr
    seed: int  # of the plan and the crops

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        check_spec(self)
        return self

    @property
    def latent_size(self) -> int:
        """Height and width of a latent: 16 at 256 pixels."""
        return self.image_size // ENCODER_STRIDE

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of one view."""
        return (LATENT_CHANNELS, self.latent_size, self.latent_size)

    @property
    def spec_id(self) -> str:
        """The fingerprint: 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return _hash_fields(self.model_dump(mode="json"))

    @property
    def values_id(self) -> str:
        """The same of `values_of` it: equal for a cache and what `convert` makes of it."""
        return _hash_fields(values_of(self.model_dump(mode="json")))

    @model_serializer(mode="wrap")
    def _serialise(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what came later, where it is not made use of: such a cache has the files and the fingerprint it
        had before."""
        fields: dict[str, Any] = serialise(self)
        if self.crop_scale is None:
            fields.pop("crop_scale", None)
        if self.augment is None:
            fields.pop("augment", None)
        if self.jpeg_decode == "full":
            fields.pop("jpeg_decode", None)
        if self.record_images is None:
            fields.pop("record_images", None)
        if self.columns is None:
            fields.pop("columns", None)
        if self.val_fraction is None:
            fields.pop("val_fraction", None)
        return fields


def record_size(format: str, wanted: int | None) -> int | None:
    """Images a record, None for a zarr; `wanted` is what was asked for. Raises InputError for records of a zarr."""
    if wanted is not None and RECORD_IMAGES[format] is None:
        raise InputError(
            f"--record-images {wanted}: a {format} has no records; give --format webdataset too, or neither"
        )
    return RECORD_IMAGES[format] if wanted is None else wanted


def values_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Of a spec's fields, as JSON types, those that say which values come in which order, however they lie on disk."""
    values = {name: value for name, value in fields.items() if name not in _OF_THE_FILES}
    return values | {"store": "int"} if values.get("store") == "rans" else values


def _hash_fields(fields: dict[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def hash_items(keys: Iterable[str], labels: Iterable[int], classes: Iterable[str]) -> str:
    """SHA-256 over the class names, then every key with its label, in order."""
    digest = hashlib.sha256()
    for name in classes:
        digest.update(f"{name}\n".encode())
    items = zip(keys, map(int, labels), strict=True)
    while lines := [f"{key}\t{label}\n" for key, label in itertools.islice(items, _ITEMS_AT_ONCE)]:
        digest.update("".join(lines).encode())
    return digest.hexdigest()


# What may differ between the splits of one cache.
OF_ONE_SPLIT = frozenset({"split", "items_sha256"})
# What says how values lie on disk.
_OF_THE_FILES = frozenset({"format", "record_images", "format_version"})
# What says which images and views are there and how they lie on disk, and leaves each latent as it is.
_OF_THE_LAYOUT = frozenset(
    {
        "dataset",
        "columns",
        "val_fraction",
        "format",
        "shard_size",
        "record_images",
        "seed",
        "views",
        "crop_scale",
        "augment",
        "format_version",
    }
)


def first_difference(ours: CacheSpec, theirs: CacheSpec, *, ignoring: frozenset[str] = frozenset()) -> str | None:
    """The name of the first field in which two specs differ, or None."""
    for field in CacheSpec.model_fields:
        if field not in ignoring and getattr(ours, field) != getattr(theirs, field):
            return field
    return None


def latent_difference(ours: CacheSpec, theirs: CacheSpec) -> str | None:
    """The first field in which two specs' latents differ in kind: encoder, preprocessing or rounding; or None."""
    return first_difference(_as_read(ours), _as_read(theirs), ignoring=OF_ONE_SPLIT | _OF_THE_LAYOUT)


def dump_spec(spec: CacheSpec) -> bytes:
    """What spec.json holds."""
    return spec.model_dump_json(indent=1).encode()


def _as_read(spec: CacheSpec) -> CacheSpec:
    """With the store that gives the same values: what is coded as rans is read as int."""
    return spec.model_copy(update={"store": "int"}) if spec.store == "rans" else spec


def read_spec(path: AnyPath) -> CacheSpec:
    """Raises InputError when the file is no spec that this version reads."""
    try:
        return CacheSpec.model_validate_json(read_whole(path))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); run the same `ci2p encode` again to restore it"
        ) from error
    except ValidationError as error:
        raise InputError(
            f"{path} is not a cache spec of this version of ci2p ({complaint(error)}); "
            "give another --out, or delete the folder"
        ) from error


def spec_of_record(fields: Mapping[str, Any]) -> CacheSpec:
    """The spec that a run or an exported model keeps of its data. Raises InputError when it is none."""
    try:
        return CacheSpec.model_validate({name: value for name, value in fields.items() if name != ON_THE_FLY})
    except ValidationError as error:
        raise InputError(
            f"what the model keeps of the cache that it was trained on is damaged ({complaint(error)}); put back the "
            "file as it was written"
        ) from error


def refuse_mixture(train: CacheSpec, val: CacheSpec) -> None:
    """Raises InputError unless two splits hold latents of one kind."""
    field = latent_difference(train, val)
    if field is not None:
        raise InputError(
            f"the two caches hold different latents: {field} is {getattr(train, field)!r} in one "
            f"({train.dataset}/{train.split}) and {getattr(val, field)!r} in the other ({val.dataset}/{val.split}); "
            "encode both with the same settings"
        )
