"""How long a server may be silent: CI2P_NETWORK_TIMEOUT, for web servers and object stores alike."""

import math
import os

from ci2p_cache.errors import InputError
from ci2p_cache.printable import printable

TIMEOUT_VARIABLE = "CI2P_NETWORK_TIMEOUT"
_DEFAULT_TIMEOUT_S = 30.0


def timeout_s() -> float:
    """Seconds without progress after which a server is given up. Raises InputError for what is no such number."""
    return seconds_in(TIMEOUT_VARIABLE, _DEFAULT_TIMEOUT_S)


def seconds_in(variable: str, default_s: float) -> float:
    """What a variable of the environment says. Raises InputError for what is no number of seconds."""
    value = os.environ.get(variable, "")
    try:
        seconds = float(value) if value.strip() else default_s
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"{variable}={printable(value)} is no number of seconds; set it to one such as {default_s:g}")
    return seconds
