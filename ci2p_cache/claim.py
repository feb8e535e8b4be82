"""Whose a folder is: a split is written by one spec, and the splits of a cache agree (promise C3)."""

from typing import Any

from pydantic import ValidationError

from ci2p_cache.bounds import complaint
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.manifest import read_manifest
from ci2p_cache.publish import publish
from ci2p_cache.remote_path import AnyPath, folders_in
from ci2p_cache.spec import OF_ONE_SPLIT, SPEC, CacheSpec, dump_spec, first_difference, read_spec
from ci2p_cache.views import whole_views

# Which option sets a field; a field that is not here is set by what was given to --dataset and --data-dir.
_OPTIONS = {
    "format_version": "the version of ci2p",
    "columns": "--image-column, --label-column and --key-column",
    "val_fraction": "--val-fraction",
    "image_size": "--image-size",
    "short_edge": "--short-edge",
    "resize_mode": "--resize-mode",
    "jpeg_decode": "--jpeg-decode",
    "weights_sha256": "--weights",
    "views": "--views and --crops",
    "crop_scale": "--crop-scale",
    "augment": "--augment",
    "format": "--format",
    "store": "--store",
    "step": "--step",
    "shard_size": "--shard-size",
    "record_images": "--record-images",
    "seed": "--seed",
}


def spec_of_settings(**fields: Any) -> CacheSpec:
    """Of the settings of a run. Raises InputError, naming the option, for one that is outside of its bounds."""
    try:
        return CacheSpec(**fields)
    except ValidationError as error:
        text = complaint(error)
        option = _OPTIONS.get(text.partition(" ")[0].rstrip(":"))
        raise InputError(f"{option}: {text}" if option else text) from error


def check_claim(cache: AnyPath, spec: CacheSpec) -> None:
    """Sees to it that a split may be written into a cache: it is of the spec that is there, if one is (promise C3).

    The other splits of the cache must agree in all but their items and crops. Raises InputError naming the first
    field that differs, both values and the way out.
    """
    for split_dir in [cache / name for name in folders_in(cache)]:
        theirs = _spec_of(split_dir)
        if theirs is None:
            continue
        if theirs.format_version != spec.format_version:
            raise InputError(
                f"{split_dir} is of format version {theirs.format_version}, which is read and no longer written; "
                f"give another --out, or bring it over with `ci2p convert {cache} TARGET`"
            )
        if split_dir.name == spec.split:
            field = first_difference(spec, theirs)
        else:
            field = first_difference(_without_crops(spec), _without_crops(theirs), ignoring=OF_ONE_SPLIT)
        if field is not None:
            raise InputError(
                f"{split_dir} holds another cache: {field} is {getattr(theirs, field)!r} there and "
                f"{getattr(spec, field)!r} in this run ({_OPTIONS.get(field, '--dataset and --data-dir')}); "
                "give another --out, or the same settings to continue it"
            )


def claim_folder(cache: AnyPath, spec: CacheSpec) -> None:
    """Writes the spec of a split into its folder, once it is known that it may. Raises InputError as `check_claim`."""
    check_claim(cache, spec)
    own = cache / spec.split / SPEC
    if not own.exists():
        publish(own, dump_spec(spec))


def _spec_of(split_dir: AnyPath) -> CacheSpec | None:
    """Of a finished split what its manifest says, for that is sealed; None where nothing says it."""
    try:
        return read_manifest(split_dir).spec
    except (FileNotFoundError, InputError, WorkError):
        return read_spec(split_dir / SPEC) if (split_dir / SPEC).exists() else None


def _without_crops(spec: CacheSpec) -> CacheSpec:
    return spec.model_copy(update={"views": whole_views(spec.views), "crop_scale": None, "augment": None})
