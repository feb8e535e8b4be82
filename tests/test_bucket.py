"""A cache in a bucket: written, read and looked through over a real S3 server that fails, and it is the one on a disk.

Promises C1 to C6 and C8.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ci2p_cache import remote_files
from ci2p_cache.cache import open_cache
from ci2p_cache.convert import convert_split
from ci2p_cache.disk_cache import local_disk
from ci2p_cache.errors import InputError, WorkError, describe_system_error
from ci2p_cache.loader import BatchLoader
from ci2p_cache.remote_path import RemotePath, path_of
from ci2p_cache.verify import find_splits, verify_split
from tests.conftest import call_ci2p, encode_folder, files_of

pytest.importorskip("s3fs", reason="needs the extra [s3]")
pytest.importorskip("moto", reason="needs the extra [dev]")
pytest.importorskip("flask_cors", reason="needs the extra [dev]")

from tests.s3_server import BUCKET, FaultyProxy, files_there, filesystem, serve_s3


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyProxy]:
    with serve_s3() as proxy:
        yield proxy


@pytest.fixture
def proxy(server: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Without faults, at first."""
    monkeypatch.setenv("CI2P_NETWORK_TIMEOUT", "4")
    yield server
    server.rate, server.told = 0.0, {}


@pytest.fixture(scope="module")
def there(server: FaultyProxy, zarr_cache: Path) -> str:
    """The URL of a finished cache in the bucket, which is that of `zarr_cache`. Not to be changed."""
    store = filesystem(server.store)
    for name, data in files_of(zarr_cache).items():
        store.pipe_file(f"{BUCKET}/there/{name}", data)
    return f"s3://{BUCKET}/there"


def test_images_of_a_bucket_are_encoded_into_it_through_faults(
    proxy: FaultyProxy, image_folder: Path, zarr_cache: Path
) -> None:
    """C5, C6 and C8: nothing is lost, and nothing is wrong."""
    proxy.rate = 0.12
    url = path_of(f"s3://{BUCKET}/faulty/")
    encode_folder(image_folder, url)
    assert files_there(proxy, "faulty") == files_of(zarr_cache)
    assert find_splits(url) == ["train", "val"]
    assert [verify_split(url, split) for split in ("train", "val")] == [[], []]
    assert len(proxy.met) >= 5


def test_two_processes_train_from_a_bucket_on_what_they_would_read_on_a_disk(
    proxy: FaultyProxy, there: str, zarr_cache: Path, tmp_path: Path
) -> None:
    """T2 and C8."""
    disk = local_disk(tmp_path / "disk", 0.05)
    proxy.requests.clear()
    open_cache(there, "train")
    assert not any(method == "HEAD" and "/latents/c/" in path for method, path in proxy.requests)  # it is listed
    proxy.rate = 0.1
    for rank in range(2):
        ranked = {"batch_size": 4, "seed": 3, "resident": "off", "rank": rank, "world_size": 2}
        remote = BatchLoader(open_cache(there, "train", disk), **ranked)  # type: ignore[arg-type]
        local = BatchLoader(open_cache(zarr_cache, "train"), **ranked)  # type: ignore[arg-type]
        for here, same in zip(local.epoch(1), remote.epoch(1), strict=True):
            assert torch.equal(here.latents, same.latents) and torch.equal(here.labels, same.labels)


def test_a_cache_goes_from_a_bucket_to_another_store_and_back(
    proxy: FaultyProxy, there: str, zarr_cache: Path, tmp_path: Path
) -> None:
    for arguments in (
        ("convert", there, f"s3://{BUCKET}/tars", "--format", "webdataset"),
        ("convert", f"s3://{BUCKET}/tars", tmp_path / "back", "--format", "zarr"),
    ):
        finished = call_ci2p(*arguments, cwd=tmp_path)
        assert finished.returncode == 0, finished.stderr
    assert files_of(tmp_path / "back") == files_of(zarr_cache)
    inspected = call_ci2p("inspect", there, "--json", "-", cwd=tmp_path)
    local = call_ci2p("inspect", zarr_cache, "--json", "-", cwd=tmp_path)
    assert json.loads(inspected.stdout) == json.loads(local.stdout)


class Cut(BaseException):
    """Stands for a SIGKILL."""


def test_killed_before_any_write_and_run_again(zarr_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C2 and C4: what is there is whole, and the second run makes what one that was never killed would have."""
    whole: list[str] = []
    write, left = remote_files.write_file, [0]

    def write_some(url: str, data: bytes) -> None:
        if left[0] == 0:
            raise Cut
        left[0] -= 1
        whole.append(url)
        write(url, data)

    monkeypatch.setattr("ci2p_cache.publish.write_file", write_some)
    target = path_of("memory://killed/cache")
    left[0] = -1
    convert_split(zarr_cache, target, "val", "webdataset")
    order = [url.partition("val/")[2] for url in whole]
    expected = _files_in_memory("killed")
    assert order[-1] == "manifest.json" and all(
        order.index(f"00000{shard}.tar") < order.index(f"shards/00000{shard}.json") for shard in range(3)
    )
    for writes in range(len(order)):
        _empty_memory("killed")
        left[0] = writes
        with pytest.raises(Cut):
            convert_split(zarr_cache, target, "val", "webdataset")
        assert all(expected[name] == data for name, data in _files_in_memory("killed").items())
        assert writes == 0 or verify_split(target, "val") != []
        left[0] = -1
        convert_split(zarr_cache, target, "val", "webdataset")
        assert _files_in_memory("killed") == expected


def _files_in_memory(folder: str) -> dict[str, bytes]:
    import fsspec

    memory = fsspec.filesystem("memory")
    return {name.partition(f"/{folder}/")[2]: memory.cat_file(name) for name in memory.find(f"/{folder}")}


def _empty_memory(folder: str) -> None:
    import fsspec

    fsspec.filesystem("memory").rm(f"/{folder}", recursive=True)


def test_two_writers_of_one_cache_are_harmless(proxy: FaultyProxy, there: str, tmp_path: Path) -> None:
    convert_split(path_of(there), tmp_path / "alone", "val", "webdataset")
    both = path_of(f"s3://{BUCKET}/both")
    proxy.rate = 0.05
    with ThreadPoolExecutor(2) as writers:
        begun = [writers.submit(convert_split, path_of(there), both, "val", "webdataset") for _ in range(2)]
        for writer in begun:
            writer.result()
    assert files_there(proxy, "both") == files_of(tmp_path / "alone")


def test_what_is_wrong_in_a_bucket_is_found(proxy: FaultyProxy, there: str, zarr_cache: Path) -> None:
    """C6."""
    store = filesystem(proxy.store)
    files = files_of(zarr_cache / "val")
    for name, data in files.items():
        store.pipe_file(f"{BUCKET}/wrong/val/{name}", data)
    cache = path_of(f"s3://{BUCKET}/wrong")
    shard = "val/latents.zarr/latents/c/1/0/0/0/0"
    data = files[shard.removeprefix("val/")]
    restore = "run the same `ci2p encode` again to restore it"
    for changed, said in (
        (data[:-1], f"{len(data) - 1} bytes instead of {len(data)}; delete it and {restore}"),
        (data + b"0", f"{len(data) + 1} bytes instead of {len(data)}; delete it and {restore}"),
        (bytes([data[0] ^ 1]) + data[1:], f"changed (its sha256 is not that of the manifest); delete it and {restore}"),
        (b"", f"0 bytes instead of {len(data)}; delete it and {restore}"),
    ):
        store.pipe_file(f"{BUCKET}/wrong/{shard}", changed)
        assert verify_split(cache, "val") == [f"{shard}: {said}"]
    store.rm_file(f"{BUCKET}/wrong/{shard}")
    store.pipe_file(f"{BUCKET}/wrong/val/notes/mine.txt", b"x")
    assert verify_split(cache, "val") == [
        f"{shard}: missing; {restore}",
        "val/notes/mine.txt: no file of the cache; delete it",
    ]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("500", "We encountered an internal error"),
        ("expired", "The provided token has expired"),
        ("cut", ""),
        ("shorter", ""),
        ("drip", "nothing, or next to nothing, came for 0.2"),
    ],
)
def test_what_goes_on_failing_is_one_line_that_names_the_object(
    proxy: FaultyProxy, there: str, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    monkeypatch.setenv("CI2P_NETWORK_TIMEOUT", "0.6")
    name = "val/shards/000001.json"
    proxy.told = {name: fault}
    with pytest.raises(OSError) as raised:
        verify_split(path_of(there), "val")
    line = describe_system_error(raised.value)
    assert line.startswith(f"{there}/{name}: ") and said in line and "\n" not in line


@pytest.mark.parametrize("fault", ["late", "half", "expired"])
def test_what_cannot_be_written_is_one_line_and_the_rest_is_kept(
    proxy: FaultyProxy, zarr_cache: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("CI2P_NETWORK_TIMEOUT", "0.6")
    url, name = f"s3://{BUCKET}/{fault}", "val/shards/000001.json"
    proxy.told = {name: fault}
    with pytest.raises(OSError) as raised:
        convert_split(zarr_cache, path_of(url), "val", store="rans")
    assert describe_system_error(raised.value).startswith(f"{url}/{name}: ")
    there = {name.partition(f"/{fault}/val/")[2] for name in filesystem(proxy.store).find(f"{BUCKET}/{fault}")}
    assert "shards/000000.json" in there and "shards/000002.json" not in there and "manifest.json" not in there


def _one_line(cwd: Path, *arguments: str | Path) -> str:
    finished = call_ci2p(*arguments, cwd=cwd)
    lines = finished.stderr.splitlines()
    assert finished.returncode == 1 and lines[-1].startswith("Error: "), finished.stderr
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


def test_an_endpoint_that_is_not_there_is_one_line(
    proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setenv("CI2P_NETWORK_TIMEOUT", "0.5")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        for arguments in (("verify", "s3://shelf/x"), ("encode", "--dataset", "sample", "--out", "s3://shelf/x")):
            line = _one_line(tmp_path, *arguments)
            assert "s3://shelf/x" in line and "Could not connect to the endpoint" in line
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_what_is_no_store_of_objects_is_not_written_to(tmp_path: Path) -> None:
    assert path_of(f"file://{tmp_path}/x") == tmp_path / "x"
    assert path_of("s3://bucket/x/") == RemotePath("s3://bucket/x")
    with pytest.raises(OSError, match="nothing is written there"):
        remote_files.write_file("http://127.0.0.1:9/x", b"")
    with pytest.raises(InputError, match="nonsense://x cannot be opened: Protocol not known"):
        path_of("nonsense://x")
    line = call_ci2p("train", "caches/x", "--out", "s3://bucket/run", cwd=tmp_path).stderr
    assert "a run is written on a file system: give a folder" in line


def test_another_spec_is_refused(proxy: FaultyProxy, there: str, image_folder: Path) -> None:
    """C3."""
    with pytest.raises(InputError, match=r"there/train holds another cache: step is 1.0 there and 0.5 in this run"):
        encode_folder(image_folder, path_of(there), step=0.5)


def test_a_bucket_that_is_not_there(proxy: FaultyProxy, image_folder: Path) -> None:
    with pytest.raises((OSError, WorkError), match="bucket does not exist"):
        encode_folder(image_folder, path_of("s3://nobody/x"))


def test_a_folder_of_images_is_listed_once_and_looked_at_by_its_listing(
    proxy: FaultyProxy, image_folder: Path, zarr_cache: Path, tmp_path: Path
) -> None:
    store = filesystem(proxy.store)
    images = files_of(image_folder)
    for name, data in {**images, "notes.txt": b"x", "train/red/.hidden": b"x"}.items():
        store.pipe_file(f"{BUCKET}/images/{name}", data)
    for name, data in files_of(zarr_cache / "val").items():  # a cache that lies among them is none of them
        store.pipe_file(f"{BUCKET}/images/cache/val/{name}", data)
    url, out = f"s3://{BUCKET}/images", tmp_path / "cache"
    encode_folder(url, out)
    assert (out / "train/items/keys.npy").read_bytes() == (zarr_cache / "train/items/keys.npy").read_bytes()
    for name in (name for name in files_of(zarr_cache) if "/c/" in name):
        assert (out / name).read_bytes() == (zarr_cache / name).read_bytes()
    left = {
        entry["what"]: entry["names"] for entry in json.loads((out / "train/manifest.json").read_bytes())["left_out"]
    }
    assert left["caches and runs of ci2p"] == ["cache/"]
    assert left["hidden files and folders"] == ["train/red/.hidden"]
    proxy.requests.clear()
    encode_folder(url, out)
    assert not any(path.endswith(".png") for _, path in proxy.requests)
    changed = images["train/blue/001.png"]
    store.pipe_file(f"{BUCKET}/images/train/red/001.png", changed)
    encode_folder(url, out)
    read = {path for method, path in proxy.requests if method == "GET" and path.endswith(".png")}
    assert read == {f"/{BUCKET}/images/train/red/001.png"}
    finished = call_ci2p("verify", out, "--data-dir", url, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
