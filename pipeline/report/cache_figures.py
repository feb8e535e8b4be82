"""What a page says of the cache that a run was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass

from ci2p_cache.cache import Cache
from ci2p_cache.codecs import INT_LIMIT
from ci2p_cache.duplicates import describe_duplicates
from ci2p_cache.left_out import describe_left_out
from ci2p_cache.printable import printable
from ci2p_cache.spec import CacheSpec
from ci2p_cache.summary import size_figures
from ci2p_cache.views import describe_views

_FAILURES_SHOWN = 5


@dataclass(frozen=True)
class SplitFigures:
    """One split of a cache."""

    split: str
    num_images: int
    num_views: int
    views: str
    bytes_total: int
    bytes_per_view: float
    bits_per_pixel: float
    ratio_to_float16: float
    num_escapes: int
    num_failed: int
    notes: tuple[str, ...]
    """What was left out, could not be used, or is there twice."""


@dataclass(frozen=True)
class CacheFigures:
    """A cache with its splits."""

    facts: Mapping[str, str]
    splits: tuple[SplitFigures, ...]


def figures_of(caches: list[Cache]) -> CacheFigures:
    """Of opened splits of one cache."""
    return CacheFigures(_facts(caches[0].spec), tuple(map(_split_figures, caches)))


def _facts(spec: CacheSpec) -> dict[str, str]:
    stored = "float16" if spec.step is None else f"{spec.store}, step {spec.step:g}"
    return {
        "Images": f"{spec.image_size} px, {spec.resize_mode} from a short edge of {spec.short_edge}",
        "Latents": f"{' × '.join(map(str, spec.latent_shape))}, {stored}, {spec.format}",
        "Encoder": f"{printable(spec.encoder)}, weights {spec.weights_sha256[:12]}",
        "Data set": printable(spec.dataset),
        "Spec": spec.spec_id,
    }


def _split_figures(cache: Cache) -> SplitFigures:
    manifest = cache.manifest
    sizes = size_figures(manifest)
    notes = [describe_left_out(manifest.left_out)] if manifest.left_out else []
    notes += describe_duplicates(cache.split, manifest.duplicates)
    notes += [f"failed: {failure.key}: {failure.reason}" for failure in manifest.failures[:_FAILURES_SHOWN]]
    if manifest.num_escapes:
        notes.append(f"{manifest.num_escapes:,} integers beyond ±{INT_LIMIT} are kept in the markers")
    return SplitFigures(
        split=cache.split,
        num_images=manifest.num_images,
        num_views=manifest.num_views,
        views=describe_views(cache.spec.views),
        bytes_total=manifest.bytes_total,
        bytes_per_view=sizes["bytes_per_view"],
        bits_per_pixel=sizes["bits_per_pixel"],
        ratio_to_float16=sizes["ratio_to_float16"],
        num_escapes=manifest.num_escapes,
        num_failed=manifest.num_failed,
        notes=tuple(map(printable, notes)),
    )
