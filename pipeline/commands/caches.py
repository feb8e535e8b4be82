"""`ci2p inspect`, `ci2p verify` and `ci2p convert`: what can be done with a cache besides training."""

from pathlib import Path
from typing import Any

import click

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted
from pipeline.commands import completion
from pipeline.commands.command import Command
from pipeline.commands.local_path import CachePath, LocalPath
from pipeline.commands.options import (
    STORES,
    device_option,
    json_option,
    on_error_option,
    record_images_option,
    weights_option,
)
from pipeline.commands.output import report


@click.command(cls=Command, short_help="What is in a cache or a run.")
@click.argument("cache", metavar="CACHE|RUN", type=CachePath(), shell_complete=completion.caches_and_runs)
@click.option("--images", "grid", type=LocalPath(), metavar="PNG", help="Draw decoded latents into it.")
@click.option("--split", default="val", show_default=True, metavar="NAME", help="Which part to draw --images of.")
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="How many to draw of --images.")
@click.option("--data-dir", metavar="DIR", help="The originals: prints PSNR of the --images against them.")
@weights_option
@device_option
@on_error_option
@json_option
def inspect(
    cache: Any,
    grid: Path | None,
    split: str,
    count: int,
    data_dir: str | None,
    weights: str,
    device: str,
    on_error: Any,
    json_file: str | None,
) -> None:
    """What is in a cache: spec, classes, counts, bytes per view, bits per pixel, value range; how it looks.

    Of a run instead: its model, recipe and cache, how far it came, and whether its files are whole.
    """
    if isinstance(cache, Path) and (cache / "config.json").is_file():
        from pipeline.train.describe_run import describe_run, summarise_run

        if grid is not None:
            raise InputError(f"--images draws what is in a cache, and {cache} is a run")
        summary = summarise_run(cache)
        report(json_file, describe_run(summary), summary)
        return
    if not isinstance(cache, Path) and (cache / "config.json").exists():
        raise InputError(f"{cache} is a run, and a run is looked at on a file system; copy it to a folder")
    from ci2p_cache.summary import describe_split, summarise_split
    from ci2p_cache.verify import find_splits

    if data_dir and grid is None:
        raise InputError("--data-dir is for comparing pictures with; give --images FILE.png too")
    summaries = {name: summarise_split(cache, name) for name in find_splits(cache)}
    lines = [line for summary in summaries.values() for line in describe_split(summary)]
    if grid is not None:
        from pipeline.encode.gallery import draw_gallery

        gallery = draw_gallery(
            cache, split, grid, count=count, weights=weights, data_dir=data_dir, device=device, on_error=on_error
        )
        lines += gallery.lines()
        if gallery.psnr:
            summaries[split] |= {"psnr": gallery.psnr}
    report(json_file, lines, summaries)


@click.command(cls=Command, short_help="Hold a cache against its hashes.")
@click.argument("cache", type=CachePath(), shell_complete=completion.caches)
@click.option("--data-dir", metavar="DIR", help="Hold every image against it: what has changed, gone or come since.")
@json_option
def verify(cache: Any, data_dir: str | None, json_file: str | None) -> None:
    """Recount and rehash a cache; exit status 1 and a list when anything is missing, truncated or changed."""
    from ci2p_cache.errors import WorkError
    from ci2p_cache.verify import find_splits, verify_split

    problems = {split: verify_split(cache, split) for split in find_splits(cache)}
    sound = "every file is as it was written"
    if data_dir is not None:
        from pipeline.encode.source_check import check_source

        sound += f", and made from what {data_dir} holds"
        for split, found in problems.items():
            found += check_source(cache, split, data_dir)
    lines = [line for split, found in problems.items() for line in found or [f"{split}: {sound}"]]
    report(json_file, lines, problems)
    count = sum(map(len, problems.values()))
    if count:
        raise WorkError(f"{cache} has {counted(count, 'problem')}, listed above")


@click.command(cls=Command, short_help="A cache in another format or store.")
@click.argument("source", type=CachePath(), shell_complete=completion.caches)
@click.argument("target", type=CachePath())
@click.option("--format", "target_format", type=click.Choice(["zarr", "webdataset"]), help="Default: SOURCE's.")
@click.option("--store", type=STORES, help="Default: SOURCE's. int and rans hold the same values.")
@record_images_option
@json_option
def convert(
    source: Any, target: Any, target_format: Any, store: Any, record_images: int | None, json_file: str | None
) -> None:
    """The same samples and values in another format or store; run it again to continue.

    Without --format, --store and --record-images, a cache of an older format version is brought over to today's.
    """
    from ci2p_cache.convert import convert_split, is_outdated
    from ci2p_cache.summary import size_figures
    from ci2p_cache.verify import find_splits

    splits = find_splits(source)
    unchanged = not target_format and not store and record_images is None
    if unchanged and not any(is_outdated(source / split) for split in splits):
        raise InputError("convert to what? give --format, --store or --record-images")
    measured = {}
    lines = []
    for split in splits:
        manifest = convert_split(source, target, split, target_format, store, record_images)
        measured[split] = {"num_images": manifest.num_images, "num_views": manifest.num_views, **size_figures(manifest)}
        size = measured[split]["bytes_per_view"]
        images, views = counted(manifest.num_images, "image"), counted(manifest.num_views, "view")
        lines.append(f"{split}: {images}, {views}, {size:.0f} bytes a view")
    report(json_file, lines, measured)
