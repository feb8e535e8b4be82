"""The examples, run as they stand: each where its packages are installed."""

import importlib.util
from pathlib import Path

import pytest

import ci2p
from tests.conftest import REPOSITORY, encode_folder, run_python

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
# What an example needs beyond ci2p's own packages; none may be missing from this table.
NEEDS = {
    "linear_probe": ("sklearn",),
    "lightning_training": ("lightning",),
    "load_dataset": ("datasets",),
    "pytorch_loop": (),
    "timm_training": (),
    "transformers_trainer": ("transformers", "accelerate"),
}
# As `python FILE`, but torchvision is seen to first, which some packages import: see `pipeline/__init__.py`.
RUN = "import runpy, sys, pipeline; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.fixture(scope="module")
def run(zarr_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> ci2p.Run:
    out = tmp_path_factory.mktemp("examples") / "run"
    return ci2p.train(zarr_cache, model="ci2p_vit_tiny", epochs=1, batch_size=8, device="cpu", out=out)


def test_no_example_is_long_or_forgotten() -> None:
    assert [path.stem for path in EXAMPLES] == sorted(NEEDS)
    for path in EXAMPLES:
        text = path.read_text()
        assert len(text.splitlines()) < 40, path.name
        assert f"python examples/{path.name} CACHE" in text.splitlines()[0], path.name


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_an_example_runs(name: str, zarr_cache: Path, image_folder: Path, run: ci2p.Run, tmp_path: Path) -> None:
    missing = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    cache = (
        encode_folder(image_folder, tmp_path / "tars", format="webdataset") if name == "load_dataset" else zarr_cache
    )
    last = str(run.path) if name == "linear_probe" else "1"
    finished = run_python(
        "-c", RUN, REPOSITORY / "examples" / f"{name}.py", cache, last, cwd=tmp_path, HF_HUB_OFFLINE="1"
    )
    assert finished.returncode == 0, finished.stderr
    assert ("21 images" if name == "load_dataset" else "top-1 ") in finished.stdout
