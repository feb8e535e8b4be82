"""Paths of this machine, told from URLs, which would become folders called `s3:`."""

import re
from pathlib import Path

from ci2p_cache.errors import InputError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # of two slashes Path leaves one


def is_url(path: str) -> bool:
    """Whether it is a URL, file:// too, and no folder of that name."""
    found = _URL.match(path)
    return found is not None and not Path(f"{found[1]}:").exists()


def refuse_url(name: str, path: str | Path, instead: str = "give a folder, and copy it there") -> None:
    """Raises InputError, by the option or argument that gave it, for what is a URL and no folder of that name."""
    if is_url(str(path)):
        raise InputError(
            f"{name} {path} is a URL, and only files of this machine are written and looked through here; {instead}"
        )
