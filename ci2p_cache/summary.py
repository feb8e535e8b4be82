"""What is in a cache, in figures and in lines."""

from typing import Any

import numpy as np

from ci2p_cache.codecs import INT_LIMIT
from ci2p_cache.duplicates import Duplicates, describe_duplicates
from ci2p_cache.left_out import LeftOut, describe_left_out
from ci2p_cache.manifest import Manifest, read_manifest
from ci2p_cache.plan import num_shards
from ci2p_cache.printable import counted, printable
from ci2p_cache.remote_path import AnyPath, files_in
from ci2p_cache.spec import read_spec
from ci2p_cache.views import describe_views


def size_figures(manifest: Manifest) -> dict[str, float]:
    """bytes_per_view, bits_per_pixel and ratio_to_float16 of the shard files, their indexes and headers included."""
    bytes_per_view = manifest.bytes_total / max(1, manifest.num_views)
    channels, height, width = manifest.spec.latent_shape
    return {
        "bytes_per_view": bytes_per_view,
        "bits_per_pixel": 8 * bytes_per_view / manifest.spec.image_size**2,
        "ratio_to_float16": 2 * channels * height * width / max(1.0, bytes_per_view),
    }


def summarise_split(cache: AnyPath, split: str) -> dict[str, Any]:
    """The figures of one split, as JSON types; of an unfinished one its spec and how far it is.

    Raises WorkError when the manifest is damaged, and InputError when it is not of this version.
    """
    split_dir = cache / split
    path = split_dir / "manifest.json"
    spec = read_spec(split_dir / "spec.json")
    base = {"split": split, "finished": path.exists(), "spec_id": spec.spec_id, "spec": spec.model_dump(mode="json")}
    if not path.exists():
        return base | {"num_shards_done": sum(name.endswith(".json") for name in files_in(split_dir / "shards"))}
    manifest = read_manifest(split_dir)
    labels = manifest.labels.whole()
    images = np.bincount(labels[labels >= 0], minlength=len(manifest.classes)).tolist()
    return base | {
        "num_images": manifest.num_images,
        "num_views": manifest.num_views,
        "num_failed": manifest.num_failed,
        "num_shards": num_shards(manifest.num_items, spec.shard_size),
        "bytes_total": manifest.bytes_total,
        **size_figures(manifest),
        "value_range": list(manifest.value_range),
        "num_escapes": manifest.num_escapes,
        "classes": {name: images[label] for label, name in enumerate(manifest.classes)},
        "failures": [failure.model_dump() for failure in manifest.failures],
        "left_out": [entry.model_dump(mode="json") for entry in manifest.left_out],
        "duplicates": manifest.duplicates.model_dump(mode="json"),
        "recorded": manifest.recorded,
    }


def describe_split(summary: dict[str, Any]) -> list[str]:
    """A summary for people. Names in it may be anybody's: no line is broken by one."""
    return [printable(line) for line in _lines(summary)]


def _lines(summary: dict[str, Any]) -> list[str]:
    spec = summary["spec"]
    views = describe_views(spec["views"])
    if "crop_scale" in spec:
        low, high = spec["crop_scale"]
        augmented = f", {spec['augment']}" if "augment" in spec else ""
        views += f" ({100 * low:g} to {100 * high:g} % of the area{augmented})"
    stored = "float16" if spec["store"] == "float16" else f"integers, step {spec['step']:g}"
    if spec["store"] == "rans":
        stored += ", coded as rans"
    lines = [
        f"{summary['split']}: {spec['dataset']} at {spec['image_size']} px ({spec['resize_mode']} from a short edge of "
        f"{spec['short_edge']}), views {views}, {spec['format']}, {stored}, "
        f"spec {summary['spec_id']}",
        f"  encoder {spec['encoder']}, weights {spec['weights_sha256'][:16]}",
    ]
    if not summary["finished"]:
        return [*lines, f"  not finished: {counted(summary['num_shards_done'], 'shard')} done"]
    low, high = summary["value_range"]
    classes = list(summary["classes"].items())
    shown = ", ".join(f"{name} {count}" for name, count in classes[:10]) + (", ..." if len(classes) > 10 else "")
    lines += [
        f"  {counted(summary['num_images'], 'image')}, {counted(summary['num_views'], 'view')}, "
        f"{summary['num_failed']} failed, {counted(summary['num_shards'], 'shard')}, "
        f"{summary['bytes_total'] / 2**20:.1f} MiB",
        f"  {summary['bytes_per_view']:.0f} bytes a view, {summary['bits_per_pixel']:.3f} bits a pixel, "
        f"{summary['ratio_to_float16']:.1f} times smaller than float16; latents from {low:g} to {high:g}",
        f"  {counted(len(classes), 'class')}: {shown}",
    ]
    if spec.get("val_fraction"):
        lines.append(f"  {100 * spec['val_fraction']:g} % of each class were held out for val")
    if summary["left_out"]:
        lines.append(f"  {describe_left_out([LeftOut.model_validate(entry) for entry in summary['left_out']])}")
    duplicates = Duplicates.model_validate(summary["duplicates"])
    lines += [f"  {line}" for line in describe_duplicates(summary["split"], duplicates)]
    if summary["num_escapes"]:
        lines.append(f"  {summary['num_escapes']} integers beyond +-{INT_LIMIT}, kept in the markers")
    return lines + [f"  failed: {failure['key']}: {failure['reason']}" for failure in summary["failures"]]
