"""Where a run's data lie: written down in three ways, to be found from another folder, and after a move of both."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ci2p_cache.errors import InputError


class DataPlace(BaseModel):
    """A folder, or a URL, which needs no other ways to say it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """As it was given to the command."""
    absolute_path: str = ""
    path_from_run: str = ""
    """From the run's folder."""


def place_of(path: str, run: Path) -> DataPlace:
    """What a run notes down of the data at `path`."""
    if "://" in path or not Path(path).exists():
        return DataPlace(path=path)
    absolute = os.path.realpath(path)
    return DataPlace(path=path, absolute_path=absolute, path_from_run=os.path.relpath(absolute, os.path.realpath(run)))


def find_data(place: DataPlace, run_or_file: Path, option: str = "--shards CACHE") -> str:
    """The path at which a run's data are there.

    Raises InputError, saying where it was looked and the `option` that names another place, when they are nowhere.
    """
    if "://" in place.path:
        return place.path
    run = run_or_file if run_or_file.is_dir() else run_or_file.parent
    from_run = os.path.normpath(os.path.realpath(run / place.path_from_run)) if place.path_from_run else ""
    places = dict.fromkeys(each for each in (place.absolute_path, from_run, os.path.abspath(place.path)) if each)  # noqa: PTH100
    for each in places:
        if Path(each).exists():
            # As it was given where that is the same: messages are read by whoever gave it.
            return place.path if os.path.realpath(place.path) == os.path.realpath(each) else each
    raise InputError(
        f"what {run_or_file} was trained on is not there any more: looked for {' and '.join(places)}; "
        f"say where it is with {option}"
    )
