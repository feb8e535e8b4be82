"""What the tests share: small folders of images, small caches of them, and the command line as a user calls it."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# One thread a process: these tensors are too small for two, and on a busy machine threads that wait for each other at
# every operation make a test a hundred times slower. Set before torch is imported, and inherited by every process.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CI2P_TRAIN_PICTURES"] = os.environ["CI2P_BASELINE_PICTURES"] = "0"  # which tests/test_report.py looks at
os.environ["CI2P_NETWORK_TIMEOUT"] = "10"  # seconds; the pauses between tries are in proportion

REPOSITORY = Path(__file__).parents[1]
CLASSES = ("blue", "green", "red")


def write_image(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    """A picture of its own: soft random colours, not mirror-symmetric."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)


def write_image_folder(root: Path, *, train: int = 7, val: int = 3) -> Path:
    """root/train and root/val, CLASSES, `train` and `val` PNGs a class."""
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                seed = 1000 * label + number + (500 if split == "val" else 0)
                write_image(root / split / name / f"{number:03d}.png", seed)
    return root


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 + 9 small PNGs in three classes."""
    return write_image_folder(tmp_path_factory.mktemp("images"))


Encode = Callable[..., Path]


def encode_folder(data_dir: Path, cache: Any, **settings: object) -> Any:
    """Encodes a folder at 32 pixels (latents [192, 2, 2]) into `cache` with the real encoder; returns the cache."""
    from pipeline.encode.run import encode_dataset
    from pipeline.encode.shard_writer import EncodeOptions

    fields = EncodeOptions.__dataclass_fields__
    options = {"shard_size": 4, "batch_size": 3, "workers": 0}
    options |= {name: value for name, value in settings.items() if name in fields}
    rest = {"image_size": 32, "device": "cpu"} | {k: v for k, v in settings.items() if k not in fields}
    encode_dataset("folder", str(data_dir), cache, EncodeOptions(**options), **rest)  # type: ignore[arg-type]
    return cache


@pytest.fixture(scope="session", params=["zarr", "webdataset"])
def cache_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def cache(cache_format: str, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished integer cache of `image_folder` in each format: 6 shards of train, 3 of val. Not to be changed."""
    return encode_folder(image_folder, tmp_path_factory.mktemp("cache") / cache_format, format=cache_format)


@pytest.fixture(scope="session")
def zarr_cache(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished integer cache of `image_folder` in the default format. Not to be changed."""
    return encode_folder(image_folder, tmp_path_factory.mktemp("cache") / "zarr")


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a toy training of three epochs that was never interrupted."""
    from tests.toy_training import train_toy

    run = tmp_path_factory.mktemp("runs") / "whole"
    train_toy(run)
    return run


def run_python(
    *arguments: str | Path, cwd: Path | None = None, timeout: float = 240, **env: str
) -> "subprocess.CompletedProcess[str]":
    """`python ARGUMENTS` in a process of its own, not on a terminal, with the project importable."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | env,
        check=False,
    )


def run_ci2p(*arguments: str | Path, cwd: Path | None = None, **env: str) -> "subprocess.CompletedProcess[str]":
    """`ci2p ARGUMENTS` in a process of its own, which is forked where all is imported (tests/forked.py)."""
    from tests.forked import Forked

    process = Forked(arguments, cwd=cwd, env=os.environ | env)
    try:
        stdout, stderr = process.communicate(timeout=240)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.wait(), stdout, stderr)


def call_ci2p(*arguments: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """`ci2p ARGUMENTS` within this process: as `run_ci2p`, without the seconds that a new interpreter takes."""
    import cli

    stdout, stderr, here = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            cli.main([str(argument) for argument in arguments])
    except SystemExit as exit:
        status = exit.code
    finally:
        os.chdir(here)
    assert isinstance(status, int)
    return subprocess.CompletedProcess([*arguments], status, stdout.getvalue(), stderr.getvalue())


def files_of(folder: Path) -> dict[str, bytes]:
    """Relative path -> contents of everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def upload_cache(cache: Path, name: str) -> str:
    """Copies a cache into memory://; returns its URL."""
    import fsspec

    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{name}"):
        memory.rm(f"/{name}", recursive=True)
    for file, data in files_of(cache).items():
        memory.pipe_file(f"/{name}/{file}", data)
    return f"memory://{name}"


@pytest.fixture
def real_data() -> Path:
    """The folder of real images, or a skip that says how to give one."""
    folder = os.environ.get("CI2P_TEST_DATA")
    if not folder:
        pytest.skip("CI2P_TEST_DATA names no folder of real images")
    return Path(folder)
