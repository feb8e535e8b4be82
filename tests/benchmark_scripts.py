"""A file of benchmarks/ as a module: scripts that find each other by name, and leave nothing behind."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.conftest import REPOSITORY

FOLDER = str(REPOSITORY / "benchmarks")


@contextmanager
def benchmark_script(name: str) -> Iterator[Any]:
    """The module of benchmarks/NAME.py."""
    before = set(sys.modules)
    sys.path.insert(0, FOLDER)
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(FOLDER)
        for module in set(sys.modules) - before:
            if str(getattr(sys.modules[module], "__file__", None)).startswith(FOLDER):
                del sys.modules[module]
