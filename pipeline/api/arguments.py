"""What a public function was given, held against its annotations: a wrong type or value is refused in one line."""

import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

from ci2p_cache.errors import InputError

_SHOWN = 80


def check_arguments(function: str, hints: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, numbers as Python's own. Raises InputError naming the first that does not fit.

    Hints are types, and `Annotated[int, X]` where X.least is the least value there is.
    """
    checked = {}
    for name, value in given.items():
        hint = hints.get(name, Any)
        if not _fits(value, hint):
            raise InputError(f"ci2p.{function}({name}={_shown(value)}): {_complaint(value, hint)}")
        checked[name] = _plain(value)
    return checked


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Annotated:
        return _fits(value, parts[0]) and all(value >= each.least for each in parts[1:])
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is tuple:
        return isinstance(value, tuple | list) and len(value) == len(parts) and all(map(_fits, value, parts))
    if origin is Sequence:
        return (
            isinstance(value, Sequence | np.ndarray)
            and not isinstance(value, str | bytes)
            and all(_fits(each, parts[0]) for each in value)
        )
    if origin is Iterable:
        return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    if origin is Callable:
        return callable(value)
    if hint in (int, float):
        is_bool = isinstance(value, bool | np.bool_)
        return not is_bool and isinstance(value, Integral if hint is int else Real) and value == value
    if hint is str:
        return isinstance(value, str) and "\0" not in value
    kind = origin or hint
    return isinstance(value, bool | np.bool_ if kind is bool else kind)


def _plain(value: Any) -> Any:
    """numpy's numbers would not go into JSON."""
    return value.item() if isinstance(value, np.generic) else value


def _complaint(value: Any, hint: Any) -> str:
    each = _hint_of_each(hint)
    if each is not None and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for number, part in enumerate(value):
            if not _fits(part, each):
                return f"its number {number}, {_shown(part)}, is of type {type(part).__name__}; give {_wanted(hint)}"
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if any(_is_of_kind(value, option) for option in options):
        return f"give {_wanted(hint)}"
    return f"it is of type {type(value).__name__}; give {_wanted(hint)}"


def _hint_of_each(hint: Any) -> Any:
    """What each part of a sequence has to be; None where no sequence is wanted."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    sequences = [option for option in options if get_origin(option) in (Sequence, tuple)]
    return get_args(sequences[0])[0] if sequences else None


def _is_of_kind(value: Any, hint: Any) -> bool:
    """Whether the type is right, and it is the value that is wrong."""
    if get_origin(hint) is Literal:
        return any(type(value) is type(part) for part in get_args(hint))
    return get_origin(hint) is Annotated and _fits(value, get_args(hint)[0])


def _wanted(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        wanted = dict.fromkeys(_wanted(part) for part in parts if part is not type(None))
        return " or ".join(wanted)
    if origin is Annotated:
        return f"{_wanted(parts[0])} from {parts[1].least:g} on"
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is tuple:
        return f"{len(parts)} in brackets: {', '.join(map(_wanted, parts))}"
    if origin is Sequence:
        return f"a list, each {_wanted(parts[0])}"
    if origin is Iterable:
        return "something to go through, such as a list"
    if origin is Callable:
        return "a function"
    kind = origin or hint
    names = {
        int: "an integer", float: "a number", str: "a string", bool: "True or False", None: "None",
        type(None): "None", os.PathLike: "a path",
    }  # fmt: skip
    return names.get(kind) or f"a {kind.__module__.partition('.')[0]}.{kind.__name__}"


def _shown(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
