"""How long a server may be silent: CI2P_NETWORK_TIMEOUT, for web servers and object stores alike."""

import math
import os

from ci2p_cache.errors import InputError
from ci2p_cache.printable import printable

TIMEOUT_VARIABLE = "CI2P_NETWORK_TIMEOUT"
_DEFAULT_TIMEOUT_S = 30.0


def timeout_s() -> float:
    """Seconds without progress after which a server is given up. Raises InputError for what is no such number."""
    value = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(value) if value.strip() else _DEFAULT_TIMEOUT_S
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"{TIMEOUT_VARIABLE}={printable(value)} is no number of seconds; set it to one such as 30")
    return seconds
