"""Fetching the files of a remote cache: ahead, again after a failure, and what fails says so in one line."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest

from ci2p_cache import order
from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.loader import BatchLoader
from ci2p_cache.reader import ViewReader
from ci2p_cache.remote import RemoteShards
from tests.conftest import call_ci2p, upload_cache


@pytest.fixture
def two_shards_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "_WINDOW_IMAGES", 8)


@pytest.mark.usefixtures("two_shards_a_window")
@pytest.mark.parametrize("resident", ["off", "cpu"])
def test_a_file_that_fails_is_named(cache: Path, resident: str) -> None:
    memory, url = fsspec.filesystem("memory"), upload_cache(cache, "failing")
    split = open_cache(url, "train")
    file = split.manifest.shards[3].file
    whole = memory.cat_file(f"{url}/train/{file}")

    def read() -> None:
        list(BatchLoader(split, batch_size=4, shuffle=False, resident=resident).epoch(0))  # type: ignore[arg-type]

    memory.pipe_file(f"{url}/train/{file}", whole[:-5])
    with pytest.raises(
        WorkError, match=rf"^{url}/train/{file} has {len(whole) - 5} bytes instead of {len(whole)}; copy"
    ):
        read()
    with pytest.raises(WorkError, match=rf"{file} has {len(whole) - 5} bytes"):
        open_cache(url, "train")
    memory.rm_file(f"{url}/train/{file}")
    with pytest.raises(
        WorkError, match=rf"^{url}/train/{file} cannot be read \(it is missing\); .* same command again"
    ):
        read()
    memory.pipe_file(f"{url}/train/{file}", whole)
    read()


def test_a_fetch_that_failed_ahead_is_tried_again() -> None:
    failing = threading.Event()
    failing.set()

    def load(number: int) -> int:
        if failing.is_set():
            raise WorkError(f"no {number}")
        return number

    shards = RemoteShards(load, 3)
    shards.prefetch([1, 2])
    with pytest.raises(WorkError, match="no 3"):
        shards.get(3)
    failing.clear()
    assert [shards.get(number) for number in (1, 2, 3)] == [1, 2, 3]
    assert shards.get(4) == 4 and shards.held == (2, 3, 4)


def test_giving_up_leaves_nothing_to_fetch() -> None:
    begun, go_on = [], threading.Event()

    def load(number: int) -> int:
        begun.append(number)
        go_on.wait(10)
        return number

    shards = RemoteShards(load, 20)
    shards.prefetch(range(20))
    shards.cancel()
    go_on.set()
    assert shards.get(19) == 19
    assert len(begun) < 10


def test_an_address_that_cannot_be_opened_says_so() -> None:
    with pytest.raises(InputError, match="--shards nonsense://cache cannot be opened: Protocol not known"):
        open_cache("nonsense://cache", "train")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, without a line for each request; answers 500 for `broken`."""

    broken = ""

    def do_GET(self) -> None:
        if self.broken and self.path.endswith(self.broken):
            self.send_error(500)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(cache: Path) -> Iterator[str]:
    Handler.broken = ""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(cache))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.usefixtures("two_shards_a_window")
def test_a_web_server_will_do(server: str, cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    split = open_cache(server, "train")
    loader = BatchLoader(split, batch_size=4, resident="off")
    there = ViewReader(str(cache / "train"), split.manifest)
    views = order.view_choice(np.arange(split.num_samples), 2, 0, 0)
    for batch in loader.epoch(0):  # every image has its position: none failed
        assert np.array_equal(batch.latents.numpy(), there.read_latents(batch.positions, views[batch.positions]))
    Handler.broken = split.manifest.shards[2].file
    arguments = ["train", "--shards", server, "--model", "ci2p_vit_tiny", "--epochs", "1", "--batch-size", "4"]
    finished = call_ci2p(*arguments, "--resident", "off", "--device", "cpu", "--out", tmp_path / "run", cwd=tmp_path)
    assert finished.returncode == 1
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("Error:")]
    assert f"{server}/train/{Handler.broken} cannot be read (the server answered 500" in line
    assert "Traceback" not in finished.stderr
