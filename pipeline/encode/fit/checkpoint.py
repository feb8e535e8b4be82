"""A codec's training at one step: everything that a killed run needs to go on as if it had never stopped."""

import dataclasses
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.packed_strings import PackedStrings
from pipeline.encode.fit.images import pack_names, unpack_names
from pipeline.encode.fit.settings import FitSettings
from pipeline.running.checkpoint_file import read_checkpoint, read_newest, write_checkpoint

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
    """Publishes a checkpoint in one piece, and keeps the one before it. Raises OSError when the disk refuses."""
    content = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    content["settings"] = dataclasses.asdict(checkpoint.settings)
    content["names"] = pack_names(checkpoint.names)
    write_checkpoint(path, content, format_version=FORMAT_VERSION, previous=_previous(path))


def load_checkpoint(
    path: Path, settings: FitSettings, source: dict[str, str], listed: PackedStrings, hash_listed: Callable[[], str]
) -> FitCheckpoint | None:
    """The newest checkpoint of a run with these settings that is whole, in CPU memory; None when there is none.

    The number of steps may differ as long as neither schedule's decay has begun: such a run was the same until there.
    A checkpoint of format version 1 takes the images that are `listed` for its own if `hash_listed`, of those to train
    on, is what it kept. Raises InputError naming the first setting that differs, and WorkError when none is whole.
    """
    newest = read_newest(
        path, _previous(path), partial(read_checkpoint, format_version=FORMAT_VERSION, older=(_HASHED_NAMES,))
    )
    if newest is None:
        return None
    content, file = newest
    ours = dataclasses.asdict(settings) | source
    theirs = content["settings"] | content["source"]
    if _NAMES_HASH in theirs:
        ours |= {_NAMES_HASH: hash_listed()}
        content |= {"names": listed, "failures": {}, "source": source}
    else:
        try:
            content["names"] = unpack_names(content["names"])
        except (zlib.error, UnicodeDecodeError) as error:
            raise WorkError(f"{file} is damaged ({error}); give another --out to start afresh") from error
    found = FitCheckpoint(**content | {"settings": FitSettings(**content["settings"])})
    for name, value in ours.items():
        undecided = name == "steps" and found.step <= min(found.settings.decay_begins, settings.decay_begins)
        if theirs.get(name, value) != value and not undecided:
            raise InputError(
                f"{path} was begun with {name.replace('_', '-')} {theirs[name]}, and this run has {value}; "
                "give the same settings to continue it, or another --out"
            )
    if file != path:
        file.replace(path)
    return found


def _previous(path: Path) -> Path:
    return path.with_suffix(".previous.ckpt")
