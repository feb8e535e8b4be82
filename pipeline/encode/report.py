"""What encoding did, or would do: lines for people, figures for --json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci2p_cache.duplicates import describe_duplicates
from ci2p_cache.printable import counted
from ci2p_cache.remote_path import AnyPath
from ci2p_cache.summary import size_figures
from ci2p_cache.views import describe_views
from pipeline.encode.datasets import ImageDataset
from pipeline.encode.estimate import Estimate
from pipeline.encode.split_writer import SplitReport


@dataclass(frozen=True)
class EncodeReport:
    """What one call did."""

    cache: AnyPath
    splits: list[SplitReport]

    def lines(self) -> list[str]:
        """For people: a line a split, and where the cache is."""
        lines = []
        for report in self.splits:
            lines.append(_line(report))
            if report.manifest is not None:
                lines += describe_duplicates(report.split, report.manifest.duplicates)
        return [*lines, f"cache: {self.cache}"]

    def measured(self) -> dict[str, dict[str, Any]]:
        """For --json: split -> what was measured; splits that other ranks still write are left out."""
        return {report.split: _measured(report, self.cache) for report in self.splits if report.manifest}


def merge_reports(reports: Sequence[EncodeReport]) -> EncodeReport:
    """What several processes did together."""
    merged = []
    for of_split in zip(*(report.splits for report in reports), strict=True):
        manifest = next((report.manifest for report in of_split if report.manifest is not None), None)
        num_encoded, seconds = sum(r.num_encoded for r in of_split), max(r.seconds for r in of_split)
        merged.append(SplitReport(of_split[0].split, manifest, num_encoded, seconds))
    return EncodeReport(reports[0].cache, merged)


@dataclass(frozen=True)
class EncodePlan:
    """What a call would do, estimated from a few images."""

    cache: AnyPath
    opened: ImageDataset
    estimates: dict[str, Estimate]

    def lines(self) -> list[str]:
        """For people; what was recognised is said before."""
        return [
            *(f"{split}: {estimate}" for split, estimate in self.estimates.items()),
            f"nothing was written; without --dry-run the cache would be {self.cache}",
        ]

    def measured(self) -> dict[str, dict[str, Any]]:
        """For --json: split -> what would be encoded."""
        return {
            split: {
                "num_images": len(self.opened[split].keys),
                "classes": list(self.opened[split].classes),
                "left_out": [entry.model_dump(mode="json") for entry in self.opened.left_out_of(split)],
                "num_views": estimate.num_views,
                "bytes_total": estimate.num_bytes,
                "minutes": estimate.minutes,
            }
            for split, estimate in self.estimates.items()
        }


def _line(report: SplitReport) -> str:
    if report.manifest is None:
        wrote = counted(report.num_encoded, "image")
        return f"{report.split}: this process wrote its {wrote}; other processes still write"
    measured = _measured(report, Path())
    images = counted(measured["num_images"], "image")
    views = describe_views(report.manifest.spec.views)
    rate = f", {report.images_per_s:.1f} images/s" if report.num_encoded else ", nothing left to do"
    return (
        f"{report.split}: {images}, {counted(measured['num_views'], 'view')} ({views}), "
        f"{measured['num_failed']} failed; {measured['bytes_per_view']:.0f} bytes a view, "
        f"{measured['bits_per_pixel']:.3f} bits a pixel, {measured['ratio_to_float16']:.1f} times smaller than float16"
        f"{rate} ({report.seconds:.0f} s)"
    )


def _measured(report: SplitReport, cache: AnyPath) -> dict[str, Any]:
    manifest = report.manifest
    assert manifest is not None
    spec = manifest.spec
    return {
        "num_images": manifest.num_images,
        "num_views": manifest.num_views,
        "num_failed": manifest.num_failed,
        "bytes_total": manifest.bytes_total,
        **size_figures(manifest),
        "left_out": [entry.model_dump(mode="json") for entry in manifest.left_out],
        "duplicates": manifest.duplicates.model_dump(mode="json"),
        "num_encoded": report.num_encoded,
        "images_per_s": report.images_per_s,
        "seconds": report.seconds,
        "spec_id": spec.spec_id,
        "out": str(cache),
    }
