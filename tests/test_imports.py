"""Who may import whom, held by reading the imports; and promise T4, held by running without codec and images."""

import ast
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, encode_folder, run_python

SOURCES = sorted(
    [
        *REPOSITORY.glob("ci2p_cache/**/*.py"),
        *REPOSITORY.glob("pipeline/**/*.py"),
        REPOSITORY / "cli.py",
        REPOSITORY / "ci2p.py",
    ]
)


def imported_modules(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in it."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            modules |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def importers(package: str) -> set[str]:
    """Files, relative to the repository, that import a package or anything in it."""
    return {
        str(path.relative_to(REPOSITORY))
        for path in SOURCES
        if any(module == package or module.startswith(f"{package}.") for module in imported_modules(path))
    }


def test_the_cache_imports_nothing_of_the_stages() -> None:
    assert not [file for file in importers("pipeline") if file.startswith("ci2p_cache/")]


def test_the_stages_meet_only_in_the_cache() -> None:
    assert not [
        file for file in importers("pipeline.encode") if file.startswith(("pipeline/train/", "pipeline/models/"))
    ]
    assert not [
        file for file in importers("pipeline.train") if file.startswith(("pipeline/encode/", "pipeline/models/"))
    ]


def test_nothing_inside_imports_the_front_door() -> None:
    assert all(file == "ci2p.py" or file.startswith("pipeline/api/") for file in importers("pipeline.api"))
    # Only to be pickled by its name.
    assert importers("ci2p") == {"pipeline/api/view_dataset.py"}
    assert importers("cli") == set()


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("compressai", {"pipeline/encode/whole_codec.py"}),
        ("constriction", {"ci2p_cache/rans.py"}),
        ("fvcore", {"pipeline/models/complexity.py"}),
        ("openvino", {"pipeline/encode/openvino_engine.py"}),
        ("zarr", {"ci2p_cache/zarr_store.py"}),
        ("webdataset", {"ci2p_cache/tar_store.py"}),
    ],
)
def test_a_package_is_imported_in_one_file(package: str, allowed: set[str]) -> None:
    assert importers(package) == allowed


def test_click_is_known_to_the_door_and_the_commands_alone() -> None:
    assert all(file == "cli.py" or file.startswith("pipeline/commands/") for file in importers("click"))
    assert all(file == "cli.py" or file.startswith("pipeline/commands/") for file in importers("pipeline.commands"))


def test_torch_enters_the_cache_through_the_loader_and_what_it_holds() -> None:
    found = {file for file in importers("torch") if file.startswith("ci2p_cache/")}
    assert found == {"ci2p_cache/loader.py", "ci2p_cache/resident.py"}


def test_timm_and_pillow_stay_in_their_folders() -> None:
    # Beside the models: what groups a model's parameters and sets their rate, what averages them, and RandAugment.
    optimizers = ("pipeline/train/optimizer.py", "pipeline/encode/fit/optimizer.py")
    allowed = ("pipeline/models/", *optimizers, "pipeline/train/weight_average.py", "pipeline/encode/augmentation.py")
    assert all(file.startswith(allowed) for file in importers("timm"))
    # The front door names the type of a picture.
    assert all(file.startswith("pipeline/encode/") for file in importers("PIL") - {"ci2p.py"})


def test_the_door_is_quick_because_it_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "zarr", "timm", "pydantic", "rich")
    finished = run_python("-c", f"import sys, cli; print([name for name in {heavy} if name in sys.modules])")
    assert finished.stdout.strip() == "[]", finished.stderr


WITHOUT_CODEC_OR_IMAGES = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "compressai":
            raise ImportError("stage two imported compressai")
        if name.startswith("pipeline.encode"):
            raise ImportError("stage two imported stage one")

sys.meta_path.insert(0, Refuse())
import PIL.Image

def refuse_open(*arguments, **keywords):
    raise AssertionError("stage two opened an image")

PIL.Image.open = refuse_open
import cli
for command in sys.argv[1].splitlines():
    try:
        cli.main(command.split())
    except SystemExit as end:
        if end.code:
            raise
"""


def test_t4_stage_two_imports_no_codec_and_opens_no_image(zarr_cache: Path, image_folder: Path, tmp_path: Path) -> None:
    """From a cache of either format."""
    tars = encode_folder(image_folder, tmp_path / "tars", format="webdataset")
    options = "--model ci2p_vit_tiny --epochs 1 --batch-size 8 --device cpu --pictures"
    commands = "\n".join(
        f"train --shards {cache} --out {tmp_path}/{run} {options}" for cache, run in ((zarr_cache, "a"), (tars, "b"))
    )
    finished = run_python("-c", WITHOUT_CODEC_OR_IMAGES, commands)
    assert finished.returncode == 0, finished.stderr
    assert "was not drawn" not in finished.stderr
    assert all((tmp_path / run / "best.safetensors").exists() for run in "ab")
    # The guard itself works: stage one cannot run under it.
    stage_one = run_python("-c", WITHOUT_CODEC_OR_IMAGES, "encode --dataset sample", cwd=tmp_path)
    assert stage_one.returncode != 0 and "stage two imported" in stage_one.stderr
