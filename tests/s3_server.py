"""A real S3 server on loopback, and a proxy before it that does wrong what a network and a store in trouble do.

client  ->  FaultyProxy, by its dice or by what it is told of one object  ->  moto's server
"""

import http.client
import http.server
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "shelf"
_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>{}</Message></Error>"
_STATUS = {
    "500": (500, _ERROR.format("InternalError", "We encountered an internal error")),
    "503": (503, _ERROR.format("SlowDown", "Please reduce your request rate")),
    "expired": (400, _ERROR.format("ExpiredToken", "The provided token has expired")),
}
# What the dice choose from; "late" is an answer of 500 after the request was carried out.
FAULTS = ("500", "503", "close", "late", "cut", "shorter", "slow", "half")


class FaultyProxy(http.server.ThreadingHTTPServer):
    """`rate` is the share of requests that meet a fault; `told` says what those meet whose path ends so."""

    daemon_threads = True

    def __init__(self, behind: int):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind  # the port of the server
        self.rate = 0.0
        self.faults: tuple[str, ...] = FAULTS
        self.told: dict[str, str] = {}
        self.dice = random.Random(0)
        self.requests: Counter[tuple[str, str]] = Counter()  # method and path -> how many
        self.met: Counter[str] = Counter()  # fault -> how many

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def store(self) -> str:
        """The address of the server itself."""
        return f"http://127.0.0.1:{self.behind}"

    def fault_of(self, path: str) -> str:
        for end, fault in self.told.items():
            if path.endswith(end):
                return fault
        return self.dice.choice(self.faults) if self.dice.random() < self.rate else ""

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # whoever gives up closes the connection


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _pass_on(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests[self.command, path] += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault_of(path)
        if fault:
            self.server.met[fault] += 1
        if fault in _STATUS:
            status, text = _STATUS[fault]
            self._answer(status, {}, text.encode())
            return
        if fault == "close":
            self.close_connection = True
            return
        if fault == "half" and self.command == "PUT":
            body = body[: len(body) // 2]
        headers = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        answer = connection.getresponse()
        data = answer.read()
        kept = {n: v for n, v in answer.getheaders() if n.lower() not in ("transfer-encoding", "connection", "date")}
        connection.close()
        if fault == "late":
            self._answer(500, {}, _STATUS["500"][1].encode())
            return
        if fault == "slow":
            time.sleep(0.2)
        if fault == "drip" and self.command == "GET":
            self._drip(data)
            return
        if fault == "shorter" and data:
            data = data[:-7]
            kept = {n: v for n, v in kept.items() if n.lower() not in ("content-length", "content-range")}
        if fault == "cut" and data:
            self._answer(answer.status, kept | {"Content-Length": str(len(data))}, data[: len(data) // 2])
            self.close_connection = True
            return
        self._answer(answer.status, kept, data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        if not any(name.lower() == "content-length" for name in headers):
            headers = headers | {"Content-Length": str(len(data))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _drip(self, data: bytes) -> None:
        self._answer(200, {"Content-Length": str(len(data))}, b"")
        for byte in data[:100]:
            time.sleep(0.05)
            self.wfile.write(bytes([byte]))


@contextmanager
def serve_s3() -> Iterator[FaultyProxy]:
    """An empty bucket behind a proxy without faults, which s3fs finds by the environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    with FaultyProxy(moto.get_host_and_port()[1]) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in _environment(proxy).items():
                patch.setenv(name, value)
            try:
                filesystem(proxy.url).mkdir(BUCKET)
                yield proxy
            finally:
                proxy.shutdown()
                thread.join()
                moto.stop()


def _environment(proxy: FaultyProxy) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    return keys | {"AWS_ENDPOINT_URL": proxy.url, "AWS_EC2_METADATA_DISABLED": "true"}


def filesystem(endpoint: str) -> Any:
    import s3fs

    return s3fs.S3FileSystem(endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True)


def files_there(proxy: FaultyProxy, folder: str) -> dict[str, bytes]:
    """Relative path -> contents of everything below a folder of the bucket, as the server itself has it."""
    store = filesystem(proxy.store)
    begin = len(f"{BUCKET}/{folder}/")
    return {name[begin:]: store.cat_file(name) for name in sorted(store.find(f"{BUCKET}/{folder}"))}
