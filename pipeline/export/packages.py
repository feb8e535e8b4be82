"""The packages of the extra [export], and what is said where one is missing."""

from importlib.util import find_spec

from ci2p_cache.errors import InputError

TO_WRITE = ("onnx", "onnxscript", "onnxruntime")
TO_READ = ("onnxruntime",)


def require_packages(packages: tuple[str, ...], wanted_by: str) -> None:
    """Raises InputError naming those that are not installed, and the pip that helps."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise InputError(f"{wanted_by}: not installed: {', '.join(missing)}; pip install {' '.join(missing)}")
