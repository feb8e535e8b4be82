"""Web servers that do wrong: no try is without an end, and what is given up says so in one line."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci2p_cache import remote_files
from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.loader import BatchLoader
from ci2p_cache.remote import fetch
from pipeline.encode.report import EncodeReport
from pipeline.encode.run import encode_dataset
from pipeline.encode.shard_writer import EncodeOptions
from pipeline.evaluate.inputs import find_inputs
from tests.conftest import call_ci2p
from tests.fault_server import FaultServer, serve_faults
from tests.test_cli import refused
from tests.test_tar_images import open_tars, samples, tar_of

BODY = bytes(range(256)) * 40
# Fault -> what is said of it. A third of half a second is what a try waits.
FAULTS = {
    "status=500": r"the server answered 500 Internal Server Error \(4 times\)",
    "status=429": r"the server answered 429 Too Many Requests \(4 times\)",
    "status=404": "the server answered 404 Not Found",
    "status=403": "the server answered 403 Forbidden",
    "status=418": "the server answered 418",
    "status=304": "the server answered 304",
    "status=206": "a part of the file, for which nobody asked",
    "silence": r"the server said nothing for 0\.\d+ s \(\d times\); CI2P_NETWORK_TIMEOUT=5 waits longer",
    "stall": r"0 bytes came in 0\.\d+ s, after 5120 before them \(\d times\)",
    "drip": r"\d+ bytes came in 0\.\d+ s, after 0 before them \(\d times\)",
    "header_drip": r"the server said nothing for 0\.\d+ s",
    "header": "the answer is no sound HTTP: ",
    "headers": "",
    "endless": r"it has \d+ bytes or more",
    "cut": r"the answer ended too early: .* \(4 times\)",
    "badchunk": "",
    "negative": "the answer is no sound HTTP: ",
    "loop": "it leads on and on, to 10 other addresses",
    "onward": "it leads on and on, to 10 other addresses",
    "elsewhere": "it leads to what is no web address, ftp://example.org/x",
    "nonsense": "the answer is no sound HTTP: ",
    "close": r"the connection broke: .* \(4 times\)",
    "gzip": "",
}


@pytest.fixture(autouse=True)
def short_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI2P_NETWORK_TIMEOUT", "0.5")
    monkeypatch.setattr(remote_files, "MOST_BYTES", 1 << 24)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultServer]:
    (tmp_path / "file").write_bytes(BODY)
    with serve_faults(tmp_path) as serving:
        yield serving


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_an_end_and_a_line(server: FaultServer, fault: str) -> None:
    url = f"{server.url}/file?{fault}"
    begin = time.monotonic()
    with pytest.raises(WorkError, match=rf"cannot be read \(.*{FAULTS[fault]}.*same command again$") as raised:
        fetch(url)
    assert str(raised.value).startswith(url) and "\n" not in str(raised.value) and len(str(raised.value)) < 400
    assert time.monotonic() - begin < 10
    for ask in (remote_files.file_size, remote_files.exists, lambda url: remote_files.read_range(url, 100, 200)):
        try:
            assert ask(url) in (None, False, True, len(BODY), BODY[100:200], b"")
        except OSError as error:
            assert error.strerror and "\n" not in error.strerror
    assert time.monotonic() - begin < 20


def test_what_passes_is_tried_again(server: FaultServer) -> None:
    for fault in ("status-503", "cut", "close", "silence", "stall"):
        server.requests.clear()
        assert bytes(fetch(f"{server.url}/file?once={fault}")) == BODY
        assert server.requests["/file"] == 2
    assert bytes(fetch(f"{server.url}/file?chunks")) == BODY


def test_nobody_listens_there(server: FaultServer) -> None:
    with pytest.raises(WorkError, match=r"^http://127.0.0.1:9/x cannot be read \(no connection: .*\(4 times\)\)"):
        fetch("http://127.0.0.1:9/x")


@pytest.mark.parametrize(("fault", "found"), [("short", "10233"), ("long", "10247"), ("endless", r"\d{5,}")])
def test_lengths_are_held_against_what_is_known(server: FaultServer, fault: str, found: str) -> None:
    url = f"{server.url}/file?{fault}"
    with pytest.raises(WorkError, match=rf"has {found} bytes instead of 10240; copy it there again"):
        fetch(url, len(BODY))


def test_ranges(server: FaultServer) -> None:
    url = f"{server.url}/file"
    assert remote_files.read_range(url, 5, 9) == BODY[5:9]
    assert remote_files.read_range(url, 10_230, 99_999) == BODY[10_230:]
    assert remote_files.read_range(f"{url}?norange", 0, 300) == BODY[:300]
    for fault, said in (("norange", "gives whole files alone"), ("otherrange", "from byte 7 on, not from 100")):
        with pytest.raises(OSError, match=said):
            remote_files.read_range(f"{url}?{fault}", 100, 200)
    with remote_files.open_file(url) as file:
        file.seek(-4, 2)
        assert file.read() == BODY[-4:] and file.seek(2) == 2 and file.read(3) == BODY[2:5]
    with pytest.raises(OSError, match="does not tell how long it is"):
        remote_files.open_file(f"{url}?chunks")


def test_a_timeout_that_is_none(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("soon", "0", "-3", "nan", "inf"):
        monkeypatch.setenv("CI2P_NETWORK_TIMEOUT", value)
        with pytest.raises(InputError, match=f"CI2P_NETWORK_TIMEOUT={value} is no number of seconds; set it to"):
            fetch(f"{server.url}/file")


@pytest.mark.parametrize("fault", ["silence", "header", "drip", "cut", "loop", "status=500", "nonsense"])
def test_a_cache_behind_a_server_that_fails(zarr_cache: Path, fault: str) -> None:
    with serve_faults(zarr_cache) as server:
        split = open_cache(server.url, "train")
        loader = BatchLoader(split, batch_size=4, resident="off")
        for file in (split.manifest.shards[2].file, "manifest.json"):
            server.faults = {file: fault}
            if file == "manifest.json" or fault not in ("drip", "cut"):  # their header is sound
                with pytest.raises(WorkError, match=rf"^{server.url}/train/{file} cannot be read \("):
                    open_cache(server.url, "train")
            if file != "manifest.json":
                with pytest.raises(WorkError, match=rf"^{server.url}/train/{file} cannot be read \("):
                    list(loader.epoch(0))


def test_a_cache_of_a_server_that_tells_no_lengths(zarr_cache: Path) -> None:
    with serve_faults(zarr_cache) as server:
        server.faults = {"": "chunks"}
        split = open_cache(server.url, "train")
        assert sum(len(batch.labels) for batch in BatchLoader(split, batch_size=4, resident="off").epoch(0)) == 20


@pytest.mark.parametrize("fault", ["silence", "header", "drip", "cut", "loop", "status=500", "nonsense", "chunks"])
def test_tars_behind_a_server_that_fails(tmp_path: Path, fault: str) -> None:
    for name in ("train-0.tar", "val-0.tar"):
        (tmp_path / name).write_bytes(samples(["a", "b"]))
    with serve_faults(tmp_path) as server:
        split = open_tars(f"{server.url}/{{train,val}}-0.tar")["train"]
        server.faults = {"train-0.tar": fault}
        with pytest.raises(InputError, match=rf"^--data-dir: cannot read {server.url}/train-0.tar: \w"):
            open_tars(f"{server.url}/{{train,val}}-0.tar")
        if fault != "chunks":
            with pytest.raises(WorkError, match=rf"^{server.url}/train-0.tar cannot be read \("):
                split.read_bytes(0)


@pytest.mark.parametrize("fault", ["status-503", "silence", "close"])
@pytest.mark.parametrize("workers", [0, 1])
def test_encoding_over_a_server_that_begins_to_fail_ends(
    image_folder: Path, tmp_path: Path, fault: str, workers: int
) -> None:
    """What the server keeps back is no bad image: none is left out for it, whatever --on-error."""
    images = sorted((image_folder / "train").rglob("*.png"))
    files = {f"{number}.png": image.read_bytes() for number, image in enumerate(images)}
    files |= {f"{number}.cls": b"0" for number in range(len(images))}
    served = tmp_path / "served"
    served.mkdir()
    for split in ("train", "val"):
        (served / f"{split}-0.tar").write_bytes(tar_of(files))
    with serve_faults(served) as server:

        def encode() -> EncodeReport:
            options = EncodeOptions(workers=workers, batch_size=4, shard_size=8, on_error="skip")
            tars = f"{server.url}/{{train,val}}-0.tar"
            return encode_dataset("webdataset", tars, tmp_path / "cache", options, image_size=32, device="cpu")

        server.faults = {"train-0.tar": f"late=12-{fault}"}
        with pytest.raises(WorkError, match=rf"^{server.url}/train-0.tar cannot be read \(.*same command again$"):
            encode()
        assert server.requests["/train-0.tar"] < 40
        server.faults = {}
        measured = encode().measured()["train"]
        assert (measured["num_images"], measured["num_failed"]) == (21, 0)


def test_official_weights_behind_a_server_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_codec = pytest.importorskip("pipeline.encode.whole_codec", exc_type=InputError)
    served = tmp_path / "served"
    served.mkdir()
    name = f"codec-{hashlib.sha256(BODY).hexdigest()[:8]}.pth.tar"
    (served / name).write_bytes(BODY)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with serve_faults(served) as server:
        url = f"{server.url}/{name}"
        urls = whole_codec.compressai.zoo.image.model_urls["bmshj2018-factorized"]["mse"]
        monkeypatch.setitem(urls, 5, url)
        for fault in ("silence", "header", "cut", "short", "status=500"):
            server.faults = {name: fault}
            with pytest.raises(InputError, match=rf"the download failed \(.*\); fetch {url} where there is a network"):
                whole_codec.read_zoo("--weights")
            assert not list((tmp_path / "torch").rglob("*.tar"))
        server.faults = {}
        whole_codec._download(url)
        assert (tmp_path / "torch" / "hub" / "checkpoints" / name).read_bytes() == BODY


def test_images_behind_a_server_that_fails(image_folder: Path) -> None:
    with serve_faults(image_folder) as server:
        url = f"{server.url}/val/red/001.png"
        images = find_inputs([url, *(f"{url}?{fault}" for fault in FAULTS)])
        assert images.read_bytes(0) == (image_folder / "val/red/001.png").read_bytes()
        for index in range(1, len(images.keys)):
            with pytest.raises(OSError) as raised:
                images.read_bytes(index)
            assert len(str(raised.value)) < 300


def test_training_over_a_server_that_fails_ends_in_one_line(
    zarr_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_faults(zarr_cache) as server:
        server.faults = {"manifest.json": "header"}
        arguments = ("train", "--shards", server.url, "--model", "ci2p_vit_tiny", "--epochs", "1", "--device", "cpu")
        error = refused(call_ci2p(*arguments, cwd=tmp_path), status=1)
        assert error.startswith(f"Error: {server.url}/train/manifest.json cannot be read (the answer is no sound HTTP")


def test_what_is_no_address() -> None:
    for url in ("http://[::1/x", "http:///x", "http://h:99999/x"):
        with pytest.raises(InputError, match=r"^--shards .* cannot be opened: "):
            open_cache(url, "train")
        with pytest.raises(OSError):
            find_inputs([url]).read_bytes(0)
