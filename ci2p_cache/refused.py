"""Images that a run stopped at, remembered in the cache: the advice to remove such a one must hold in the next run.

An image that is gone is an error under `--on-error stop`, for a disk may be unmounted; one that was refused before is
gone because somebody did as told.
"""

import json
from collections.abc import Sequence

from ci2p_cache.marker import Failure
from ci2p_cache.publish import publish
from ci2p_cache.remote_path import AnyPath

_FILE = "refused.json"


def read_refused(split_dir: AnyPath) -> dict[str, str]:
    """Key -> why it was refused; empty where no run has stopped."""
    try:
        listed = json.loads((split_dir / _FILE).read_bytes())
        return {str(key): str(reason) for key, reason in listed.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, RecursionError):
        return {}  # nothing hangs on it but a line of advice


def note_refused(split_dir: AnyPath, failures: Sequence[Failure]) -> None:
    """Adds images to those that a run has stopped at."""
    refused = read_refused(split_dir) | {failure.key: failure.reason for failure in failures}
    publish(split_dir / _FILE, json.dumps(refused, ensure_ascii=False, sort_keys=True).encode())


def forget_refused(split_dir: AnyPath) -> None:
    """Of a finished split: its failures are listed where they belong."""
    (split_dir / _FILE).unlink(missing_ok=True)
