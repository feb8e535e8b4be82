"""Packages that only some commands need: a missing one is named in one line, with what installs it."""

from importlib.util import find_spec

from ci2p_cache.errors import InputError


def require_extra(extra: str, *packages: str, purpose: str) -> None:
    """Raises InputError naming the first package that `purpose` needs and this interpreter does not have."""
    for package in packages:
        if find_spec(package) is None:
            raise InputError(f"{purpose} needs {package}, which is not installed; pip install 'ci2p[{extra}]'")
