"""Checkpoint files: what a training saves, in one piece, and reads back as tensors and plain values only."""

import io
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from ci2p_cache.errors import WorkError
from ci2p_cache.publish import publish


def write_checkpoint(path: Path, content: dict[str, Any], *, format_version: int) -> None:
    """Publishes a checkpoint in one piece. Raises OSError when the disk refuses; the previous file then stays."""
    buffer = io.BytesIO()
    torch.save({"format_version": format_version} | content, buffer)
    publish(path, buffer.getvalue())


def read_checkpoint(path: Path, *, format_version: int, older: Collection[int] = ()) -> dict[str, Any] | None:
    """The content of a checkpoint in CPU memory, or None when there is none; of `older` versions too.

    Raises WorkError when the file is damaged or of another version.
    """
    try:
        # A file that is no zip archive makes torch fall back to its old format, and fail there with any of these.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise WorkError(f"{path} is damaged ({_first_line(error)}); delete it to start the run afresh") from error
    if not isinstance(content, dict) or content.pop("format_version", None) not in (format_version, *older):
        raise WorkError(f"{path} is no checkpoint of this version of ci2p; give another --out")
    return content


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
