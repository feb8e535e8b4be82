"""Promise C6 by chance: files of small caches are damaged at random; CI2P_DAMAGES says how often (60)."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
import zarr

from ci2p_cache.cache import open_cache
from ci2p_cache.convert import convert_split
from ci2p_cache.errors import Ci2pError, WorkError
from ci2p_cache.reader import ViewReader
from ci2p_cache.tar_store import images_of_records
from ci2p_cache.verify import find_splits, verify_split
from tests.conftest import encode_folder, files_of, write_image_folder

KINDS = [(format, store) for format in ("zarr", "webdataset") for store in ("int", "rans", "float16")]
COUNT = -(-int(os.environ.get("CI2P_DAMAGES", "60")) // len(KINDS))
Split = dict[str, list[object]]


def flip(cache: Path, name: str, rng: np.random.Generator) -> None:
    data = bytearray((cache / name).read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    (cache / name).write_bytes(data)


def cut(cache: Path, name: str, rng: np.random.Generator) -> None:
    data = (cache / name).read_bytes()
    (cache / name).write_bytes(data[: int(rng.integers(len(data)))])


def zero(cache: Path, name: str, rng: np.random.Generator) -> None:
    """A page that never reached the disk."""
    data = bytearray((cache / name).read_bytes())
    begin = int(rng.integers(len(data)))
    data[begin : begin + 512] = bytes(len(data[begin : begin + 512]))
    (cache / name).write_bytes(data)


def delete(cache: Path, name: str, rng: np.random.Generator) -> None:
    (cache / name).unlink()


def add(cache: Path, name: str, rng: np.random.Generator) -> None:
    shutil.copy(cache / name, (cache / name).with_name(f"{rng.integers(10**6):06d}{Path(name).suffix}"))


def swap(cache: Path, name: str, rng: np.random.Generator) -> None:
    others = sorted(files_of(cache))
    other = others[int(rng.integers(len(others)))]
    mine, theirs = (cache / name).read_bytes(), (cache / other).read_bytes()
    (cache / name).write_bytes(theirs)
    (cache / other).write_bytes(mine)


def swap_alike(cache: Path, name: str, rng: np.random.Generator) -> None:
    """With a file of the same kind, which no length and no header may tell."""
    alike = [other for other in sorted(files_of(cache)) if other != name and is_alike(name, other)]
    if alike:
        other = alike[int(rng.integers(len(alike)))]
        mine, theirs = (cache / name).read_bytes(), (cache / other).read_bytes()
        (cache / name).write_bytes(theirs)
        (cache / other).write_bytes(mine)


def is_alike(name: str, other: str) -> bool:
    def kind(text: str) -> str:
        return "".join("#" if letter.isdigit() else letter for letter in text.partition("/")[2])

    return kind(name) == kind(other)


DAMAGES: list[Callable[[Path, str, np.random.Generator], None]] = [flip, flip, cut, zero, delete, add, swap, swap_alike]


def read(cache: Path) -> dict[str, Split]:
    """Everything that training and evaluation read of a cache."""
    found = {}
    for split in ("train", "val"):
        opened = open_cache(cache, split)
        reader = ViewReader(opened.split_dir, opened.manifest)
        positions = np.repeat(opened.positions, 2)
        latents = reader.read_latents(positions, np.tile([0, 1], opened.num_samples))
        contents = opened.read_contents()
        assert contents is not None
        values = [latents.tobytes(), opened.labels.tolist(), opened.classes, list(opened.read_keys())]
        found[split] = [*values, contents.hashes.tobytes(), contents.num_bytes.tolist(), opened.spec.model_dump()]
    return found


@pytest.fixture(scope="module", params=KINDS, ids=["-".join(kind) for kind in KINDS])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 and 4 images, one of them broken, shards of 3; escapes where integers are stored."""
    format, store = request.param
    images = write_image_folder(tmp_path_factory.mktemp("images"), train=3, val=1)
    (images / "train" / "red" / "broken.png").write_bytes(b"no picture")
    path = tmp_path_factory.mktemp("damaged") / "cache"
    step = None if store == "float16" else 0.25
    return encode_folder(images, path, format=format, store=store, step=step, shard_size=3, on_error="skip")


def test_c6_damage_is_found_and_never_read(whole: Path, tmp_path: Path) -> None:
    spec = open_cache(whole, "train").spec
    rng = np.random.default_rng(KINDS.index((spec.format, spec.store)))
    files, sound = files_of(whole), read(whole)
    for number in range(COUNT):
        name = sorted(files)[int(rng.integers(len(files)))]
        damage = DAMAGES[int(rng.integers(len(DAMAGES)))]
        damage(whole, name, rng)
        found = files_of(whole)
        what = f"{number}: {damage.__name__} {name}"
        problems = [problem for split in find_splits(whole) for problem in verify_split(whole, split)]
        assert bool(problems) == (found != files), what
        assert not any("\n" in problem for problem in problems), what
        try:
            assert read(whole) == sound, what
        except Ci2pError as error:
            assert found != files and "\n" not in str(error), what
        for other in found.keys() - files.keys():
            (whole / other).unlink()
        for other, data in files.items():
            if found.get(other) != data:
                (whole / other).write_bytes(data)
    assert files_of(whole) == files
    convert_split(whole, tmp_path / "again", "val", "zarr")
    assert verify_split(tmp_path / "again", "val") == []


@pytest.mark.parametrize("format", ["zarr", "webdataset"])
def test_the_file_of_another_shard_is_not_read(image_folder: Path, tmp_path: Path, format: str) -> None:
    """It is of the same length and every checksum in it holds."""
    cache = encode_folder(image_folder, tmp_path / "cache", format=format, store="float16", splits=["train"])
    opened = open_cache(cache, "train")
    first, second = (cache / "train" / record.file for record in opened.manifest.shards[:2])
    assert first.stat().st_size == second.stat().st_size
    first.write_bytes(second.read_bytes())
    reader = ViewReader(opened.split_dir, open_cache(cache, "train").manifest)
    with pytest.raises(WorkError, match="the file of another shard"):
        reader.read(np.array([0]), np.array([0]))
    assert len(verify_split(cache, "train")) == 1


@pytest.mark.parametrize("format", ["zarr", "webdataset"])
def test_a_damaged_view_is_named(image_folder: Path, tmp_path: Path, format: str) -> None:
    """One bit of a float16: whatever it is, it is a number."""
    cache = encode_folder(image_folder, tmp_path / "cache", format=format, store="float16", splits=["val"])
    opened = open_cache(cache, "val")
    sound = ViewReader(opened.split_dir, opened.manifest).read(np.array([5]), np.array([1]))
    shard = cache / "val" / opened.manifest.shards[1].file
    data = shard.read_bytes()
    assert data.count(sound.tobytes()) == 1
    shard.write_bytes(data.replace(sound.tobytes(), (sound.view(np.uint16) ^ 1).tobytes()))
    reader = ViewReader(opened.split_dir, opened.manifest)
    assert np.array_equal(reader.read(np.array([5]), np.array([0])), reader.read(np.array([5]), np.array([0])))
    for _ in range(2):
        with pytest.raises(WorkError, match=f"view mirror of image {opened.read_keys()[5]} is damaged"):
            reader.read(np.array([5]), np.array([1]))
    # ... also by the readers of either format's own ecosystem.
    if format == "zarr":
        with pytest.raises(ValueError, match="checksum"):
            zarr.open_group(cache / "val" / "latents.zarr", mode="r")["latents"][5]  # type: ignore[index]
    else:
        records = webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False)
        with pytest.raises(WorkError, match=f"image {opened.read_keys()[5]} is damaged"):
            list(records.compose(images_of_records(opened.spec)))
