"""What can be said of a split of format version 1, whose manifest seals its shards alone: whether its files agree."""

import io
import json
import tarfile

from ci2p_cache.errors import InputError
from ci2p_cache.manifest import Manifest
from ci2p_cache.marker import Marker, marker_file
from ci2p_cache.remote_path import AnyPath, read_whole
from ci2p_cache.seals import FileSeal, Seals
from ci2p_cache.spec import SPEC, hash_items, read_spec
from ci2p_cache.zarr_store import GROUP


def seals_of_shards(manifest: Manifest) -> Seals:
    return {record.file: FileSeal(record.sha256, record.bytes) for record in manifest.shards}


def disagreements(split_dir: AnyPath, manifest: Manifest, markers: list[Marker]) -> list[str]:
    """A line for each thing in which a split and its manifest differ; its shards are known to be whole."""
    problems = []
    try:
        if read_spec(split_dir / SPEC) != manifest.spec:
            problems.append(f"{split_dir.name}/{SPEC}: another spec than in the manifest")
    except InputError as error:
        problems.append(str(error))
    if manifest.spec.format == "zarr":
        problems += _zarr_disagreements(split_dir, manifest)
    else:
        for marker in markers:
            if not _has_index_of(split_dir / marker.record.file, marker):
                problems.append(f"{split_dir.name}/{marker_file(marker.shard)}: other images than in its tar")
    if not manifest.num_failed and len(markers) == len(manifest.shards):  # the label of a failed image is not known
        labels = {key: label for marker in markers for key, label in zip(marker.keys, marker.labels, strict=True)}
        if hash_items(sorted(labels), map(labels.__getitem__, sorted(labels)), manifest.classes) != (
            manifest.spec.items_sha256
        ):
            problems.append(f"{split_dir.name}: other keys, labels or classes than were encoded (items_sha256)")
    return problems


def _zarr_disagreements(split_dir: AnyPath, manifest: Manifest) -> list[str]:
    problems = []
    for name in ("zarr.json", "latents/zarr.json", "labels/zarr.json"):
        try:
            json.loads((split_dir / GROUP / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            problems.append(f"{split_dir.name}/{GROUP}/{name}: missing or damaged")
    if _labels_of(split_dir) != manifest.labels.whole().astype("<i4").tobytes():
        problems.append(f"{split_dir.name}/{GROUP}/labels: other labels than in the manifest")
    return problems


def _labels_of(split_dir: AnyPath) -> bytes:
    try:
        return read_whole(split_dir / GROUP / "labels" / "c" / "0")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return b""


def _has_index_of(path: AnyPath, marker: Marker) -> bool:
    """Whether keys, labels and places of the views in a marker are those that the tar itself has."""
    images = [
        (key, label, offsets, sizes)
        for key, label, offsets, sizes in zip(
            marker.keys, marker.labels, marker.view_offsets or [], marker.view_bytes or [], strict=True
        )
        if label >= 0
    ]
    with tarfile.open(fileobj=io.BytesIO(read_whole(path))) as tar:
        for member in tar:
            if member.name.endswith(".json"):
                file = tar.extractfile(member)
                assert file is not None
                listed = json.load(file)
                record, images = images[: len(listed["keys"])], images[len(listed["keys"]) :]
                if [list(image[:2]) for image in record] != [
                    list(both) for both in zip(listed["keys"], listed["labels"], strict=True)
                ]:
                    return False
            elif member.name.endswith(".latents"):
                begin = member.offset_data
                for _, _, offsets, sizes in record:
                    for offset, size in zip(offsets, sizes, strict=True):
                        if offset != begin:
                            return False
                        begin += size
                if begin != member.offset_data + member.size:
                    return False
    return not images
