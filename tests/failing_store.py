"""An S3 server that fails: a proxy that refuses, cuts, delays and counts requests.

It stands on loopback in front of the tests' S3 server, so everything that it lets through is
answered by that.
"""

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAILURES = ("500", "503", "cut before", "cut after", "cut inside")
"""How a request may fail: with an answer, unheard, heard but unanswered, or answered in part."""
SHORT = "short"
"""An answer whose body ends too early, although its header claims that this is all of it."""
EMBEDDED = "error in answer"
"""An answer of success whose body says otherwise, as to deletions and completed uploads."""
ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>Try again.</Message></Error>"
NOT_DELETED = """<?xml version='1.0'?><DeleteResult><Error><Key>file</Key>
<Code>InternalError</Code><Message>Try again.</Message></Error></DeleteResult>"""
CODES = {"500": "InternalError", "503": "SlowDown"}
XML = {"Content-Type": "application/xml"}
REQUEST_HEADERS = {"connection", "expect", "content-length", "transfer-encoding"}
ANSWER_HEADERS = {"connection", "keep-alive", "content-length", "transfer-encoding"}
"""Headers that concern one connection, and are not passed on."""


class FailingStore:
    """The proxy. All attributes may be changed while it runs.

    Attributes:
        share: share of requests that fail, in [0, 1].
        failures: how they fail, each as often as the others.
        fails: regular expression that the first line of a request must match to fail.
        away: whether no request is answered at all.
        delay: time that each request waits before it is passed on, in seconds.
        requests: first lines of all requests, in order.
        failed: how often each kind of failure happened.
        bytes_in: bytes of bodies that were sent to the server.
        in_flight, most_in_flight: requests that are being answered now, and at most at once.
    """

    def __init__(self, port: int, seed: int = 0) -> None:
        """Args: port: that of the S3 server, on this machine."""
        self.share = 0.0
        self.failures: tuple[str, ...] = FAILURES
        self.fails = ""
        self.away = False
        self.delay = 0.0
        self.requests: list[str] = []
        self.failed: Counter[str] = Counter()
        self.bytes_in = 0
        self.in_flight = self.most_in_flight = 0
        self._server_port = port
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are written one after the other; neither is to wait for the other.
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                with suppress(OSError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def __getattr__(self, name: str) -> object:
                if name.startswith("do_"):
                    return lambda: store._handle(self)
                raise AttributeError(name)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._http = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._http.server_address[1])
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def uri(self, uri: str) -> str:
        """The URI that leads to the same place through this proxy."""
        return re.sub(r"(endpoint_override=127.0.0.1):\d+", rf"\1:{self.port}", uri)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def forget(self) -> None:
        """Count from zero again."""
        with self._lock:
            self.requests, self.failed = [], Counter()
            self.bytes_in, self.most_in_flight = 0, self.in_flight

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = _body(request)
        line = f"{request.command} {request.path}"
        with self._lock:
            self.requests.append(line)
            self.bytes_in += len(body)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            fails = self._random.random() < self.share and re.search(self.fails, line)
            failure = self._random.choice(self.failures) if fails else ""
            failure = "cut before" if self.away else failure
            if failure:
                self.failed[failure] += 1
        try:
            time.sleep(self.delay)
            self._answer(request, body, failure)
        finally:
            with self._lock:
                self.in_flight -= 1

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes, failure: str) -> None:
        if failure in CODES:
            content = ERROR.format(CODES[failure]).encode()
            _send(request, int(failure), XML, content)
            return
        if failure == EMBEDDED:
            is_deletion = request.path.endswith("?delete")
            text = NOT_DELETED if is_deletion else ERROR.format(CODES["500"])
            _send(request, 200, XML, text.encode())
            return
        if failure == "cut before":
            _cut(request)
            return
        server = http.client.HTTPConnection("127.0.0.1", self._server_port)
        try:
            server.putrequest(request.command, request.path, True, True)
            for name, value in request.headers.items():
                if name.lower() not in REQUEST_HEADERS:
                    server.putheader(name, value)
            server.putheader("Content-Length", str(len(body)))
            server.endheaders(body)
            answer = server.getresponse()
            content = answer.read()
        finally:
            server.close()
        headers = {n: v for n, v in answer.getheaders() if n.lower() not in ANSWER_HEADERS}
        length = int(answer.getheader("Content-Length") or len(content))
        if failure == "cut after" or (failure == "cut inside" and not content):
            _cut(request)
        elif failure == "cut inside":
            _send(request, answer.status, headers, content[: len(content) // 2], len(content))
            _cut(request)
        elif failure == SHORT and content:
            _send(request, answer.status, headers, content[: len(content) // 2])
        else:
            _send(request, answer.status, headers, content, length)


def _body(request: BaseHTTPRequestHandler) -> bytes:
    """The body of a request, which may come in chunks, each after a line with its size."""
    if request.headers.get("Transfer-Encoding", "") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    parts = []
    while size := int(request.rfile.readline().split(b";")[0], 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    while request.rfile.readline().strip():
        pass
    return b"".join(parts)


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    headers: dict[str, str],
    content: bytes,
    length: int | None = None,
) -> None:
    request.send_response_only(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content) if length is None else length))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)


def _cut(request: BaseHTTPRequestHandler) -> None:
    """Close a connection as a router that was switched off would: with a reset."""
    request.close_connection = True
    with suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        request.connection.shutdown(socket.SHUT_RD)


@contextmanager
def failing_store(options: str, seed: int = 0) -> Iterator[FailingStore]:
    """A proxy in front of a server. Args: options: those that lead a URI to the server."""
    store = FailingStore(int(re.findall(r"endpoint_override=127.0.0.1:(\d+)", options)[0]), seed)
    try:
        yield store
    finally:
        store.close()
