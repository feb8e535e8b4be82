"""Packages that serve one corner and are not installed with ci2p: what they are called, and how to get one.

An extra of ci2p is what pip takes from a checkout (`pip install '.[openvino]'`); the package itself can be had from
anywhere, so that is what a message names.
"""

import sys

from ci2p_cache.errors import InputError

EXTRAS = {
    "compressai": "compressai>=1.2.8",
    "complexity": "fvcore>=0.1.5.post20221221",
    "hub": "huggingface_hub>=0.27",
    "gcs": "gcsfs>=2024.6",
    "huggingface": "datasets>=3",
    "imagenet": "scipy>=1.11",
    "openvino": "openvino>=2025.0",
    "parquet": "pyarrow>=17",
    "ray": "ray>=2.40",
    "s3": "s3fs>=2024.6",
    "tensorboard": "tensorboard>=2.16",
    "mlflow": "mlflow>=2.16",
    "trackio": "trackio>=0.43",
    "wandb": "wandb>=0.31",
}
"""Name of the extra -> what it installs; `pyproject.toml` says the same."""

# CompressAI wants numpy < 2, which was never built for Python 3.13; zarr takes it up to 3.1.5.
_NEWEST_PYTHON = {"compressai": (3, 12)}
_BESIDES = {"compressai": " 'zarr<3.1.6' 'numpy<2'"}


def not_installed(extra: str, wanted_by: str, error: ImportError, *, instead: str = "") -> InputError:
    """The error to raise where the package of an extra was imported in vain: who wanted it, and the pip that helps.

    `instead` is another way out. A package that is installed and does not load is told apart.
    """
    package = EXTRAS[extra].partition(">")[0]
    otherwise = f", or {instead}" if instead else ""
    if not isinstance(error, ModuleNotFoundError) or (error.name or package).partition(".")[0] not in _modules(package):
        why = " ".join(str(error).split())[:160]
        return InputError(
            f"{wanted_by}: the package {package} is installed and does not load ({why}); "
            f"pip install --force-reinstall '{EXTRAS[extra]}'{_BESIDES.get(extra, '')}{otherwise}"
        )
    newest = _NEWEST_PYTHON.get(extra)
    if newest is not None and sys.version_info[:2] > newest:
        return InputError(
            f"{wanted_by}: the package {package} is not installed, and has no build for Python "
            f"{sys.version_info[0]}.{sys.version_info[1]}; use Python 3.11 or 3.12 for this{otherwise}"
        )
    return InputError(
        f"{wanted_by}: the package {package} is not installed; "
        f"pip install '{EXTRAS[extra]}'{_BESIDES.get(extra, '')}{otherwise}"
    )


def _modules(package: str) -> tuple[str, ...]:
    """What `import` calls it; datasets is of no use without the package that it stands on."""
    return (package, "pyarrow") if package == "datasets" else (package,)
