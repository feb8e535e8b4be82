"""Paths as options and arguments take them: of this machine, or of a cache, which may lie behind a URL."""

from pathlib import Path
from typing import Any

import click

from ci2p_cache.local_path import is_url, refuse_url


class LocalPath(click.Path):
    """click's path, as a Path; a URL is refused, with what is to be done `instead`."""

    def __init__(self, instead: str = "give a folder, and copy it there") -> None:
        super().__init__(path_type=Path)
        self._instead = instead

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name = param.opts[0] if param is not None else "it"
        refuse_url(name if name.startswith("-") else name.upper(), str(value), self._instead)
        return super().convert(value, param, ctx)


class CachePath(click.Path):
    """click's path, as a Path, or the RemotePath of an fsspec URL."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not is_url(str(value)):
            return super().convert(value, param, ctx)
        from ci2p_cache.remote_path import path_of

        return path_of(value)
