"""torch.compile, where there is no compiler for it to call: its own error runs over a hundred lines."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ci2p_cache.errors import InputError


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Raises InputError for what torch.compile raises; nothing of torch's compiler is imported for it."""
    try:
        yield
    except RuntimeError as error:
        dynamo = sys.modules.get("torch._dynamo.exc")
        if dynamo is None or not isinstance(error, dynamo.TorchDynamoException):
            raise
        lines = [line.strip() for line in str(error).splitlines()]
        said = next((line for line in lines if line and not line.endswith("raised:")), type(error).__name__)
        raise InputError(
            f"torch.compile failed ({said[:120]}); install a C++ compiler, or give --no-compile"
        ) from error
