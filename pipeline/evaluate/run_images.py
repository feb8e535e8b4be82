"""Which raw images a run is measured on, by what the run or its cache knows of them (promise C7)."""

from pathlib import Path

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError
from ci2p_cache.known_images import HeldOut, KnownImages, held_out_of, known_images
from ci2p_cache.spec import spec_of_record
from pipeline.baselines.on_the_fly_record import images_of_record
from pipeline.baselines.pixel_spec import PixelSpec
from pipeline.baselines.pixels import open_pixel_data
from pipeline.evaluate.held_out import ChosenImages, choose_images
from pipeline.evaluate.images import open_images
from pipeline.train.data_place import find_data
from pipeline.train.run_folder import DataRecord, RunConfig, read_known_images


def images_of_run(run: Path, config: RunConfig, images: str) -> ChosenImages:
    """The images of a folder that a run's validation split holds, or all where it holds none of them."""
    return images_of_split(run, config.data, images, "val", None)


def images_of_split(run: Path, data: DataRecord, images: str | None, split: str, shards: str | None) -> ChosenImages:
    """What is measured of a folder of images: see `held_out`."""
    spec = data.spec
    own = images_of_record(spec)
    if own is not None:
        columns: tuple[str, ...] | None = own.columns
        dataset, seed, val_fraction, folder = (
            own.dataset,
            own.data_seed,
            own.val_fraction,
            images or _pixel_folder(run, data, own),
        )
    else:
        of_cache = spec_of_record(spec)
        columns = of_cache.columns
        dataset, seed, val_fraction, folder = of_cache.dataset, of_cache.seed, of_cache.val_fraction, images
    is_held_out = val_fraction is not None
    pool = open_images(
        folder,
        split,
        dataset=dataset,
        is_held_out=is_held_out,
        seed=seed,
        columns=columns,
        classes=data.classes,
    )
    known, wanted = _known_images(run, data, split, shards)
    return choose_images(pool, folder or dataset, split, known, wanted, data.classes)


def _known_images(run: Path, data: DataRecord, split: str, shards: str | None) -> tuple[KnownImages, HeldOut]:
    """What a run was trained on, and the images of a split: by the run itself, or by the cache that it was made from.

    Raises InputError where neither is there to ask.
    """
    known = None if shards else read_known_images(run)
    if known is not None and split == "val":
        return known, known.held_out
    own = None if shards else images_of_record(data.spec)
    if own is not None:
        if split != "val":
            raise InputError(
                f"--split {split}: {run} was trained without a cache and knows its images of val alone; "
                "give --split val"
            )
        # Of an older ci2p: it kept how val was drawn, not what it is.
        known = open_pixel_data(
            own.dataset,
            _pixel_folder(run, data, own),
            workers=0,
            val_fraction=own.val_fraction,
            data_seed=own.data_seed,
        ).known_images()
        return known, known.held_out
    path = shards or find_data(data, run)
    try:
        if known is None:
            known = known_images(open_cache(path, "train"), open_cache(path, "val"))
        return known, known.held_out if split == "val" else held_out_of(open_cache(path, split), known.by)
    except InputError as error:
        raise InputError(
            f"--images: which images were held out is known by the cache {path}, and it cannot be asked ({error}); "
            "give it as --shards CACHE"
        ) from error


def _pixel_folder(run: Path, data: DataRecord, own: PixelSpec) -> str | None:
    """Where a baseline's images are; what was no folder then (a pattern, a name of Hugging Face's) is as it was."""
    return find_data(data, run, "--images DIR") if data.absolute_path else own.data_dir
