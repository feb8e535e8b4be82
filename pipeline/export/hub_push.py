"""`--push NAME`: a folder sent to the Hugging Face Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci2p_cache.errors import InputError, WorkError

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class Hub:
    """A place on the Hub that whoever asks may write to."""

    api: Any
    """huggingface_hub's HfApi."""
    name: str

    def upload(self, folder: Path) -> str:
        """Sends a folder's files, over those of their names that are there, and returns the page's address.

        Raises WorkError, saying how to try it again.
        """
        again = f"{folder} is whole; send it with `hf upload {self.name} {folder}`"
        with _refusals(self.name, again):
            url = self.api.create_repo(self.name, repo_type="model", exist_ok=True)
            self.api.upload_folder(repo_id=self.name, folder_path=folder, commit_message="ci2p export --to hub")
        return str(url)


def open_hub(name: str) -> Hub:
    """Asks the Hub who we are, before anything is worked on.

    Raises InputError for a name that the Hub does not take and where there is no token, or one that it does not know,
    and WorkError where it does not answer.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public in its docs

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--push {name}: {_short(error)}; give OWNER/NAME") from None
    if get_token() is None:
        raise InputError(f"--push {name}: there is no token of the Hugging Face Hub here; {_LOG_IN}")
    api = HfApi()
    with _refusals(name, "nothing was written; leave --push out to write the folder alone"):
        api.whoami()
    return Hub(api, name)


@contextmanager
def _refusals(name: str, way_out: str) -> Iterator[None]:
    """What the library lets out, in one line: an answer of the Hub's, or none."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise InputError(
                f"--push {name}: the Hub does not let this token do it ({status}); {_LOG_IN}; {way_out}"
            ) from None
        raise WorkError(f"--push {name}: the Hub refused ({_short(error)}); {way_out}") from None
    except OSError as error:
        raise WorkError(f"--push {name}: the Hub cannot be reached ({_short(error)}); {way_out}") from None
    except Exception as error:
        if not _is_of_network(error):
            raise
        raise WorkError(f"--push {name}: the Hub cannot be reached ({_short(error)}); {way_out}") from None


def _is_of_network(error: Exception) -> bool:
    """Of httpx (of any number), which newer versions of the library stand on; the errors of requests are OSErrors."""
    return any(kind.__module__.startswith("httpx") for kind in type(error).__mro__)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
