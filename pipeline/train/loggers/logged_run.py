"""A run as a logging service has it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PROJECT = "ci2p"
"""Where runs go unless the service's own variables of the environment say otherwise."""


@dataclass(frozen=True)
class Logged:
    """What is logged."""

    run: Path
    """The run folder, whose name the service shows."""
    key: str
    """Of this run alone, in the service too; another for every folder."""
    config: Mapping[str, Any]


class LoggedRun(Protocol):
    """An open run in a service. Any method may raise whatever the service's library raises."""

    id: str
    """By which the service finds it again."""
    last_step: int | None
    """The last step that the service has, 0 before the first; None where it does not say."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends what an epoch came to."""

    def close(self, *, finished: bool) -> None:
        """Waits until all is sent, for a while."""


Opener = Callable[[Logged, str | None], LoggedRun]
"""Opens the run of this id, or where that is None or unknown a new one."""
