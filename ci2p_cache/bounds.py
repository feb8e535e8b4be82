"""What the files of a cache may say: the one place where spec, markers and manifest are held against themselves and
each other, for they may come from anybody. What has passed here is relied upon everywhere else.

The functions raise ValueError "FIELD is VALUE: what it has to be"; `complaint` makes a line of it.
"""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from ci2p_cache.codecs import ESCAPED_LIMIT, INT_LIMIT
from ci2p_cache.plan import num_shards, shard_positions
from ci2p_cache.printable import counted
from ci2p_cache.views import MIRROR, num_crops, view_names

if TYPE_CHECKING:
    from ci2p_cache.manifest import Manifest
    from ci2p_cache.marker import Marker
    from ci2p_cache.spec import CacheSpec

LARGEST_IMAGE = 2**14  # pixels a side: a view of it is 200 MB
MOST_SHARD_IMAGES = 2**24
MOST_CLASSES = 2**17
_MOST_VIEWS = 2**12
_SHOWN = 60  # characters of a value

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ShardId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Count = Annotated[int, Field(ge=0, lt=2**62)]
Name = Annotated[str, Field(max_length=4096)]
Label = Annotated[int, Field(ge=-1, lt=MOST_CLASSES)]  # negative where the image failed
Classes = Annotated[list[str], Field(max_length=MOST_CLASSES)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

SHARD_FILES = {"zarr": "latents.zarr/latents/c/{}/0/0/0/0", "webdataset": "{:06d}.tar"}  # by number, below the split
_SHARD_FILE = re.compile(r"latents\.zarr/latents/c/(0|[1-9][0-9]{0,8})/0/0/0/0|([0-9]{6,9})\.tar")
_IMAGE_HASH = re.compile("([0-9a-f]{32})?")


def is_plain_name(path: str) -> bool:
    """Whether a relative path stays in the folder that it is relative to, on any system."""
    parts = path.split("/")
    return 0 < len(path) <= 1024 and "\0" not in path and "\\" not in path and not {"", ".", ".."} & {*parts}


def complaint(error: ValidationError) -> str:
    """The first field that is wrong, its value and what it has to be, in one line."""
    first = error.errors(include_url=False)[0]
    text, value = first["msg"].removeprefix("Value error, "), first["input"]
    name = ".".join(map(str, first["loc"]))
    if isinstance(value, dict | list | tuple | bytes) or not isinstance(value, str | int | float | None):
        return f"{name}: {text}" if name else text
    return f"{name} is {_shown(value)}: {text}" if name else text


def check_spec(spec: "CacheSpec") -> None:
    """Sees to what no field says by itself. Raises ValueError."""
    if not is_plain_name(spec.split) or "/" in spec.split:
        _refuse("split", spec.split, "it is the name of a folder")
    if not 32 <= spec.image_size <= LARGEST_IMAGE or spec.image_size % 32:
        _refuse("image_size", spec.image_size, f"a multiple of 32, {LARGEST_IMAGE} at most")
    if not spec.image_size <= spec.short_edge <= 2**20:
        _refuse("short_edge", spec.short_edge, f"image_size, {spec.image_size}, or more")
    if spec.columns is not None and len(spec.columns) not in (2, 3):
        _refuse("columns", ",".join(spec.columns), "those of images, of labels and at most of keys")
    if spec.val_fraction is not None and not 0 < spec.val_fraction < 1:
        _refuse("val_fraction", spec.val_fraction, "a share between 0 and 1")
    if not 0 < len(spec.views) <= _MOST_VIEWS or not _are_views(spec.views):
        _refuse("views", ",".join(spec.views), f"plain, mirror, crop0, crop0-mirror, ..., {_MOST_VIEWS} at most")
    if spec.crop_scale is not None and not 0 < spec.crop_scale[0] <= spec.crop_scale[1] <= 1:
        _refuse("crop_scale", spec.crop_scale, "0 < LOW <= HIGH <= 1")
    if spec.augment is not None and spec.crop_scale is None:
        _refuse("augment", spec.augment, "it is of crops, and there are none")
    if spec.store == "float16":
        if spec.step is not None:
            _refuse("step", spec.step, "the float16 store has none")
    elif spec.step is None or not math.isfinite(spec.step) or spec.step <= 0:
        _refuse("step", spec.step, f"the {spec.store} store needs a positive one")
    if not 1 <= spec.shard_size <= MOST_SHARD_IMAGES:
        _refuse("shard_size", spec.shard_size, f"1 to {MOST_SHARD_IMAGES} images")
    if (spec.record_images is None) != (spec.format == "zarr") or not 0 < (spec.record_images or 1) <= 2**20:
        _refuse("record_images", spec.record_images, "a number of images for webdataset, none for zarr")
    if not abs(spec.seed) < 2**63:
        _refuse("seed", spec.seed, "it has 64 bits")


def check_marker(marker: "Marker") -> None:
    """Holds a marker against itself. Raises ValueError."""
    num, record = len(marker.keys), marker.record
    _check_shard_file(record.file, marker.shard)
    for name in ("labels", "view_offsets", "view_bytes", "view_crc32c", "image_bytes", "image_hashes", "modified_ns"):
        listed = getattr(marker, name)
        if listed is not None and len(listed) != num:
            raise ValueError(f"{name} has {len(listed)} entries and keys has {num}")
    if len({*marker.keys}) != num:
        raise ValueError("keys has an image twice")
    stored = np.array(marker.labels, dtype=np.int64) >= 0
    if record.num_samples != np.count_nonzero(stored):
        _refuse("record.num_samples", record.num_samples, f"{np.count_nonzero(stored)} labels are of stored images")
    failed = sorted(key for key, is_stored in zip(marker.keys, stored.tolist(), strict=True) if not is_stored)
    if sorted(failure.key for failure in marker.failures) != failed:
        raise ValueError("failures has other images than those without a label")
    _check_range(marker.value_range)
    if (marker.view_offsets is None) != (marker.view_bytes is None):
        raise ValueError("view_offsets and view_bytes go together")
    if marker.view_offsets is not None and marker.view_bytes is not None:
        _check_views(marker.view_offsets, marker.view_bytes, stored, record.bytes)
        for place, sums in enumerate(marker.view_crc32c or ()):
            if len(sums) != len(marker.view_bytes[place]) or any(not 0 <= each < 2**32 for each in sums):
                raise ValueError(f"view_crc32c.{place} is not a number of 32 bits for each view")
    if any(not _IMAGE_HASH.fullmatch(each) for each in marker.image_hashes or ()):
        raise ValueError("image_hashes has an entry that is no hash of 32 hexadecimal digits")
    escapes = marker.escapes or []
    if record.num_escapes != len(escapes):
        _refuse("record.num_escapes", record.num_escapes, f"escapes has {len(escapes)} entries")
    for place, view, index, integer in escapes:
        within = 0 <= place < num and 0 <= view < _MOST_VIEWS and 0 <= index < 2**40
        if not within or not stored[place] or not INT_LIMIT < abs(integer) <= ESCAPED_LIMIT:
            raise ValueError(f"escapes has {_shown((place, view, index, integer))}, which no stored image has")


def check_marker_of(marker: "Marker", spec: "CacheSpec", num_items: int, num_classes: int) -> None:
    """Holds a marker, whose number is right, against the split that it belongs to. Raises ValueError."""
    planned, num_views = len(shard_positions(marker.shard, num_items, spec.shard_size)), len(spec.views)
    if marker.spec_id != spec.spec_id:
        _refuse("spec_id", marker.spec_id, f"the split's is {spec.spec_id}")
    if len(marker.keys) != planned:
        raise ValueError(f"keys has {len(marker.keys)} entries, and the shard holds {counted(planned, 'image')}")
    if max(marker.labels, default=-1) >= num_classes:
        _refuse("labels", max(marker.labels), f"of {counted(num_classes, 'class')}")
    if marker.record.file != SHARD_FILES[spec.format].format(marker.shard):
        _refuse("record.file", marker.record.file, f"the split is of format {spec.format}")
    if (marker.view_bytes is None) != (spec.format == "zarr"):
        raise ValueError("view_offsets and view_bytes are there in a webdataset cache, and in no other")
    if any(row and len(row) != num_views for row in marker.view_bytes or ()):
        raise ValueError(f"view_bytes has an image without {counted(num_views, 'view')}")
    view_values = math.prod(spec.latent_shape)
    if marker.escapes and spec.store == "float16":
        raise ValueError("escapes are of stores of integers, and the split's is float16")
    for escape in marker.escapes or ():
        if escape[1] >= num_views or escape[2] >= view_values:
            raise ValueError(
                f"escapes has {_shown(escape)}, and an image has {counted(num_views, 'view')} of {view_values}"
            )


def check_manifest(manifest: "Manifest") -> None:
    """Holds a manifest against itself. Raises ValueError."""
    spec, num_items = manifest.spec, manifest.num_items
    if manifest.spec_id != spec.spec_id:
        _refuse("spec_id", manifest.spec_id, f"that of its spec is {spec.spec_id}")
    if len(manifest.labels) != num_items:
        raise ValueError(f"labels has {len(manifest.labels)} entries for {num_items} items")
    table = manifest.shards
    if len(table) != num_shards(num_items, spec.shard_size):
        raise ValueError(f"shards has {len(table)} entries for {num_items} items, {spec.shard_size} each")
    for name in ("num_samples", "bytes", "num_escapes", "marker_bytes"):
        outside = (table.column(name) < 0) | (table.column(name) >= 2**62 // max(1, len(table)))
        if outside.any():
            number = int(np.flatnonzero(outside)[0])
            _refuse(f"shards.{number}.{name}", int(table.column(name)[number]), "0 or more, and not that much")
    if not table.has_markers:  # the labels were listed here; otherwise each shard's are looked at when they are read
        for number in range(len(table)):
            wrong = manifest.labels.complaint(number)
            if wrong is not None:
                raise ValueError(f"labels {wrong}")
    stored = int(table.column("num_samples").sum())
    for name, expected in {
        "num_images": stored,
        "num_views": stored * len(spec.views),
        "num_failed": num_items - stored,
        "bytes_total": int(table.column("bytes").sum()),
    }.items():
        if getattr(manifest, name) != expected:
            _refuse(name, getattr(manifest, name), f"the rest of the manifest makes it {expected}")
    if len(manifest.failures) != num_items - stored:
        raise ValueError(f"failures has {len(manifest.failures)} entries for {num_items - stored} failed items")
    for name in manifest.files or ():
        if not is_plain_name(name):
            raise ValueError(f"files has {_shown(name)}, which is no file of the split")
    _check_range(manifest.value_range)


def _check_shard_file(file: str, shard: int) -> None:
    found = _SHARD_FILE.fullmatch(file)
    if found is None or int(found[1] or found[2]) != shard:
        _refuse("record.file", file, f"no name of shard {shard}")


def _check_views(
    offsets: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]], stored: NDArray[np.bool_], num_bytes: int
) -> None:
    """Every view lies in its shard's file, behind the one before it."""
    end = 0
    for place, (begins, lengths) in enumerate(zip(offsets, sizes, strict=True)):
        if len(begins) != len(lengths) or bool(begins) != bool(stored[place]):
            raise ValueError(
                f"view_offsets.{place} has {counted(len(begins), 'view')} and view_bytes.{place} {len(lengths)}"
            )
        for begin, length in zip(begins, lengths, strict=True):
            if begin < end or length < 0 or begin + length > num_bytes:
                where = f"a file of {num_bytes} bytes, behind {end}"
                raise ValueError(
                    f"view_offsets.{place} has {_shown(begin)}, and {_shown(length)} bytes: not in {where}"
                )
            end = begin + length


def _check_range(value_range: tuple[float, float]) -> None:
    if not value_range[0] <= value_range[1]:
        _refuse("value_range", value_range, "least and largest")


def _are_views(views: Sequence[str]) -> bool:
    if views[0] != "plain":
        return False
    return tuple(views) == view_names("flip" if MIRROR in views else "plain", num_crops(views))


def _refuse(field: str, value: Any, expected: str) -> None:
    raise ValueError(f"{field} is {_shown(value)}: {expected}")


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, int | float) and abs(value) < 2**64 else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
