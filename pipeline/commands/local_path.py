"""A path on this machine, as options and arguments take it."""

from pathlib import Path
from typing import Any

import click

from ci2p_cache.local_path import refuse_url


class LocalPath(click.Path):
    """click's path, as a Path; a URL is refused."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name = param.opts[0] if param is not None else "it"
        refuse_url(name if name.startswith("-") else name.upper(), str(value))
        return super().convert(value, param, ctx)
