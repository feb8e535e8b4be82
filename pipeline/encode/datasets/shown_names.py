"""File names as keys and messages have them: in one line, and of text that any stream and any JSON takes."""

import re

from ci2p_cache.user_text import printable

# Control characters (C0, delete, C1) and the two that Unicode has for the ends of lines and paragraphs.
_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def shown_name(name: str) -> str:
    """`name` with a newline as "\\n", an escape as "\\x1b" and a byte that is not UTF-8 as "\\xe9"."""
    return _BREAKS.sub(lambda found: found[0].encode("unicode_escape").decode(), printable(name))
