"""What `--data-dir` names: a folder, or files to be read."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ci2p_cache.errors import InputError
from ci2p_cache.local_path import is_url
from ci2p_cache.printable import printable
from ci2p_cache.remote_files import cannot_open, describe
from ci2p_cache.remote_path import AnyPath, path_of
from pipeline.encode.datasets.remote_folder import forget_listings, scan

_REASONS = {
    errno.ENOENT: "there is no such folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "links lead around in a circle",
    errno.EACCES: "no permission to look there",
}


def data_place(data_dir: str | None, dataset: str, layout: str) -> AnyPath:
    """As `data_folder`, or the folder behind a URL; what was listed of any is forgotten."""
    if data_dir is None or not is_url(data_dir):
        return data_folder(data_dir, dataset, layout)
    given = f"--data-dir {printable(data_dir)}"
    try:
        root = path_of(data_dir)
    except InputError as error:
        raise InputError(f"--data-dir {error}") from error
    if isinstance(root, Path):
        return data_folder(str(root), dataset, layout)
    forget_listings()
    try:
        is_there = bool(scan(str(root)))
    except OSError as error:
        raise InputError(f"--data-dir: cannot list {printable(data_dir)}: {describe(error)}") from error
    if not is_there:
        raise InputError(f"{given}: there is no such folder; {layout}")
    return root


def data_folder(data_dir: str | None, dataset: str, layout: str) -> Path:
    """`--data-dir` as an absolute path. Raises InputError unless it is a folder."""
    if data_dir is None:
        raise InputError(f"--dataset {dataset} needs --data-dir DIR; {layout}")
    given = f"--data-dir {printable(data_dir)}"
    if is_url(data_dir):
        raise InputError(
            f"{given}: --dataset {dataset} is read from a folder of this machine; copy it there, or give class folders "
            "with --dataset folder"
        )
    if not data_dir.strip():
        raise InputError(f"--data-dir '{printable(data_dir)}': that is no name; give a folder; {layout}")
    try:
        root = Path(os.path.abspath(Path(data_dir).expanduser()))  # noqa: PTH100  (resolve() would follow links)
        mode = root.stat().st_mode
    except RuntimeError:
        raise InputError(f"{given}: there is no such user; give the whole path") from None
    except ValueError:
        raise InputError(f"{given}: no path holds the character \\x00; {layout}") from None
    except OSError as error:
        raise InputError(f"{given}: {_REASONS.get(error.errno or 0, error.strerror)}; {layout}") from None
    if not stat.S_ISDIR(mode):
        hint = (
            "unpack it, and give the folder" if data_dir.lower().endswith((".zip", ".tar", ".gz", ".tgz")) else layout
        )
        raise InputError(f"{given}: that is a file, not a folder; {hint}")
    return root


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Raises InputError, a line, for what is raised of a file, local or remote, that cannot be had."""
    try:
        yield
    except ImportError as error:  # fsspec finds s3://, gs:// and http:// through packages of their own
        raise cannot_open("--data-dir", printable(path), error) from error
    except OSError as error:
        raise InputError(f"--data-dir: cannot read {printable(path)}: {describe(error)[:200]}") from error
