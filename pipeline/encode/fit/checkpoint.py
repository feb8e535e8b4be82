"""A codec's training at one step: everything that a killed run needs to go on as if it had never stopped."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci2p_cache.errors import InputError
from pipeline.checkpoint_file import read_checkpoint, write_checkpoint
from pipeline.encode.fit.settings import FitSettings

FORMAT_VERSION = 1


@dataclass(frozen=True)
class FitCheckpoint:
    """`source` says what decides the weights beside the settings: the images and the weights that they began with."""

    settings: FitSettings
    source: dict[str, str]
    step: int  # steps done
    seconds: float  # spent on them
    codec: dict[str, Any]
    optimizer: dict[str, Any]
    auxiliary: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: FitCheckpoint) -> None:
    """Publishes a checkpoint in one piece. Raises OSError when the disk refuses; the previous file then stays."""
    content = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    content["settings"] = dataclasses.asdict(checkpoint.settings)
    write_checkpoint(path, content, format_version=FORMAT_VERSION)


def load_checkpoint(path: Path, settings: FitSettings, source: dict[str, str]) -> FitCheckpoint | None:
    """The checkpoint of a run with these settings, in CPU memory; None when there is none.

    The number of steps may differ as long as neither schedule's decay has begun: such a run was the same until there.
    Raises InputError naming the first setting that differs, and WorkError for a damaged file.
    """
    content = read_checkpoint(path, format_version=FORMAT_VERSION)
    if content is None:
        return None
    found = FitCheckpoint(**content | {"settings": FitSettings(**content["settings"])})
    theirs = dataclasses.asdict(found.settings) | found.source
    for name, ours in (dataclasses.asdict(settings) | source).items():
        undecided = name == "steps" and found.step <= min(found.settings.decay_begins, settings.decay_begins)
        if theirs[name] != ours and not undecided:
            raise InputError(
                f"{path} was begun with {name.replace('_', '-')} {theirs[name]}, and this run has {ours}; "
                "give the same settings to continue it, or another --out"
            )
    return found
