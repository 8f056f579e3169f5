"""Far sides to deliver to: the ERP stand-in as shipped, and a sink whose answers a test decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeVar

from control_plane.reconcile.versions import Wanted, settle
from control_plane.settings import Destination
from control_plane.simulators.erp import ErpServer
from control_plane.store.engine import Store

S = TypeVar("S", bound=ThreadingHTTPServer)
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Request(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event


class Answer(NamedTuple):
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Sink(ThreadingHTTPServer):
    """Keeps every request; `respond` says what each is answered."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.respond: Callable[[Request], Answer] = lambda _: Answer()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"

    def take(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
        return self.respond(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Sink

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.take(Request(self.path, headers, body))
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(server: S) -> Iterator[S]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def erp() -> Iterator[ErpServer]:
    with serving(ErpServer(("127.0.0.1", 0), secret=SECRET)) as server:
        yield server


def post(store: Store, destination: Destination, keys: dict[str, int], *, now_ms: int, start: int = 1) -> None:
    """So many new events of each key, in one transaction."""
    wanted = [
        Wanted(
            entity_id=f"{key}-{number}",
            type="comboio.test.happened.v1",
            subject=key,
            time_ms=now_ms + number,
            decided_ms=now_ms + number,
            data={"number": number},
            final=True,
        )
        for key, count in keys.items()
        for number in range(start, start + count)
    ]
    with store.write() as connection:
        settle(connection, wanted=wanted, standing=[], destinations=[destination], now_ms=now_ms)
