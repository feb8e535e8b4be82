"""A web server on loopback that does wrong what the query of an address says: http://host:port/name?FAULT.

With `faults` set, the fault is of every path that ends in the key, whatever its query; else the files of `folder` are
served, ranges of them too.
"""

import http.server
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FaultServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: dict[str, str] = {}  # end of a path -> fault
        self.requests: Counter[str] = Counter()  # path -> how many
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # whoever gives up closes the connection


@contextmanager
def serve_faults(folder: Path) -> Iterator[FaultServer]:
    with FaultServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FaultServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.requests[path] += 1
        fault = next((each for end, each in self.server.faults.items() if path.endswith(end)), query)
        file = self.server.folder / path.lstrip("/")
        if not file.is_file():
            self._answer(404)
            return
        self.close_connection = bool(fault)
        data = file.read_bytes()
        if fault:
            getattr(self, f"_{fault.partition('=')[0]}")(data, fault.partition("=")[2])
            return
        self._serve(data)

    def _serve(self, data: bytes) -> None:
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span is None:
            self._answer(200, data)
        else:
            begin, end = int(span[1]), min(int(span[2]) + 1, len(data))
            self._answer(206, data[begin:end], {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"})

    def _answer(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _status(self, data: bytes, number: str) -> None:
        self._answer(int(number))

    def _once(self, data: bytes, fault: str) -> None:
        """The first time the fault, then none."""
        if self.server.requests[self.path.partition("?")[0]] > 1:
            self._answer(200, data)
        else:
            getattr(self, f"_{fault.partition('-')[0]}")(data, fault.partition("-")[2])

    def _late(self, data: bytes, fault: str) -> None:
        """So many sound answers first: "late=3-status-503"."""
        number, _, fault = fault.partition("-")
        if self.server.requests[self.path.partition("?")[0]] <= int(number):
            self._serve(data)
        else:
            getattr(self, f"_{fault.partition('-')[0]}")(data, fault.partition("-")[2])

    def _silence(self, data: bytes, rest: str) -> None:
        self.server.closing.wait(20)

    def _stall(self, data: bytes, rest: str) -> None:
        """Half of the body, then silence."""
        self._answer(200, data[: len(data) // 2], {"Content-Length": str(len(data))})
        self.wfile.flush()
        self.server.closing.wait(20)

    def _drip(self, data: bytes, rest: str) -> None:
        self._answer(200, b"", {"Content-Length": str(len(data))})
        self._drop(data)

    def _header_drip(self, data: bytes, rest: str) -> None:
        self._drop(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000)

    def _drop(self, data: bytes) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.closing.wait(0.05):
                return

    def _header(self, data: bytes, rest: str) -> None:
        self._answer(200, data, {"X-Long": "x" * 1_000_000})

    def _headers(self, data: bytes, rest: str) -> None:
        self._answer(200, data, {f"X-{number}": "x" * 1000 for number in range(3000)})

    def _endless(self, data: bytes, rest: str) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.closing.is_set():
            self.wfile.write(bytes(1 << 20))

    def _chunks(self, data: bytes, rest: str) -> None:
        """Sound, but without a length."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))

    def _badchunk(self, data: bytes, rest: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"zzz\r\n" + data)

    def _cut(self, data: bytes, rest: str) -> None:
        self._answer(200, data[:-7], {"Content-Length": str(len(data))})

    def _short(self, data: bytes, rest: str) -> None:
        """Fewer bytes, of which the header knows."""
        self._answer(200, data[:-7])

    def _long(self, data: bytes, rest: str) -> None:
        self._answer(200, data + b"1234567")

    def _negative(self, data: bytes, rest: str) -> None:
        self._answer(200, data, {"Content-Length": "-5"})

    def _loop(self, data: bytes, rest: str) -> None:
        self._answer(302, b"", {"Location": self.path})

    def _onward(self, data: bytes, rest: str) -> None:
        """To ever another address."""
        self._answer(302, b"", {"Location": f"{self.path.partition('?')[0]}?onward={time.monotonic_ns()}"})

    def _elsewhere(self, data: bytes, rest: str) -> None:
        self._answer(302, b"", {"Location": "ftp://example.org/x"})

    def _nonsense(self, data: bytes, rest: str) -> None:
        self.wfile.write(b"\x00\xff not HTTP at all\r\n\r\n")

    def _close(self, data: bytes, rest: str) -> None:
        pass

    def _gzip(self, data: bytes, rest: str) -> None:
        self._answer(200, b"no gzip", {"Content-Encoding": "gzip"})

    def _norange(self, data: bytes, rest: str) -> None:
        self._answer(200, data)

    def _otherrange(self, data: bytes, rest: str) -> None:
        self._answer(206, data, {"Content-Range": f"bytes 7-{len(data) + 6}/{len(data)}"})
