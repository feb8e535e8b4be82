"""Classes that have numbers and no names: their digits, as long as the numbers are plausible."""

from collections.abc import Callable, Collection

from ci2p_cache.errors import InputError

LABEL_COLUMNS = ("label", "labels", "class", "class_label", "category", "target")  # of a table, the first that is there
LARGEST_LABEL = 999_999  # more is an id, a -1 without its sign, or anything but the number of a class

# Labels may be a few times more than there are different ones: sets of which a part was taken. More is a slip or an id,
# and each number would become a class: an output of the model.
_CLASSES_A_LABEL = 10
_CLASSES_ALLOWED = 1000


def label_names(
    different: Collection[int], where: str, where_is: Callable[[int], str], way_out: str
) -> tuple[str, ...]:
    """The digits of 0 .. the largest of the `different` labels.

    Raises InputError for a largest label out of all proportion to how many there are; `where_is` tells the item that
    has it, `way_out` how to give the classes names.
    """
    num_classes = max(different) + 1
    if num_classes > _CLASSES_A_LABEL * len(different) + _CLASSES_ALLOWED:
        amount = "one label" if len(different) == 1 else f"{len(different)} different labels"
        raise InputError(
            f"{where}: {where_is(num_classes - 1)} has label {num_classes - 1}, which makes {num_classes} classes of "
            f"{amount}; mend it, or {way_out}"
        )
    return tuple(str(label) for label in range(num_classes))
