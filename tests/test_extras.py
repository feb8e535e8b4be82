"""Extras: what a message tells a user to install is what the extra installs, and works from where the user stands."""

import sys
import tomllib
from pathlib import Path

import pytest

from ci2p_cache.errors import InputError
from ci2p_cache.extras import EXTRAS, not_installed
from tests.conftest import REPOSITORY, run_python
from tests.forked import Forked, run_command


def test_messages_and_pyproject_name_the_same_packages() -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {name: [package] for name, package in EXTRAS.items()} == {name: declared[name] for name in EXTRAS}


def test_what_only_a_corner_needs_is_not_required() -> None:
    required = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    packages = {package.partition(">")[0] for package in required}
    assert not packages & {"compressai", "fvcore", "scipy", "datasets", "openvino", "torchmetrics", "torchvision"}


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ((3, 12), "x: the package compressai is not installed; pip install 'compressai>=1.2.8' 'zarr<3.1.6' 'numpy<2'"),
        ((3, 13), "has no build for Python 3.13; use Python 3.11 or 3.12 for this, or use y"),
    ],
)
def test_the_way_out_is_one_for_this_python(
    monkeypatch: pytest.MonkeyPatch, python: tuple[int, int], message: str
) -> None:
    monkeypatch.setattr(sys, "version_info", (*python, 1))
    error = not_installed("compressai", "x", ModuleNotFoundError(name="compressai"), instead="use y")
    assert isinstance(error, InputError) and message in str(error) and "\n" not in str(error)


def test_a_package_that_does_not_load_is_told_apart() -> None:
    for error in (ImportError("libfoo.so: no\nsuch file"), ModuleNotFoundError("No module named 'dill'", name="dill")):
        said = str(not_installed("huggingface", "--dataset huggingface", error))
        assert "the package datasets is installed and does not load (" in said and "--force-reinstall" in said
    assert "is not installed" in str(not_installed("huggingface", "x", ModuleNotFoundError(name="pyarrow.lib")))


def command_without(arguments: list[str]) -> None:
    """`ci2p ARGUMENTS[1:]` where the packages of ARGUMENTS[0] are not installed."""
    for name in arguments[0].split(","):
        sys.modules[name] = None  # type: ignore[assignment]
    run_command(arguments[1:])


WITHOUT_ONE_AFTER_ANOTHER = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
import cli
for command in sys.argv[2].split("\\n"):
    try:
        if command.strip():
            cli.main([*command.split(), "--device", "cpu"])
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.mark.parametrize(
    ("arguments", "package"),
    [
        ("encode --dataset sample --weights zoo", "compressai"),
        ("inspect {cache} --images grid.png --weights zoo", "compressai"),
        ("fit-encoder --data-dir . --out x.pth.tar", "compressai"),
        ("complexity --model vit_tiny", "fvcore"),
        ("encode --dataset huggingface --data-dir x", "datasets"),
        ("export x --to hub", "huggingface_hub"),
        ("encode --dataset sample --engine openvino --device cpu", "openvino"),
    ],
)
def test_every_command_says_which_package_it_lacks(
    arguments: str, package: str, zarr_cache: Path, tmp_path: Path
) -> None:
    words = [package, *arguments.format(cache=zarr_cache).split()]
    refused = Forked(words, work=command_without, cwd=tmp_path)
    _, errors = refused.communicate(timeout=120)
    assert refused.returncode == 2, errors
    said = errors.splitlines()[-1]  # after what `encode` recognised
    assert said.startswith("Error: ") and "Traceback" not in errors, errors
    assert f"the package {package} is not installed" in said
    assert "pip install '" in said or "has no build for Python" in said


def test_encode_train_eval_and_pictures_run_without_any_extra(image_folder: Path, tmp_path: Path) -> None:
    without = "compressai,fvcore,scipy,datasets,openvino,torchmetrics,tensorboard,matplotlib,pandas,pyarrow"
    commands = f"""
        encode --dataset folder --data-dir {image_folder} --out cache --image-size 64 --workers 0
        train --shards cache --model ci2p_vit_tiny --epochs 1 --batch-size 8 --out run
        eval --checkpoint run
        eval --checkpoint run --images {image_folder} --workers 0
        inspect cache --images grid.png --count 2
    """
    finished = run_python("-c", WITHOUT_ONE_AFTER_ANOTHER, without, commands, cwd=tmp_path)
    assert finished.returncode == 0 and finished.stdout.count("top-1") >= 3, finished.stderr
    assert (tmp_path / "grid.png").exists()
