"""Views: the renderings of an image that a cache holds, by name, in the order in which they are stored.

    --views flip --crops 2     plain, mirror, crop0, crop0-mirror, crop1, crop1-mirror
    --views plain --crops 2    plain, crop0, crop1

The plain view comes first, and a mirror image right after what it mirrors; the reader's view numbers and
`order.view_choice` build on both.
"""

from collections.abc import Sequence
from typing import Literal

Flips = Literal["flip", "plain"]

PLAIN, MIRROR = "plain", "mirror"
_CROP = "crop"


def view_names(flips: Flips, crops: int) -> tuple[str, ...]:
    """The views of an image with so many crops, each with its mirror image under "flip"."""
    names = [f"{_CROP}{number}" for number in range(crops)]
    if flips == "plain":
        return (PLAIN, *names)
    return (PLAIN, MIRROR, *(view for name in names for view in (name, f"{name}-{MIRROR}")))


def whole_views(views: Sequence[str]) -> tuple[str, ...]:
    """Those that show what evaluation shows: plain and, where it is stored, mirror. They come first."""
    return tuple(view for view in views if not view.startswith(_CROP))


def num_crops(views: Sequence[str]) -> int:
    """How many crops of each image there are, mirror images not counted."""
    return len(views) // len(whole_views(views)) - 1


def describe_views(views: Sequence[str]) -> str:
    """For people: "plain + mirror + 10 crops with mirror images"."""
    whole, crops = whole_views(views), num_crops(views)
    if not crops:
        return " + ".join(whole)
    counted = f"{crops} crop" if crops == 1 else f"{crops} crops"
    mirrored = " with mirror images" if MIRROR in whole else ""
    return f"{' + '.join(whole)} + {counted}{mirrored}"
