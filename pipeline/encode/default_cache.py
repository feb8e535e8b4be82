"""Where a cache goes when nobody says: caches/ and the name of the data."""

import re
from pathlib import Path

_NAMED_BY_THEIR_DATA = (
    "folder",
    "webdataset",
    "huggingface",
    "parquet",
)  # the others are one data set, wherever it lies


def default_cache(dataset: str, data_dir: str | None) -> Path:
    """caches/DATASET, or caches/NAME of a folder, of tars or of a set on the hub that was called NAME.

    Letters, digits, dots and dashes of the last part of `data_dir` (a path, a URL, a pattern); `.` is the folder's
    own name.
    """
    name = ""
    if dataset in _NAMED_BY_THEIR_DATA and data_dir:
        last = data_dir.rstrip("/").rpartition("/")[2]
        name = Path(data_dir).resolve().name if last in ("", ".", "..") else last
        name = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    return Path("caches") / (name or dataset)
