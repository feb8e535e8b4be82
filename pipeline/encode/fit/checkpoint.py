"""A codec's training at one step: everything that a killed run needs to go on as if it had never stopped."""

import dataclasses
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.packed_strings import PackedStrings
from pipeline.checkpoint_file import read_checkpoint, write_checkpoint
from pipeline.encode.fit.images import pack_names, unpack_names
from pipeline.encode.fit.settings import FitSettings

FORMAT_VERSION = 2
_HASHED_NAMES = 1  # the version that kept a hash of the training images' names instead of all names
_NAMES_HASH = "data-dir images"


@dataclass(frozen=True)
class FitCheckpoint:
    """`source` says what decides the weights beside the settings and the images, such as the weights begun with."""

    settings: FitSettings
    source: dict[str, str]
    names: PackedStrings  # of all images of --data-dir, as the first run found them
    failures: dict[str, str]  # name of each image that was left out, and why
    step: int  # steps done
    seconds: float  # spent on them
    codec: dict[str, Any]
    optimizer: dict[str, Any]
    auxiliary: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: FitCheckpoint) -> None:
    """Publishes a checkpoint in one piece. Raises OSError when the disk refuses; the previous file then stays."""
    content = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    content["settings"] = dataclasses.asdict(checkpoint.settings)
    content["names"] = pack_names(checkpoint.names)
    write_checkpoint(path, content, format_version=FORMAT_VERSION)


def load_checkpoint(
    path: Path, settings: FitSettings, source: dict[str, str], listed: PackedStrings, hash_listed: Callable[[], str]
) -> FitCheckpoint | None:
    """The checkpoint of a run with these settings, in CPU memory; None when there is none.

    The number of steps may differ as long as neither schedule's decay has begun: such a run was the same until there.
    A checkpoint of format version 1 takes the images that are `listed` for its own if `hash_listed`, of those to train
    on, is what it kept. Raises InputError naming the first setting that differs, and WorkError for a damaged file.
    """
    content = read_checkpoint(path, format_version=FORMAT_VERSION, older=(_HASHED_NAMES,))
    if content is None:
        return None
    ours = dataclasses.asdict(settings) | source
    theirs = content["settings"] | content["source"]
    if _NAMES_HASH in theirs:
        ours |= {_NAMES_HASH: hash_listed()}
        content |= {"names": listed, "failures": {}, "source": source}
    else:
        try:
            content["names"] = unpack_names(content["names"])
        except (zlib.error, UnicodeDecodeError) as error:
            raise WorkError(f"{path} is damaged ({error}); delete it to start the run afresh") from error
    found = FitCheckpoint(**content | {"settings": FitSettings(**content["settings"])})
    for name, value in ours.items():
        undecided = name == "steps" and found.step <= min(found.settings.decay_begins, settings.decay_begins)
        if theirs.get(name, value) != value and not undecided:
            raise InputError(
                f"{path} was begun with {name.replace('_', '-')} {theirs[name]}, and this run has {value}; "
                "give the same settings to continue it, or another --out"
            )
    return found
