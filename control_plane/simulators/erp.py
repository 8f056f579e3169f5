"""`comboio-control simulate erp`: an ERP that takes signed webhooks, remembers everything, and can misbehave on demand.

POST /webhook   verifies webhook-id, -timestamp and -signature (Standard Webhooks); an event takes effect once per id
GET  /received  what came: requests, effects in order, ids with other content
POST /behave    {"latency_ms": 200, "fail": "500|503|timeout|after_commit|reset|401|410", "for": 3}

`after_commit` takes effect and loses the reply, `timeout` answers nothing, `reset` breaks the connection.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import signal
import socket
import struct
import sys
import threading
import time
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY_BYTES = 1 << 20
HANG_S = 60.0
FAILURES = frozenset({"500", "503", "timeout", "after_commit", "reset", "401", "410", "400"})


class Ledger:
    """What an ERP would have done. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bodies: dict[str, str] = {}
        self._documents: dict[str, str] = {}
        self._effects: list[dict[str, Any]] = []
        self._requests: dict[str, int] = {}
        self._conflicts: list[str] = []
        self._refused = 0

    def take(self, event_id: str, body: bytes) -> str:
        """Count a request; give the document number, the same for the same id. Raises ValueError for other content."""
        digest = hashlib.sha256(body).hexdigest()
        with self._lock:
            self._requests[event_id] = self._requests.get(event_id, 0) + 1
            known = self._bodies.get(event_id)
            if known is None:
                self._bodies[event_id] = digest
                number = self._documents[event_id] = f"DOC-{len(self._effects) + 1:06d}"
                self._effects.append({"document": number, "at_ms": time.time_ns() // 1_000_000, **json.loads(body)})
                return number
            if known != digest:
                self._conflicts.append(event_id)
                raise ValueError(f"{event_id} was sent before with another body")
            return self._documents[event_id]

    def refuse(self) -> None:
        with self._lock:
            self._refused += 1

    def report(self) -> dict[str, Any]:
        with self._lock:
            return {
                "requests": sum(self._requests.values()),
                "ids": len(self._requests),
                "effects": list(self._effects),
                "repeated": {id_: n for id_, n in self._requests.items() if n > 1},
                "conflicts": list(self._conflicts),
                "refused": self._refused,
            }


class Behaviour:
    """How the next requests are treated."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latency_ms = 0
        self._fail: str | None = None
        self._left = 0
        self.over = threading.Event()
        """Set when the server ends, so that nobody is kept waiting."""

    def set(self, wanted: dict[str, Any]) -> None:
        fail = wanted.get("fail")
        if fail is not None and fail not in FAILURES:
            raise ValueError(f"fail: {fail!r} is not one of {', '.join(sorted(FAILURES))}")
        unknown = wanted.keys() - {"latency_ms", "fail", "for"}
        if unknown:
            raise ValueError(f"not understood: {', '.join(sorted(unknown))}")
        with self._lock:
            self._latency_ms = int(wanted.get("latency_ms", 0))
            self._fail = fail
            self._left = int(wanted.get("for", 1)) if fail else 0

    def next(self) -> tuple[float, str | None]:
        """(seconds to wait, how to fail) for one request."""
        with self._lock:
            if self._left <= 0:
                return self._latency_ms / 1000, None
            self._left -= 1
            return self._latency_ms / 1000, self._fail


def handler(ledger: Ledger, behaviour: Behaviour, signer: Webhook) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer leaves in one piece
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            if self.path == "/received":
                self._answer(200, ledger.report())
            else:
                self._answer(404, {"error": "there is /received"})

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            if length > MAX_BODY_BYTES:
                self._answer(413, {"error": "too large"})
                return
            body = self.rfile.read(length)
            if self.path == "/behave":
                self._behave(body)
            elif self.path == "/webhook":
                self._webhook(body)
            else:
                self._answer(404, {"error": "there are /webhook and /behave"})

        def _behave(self, body: bytes) -> None:
            try:
                behaviour.set(json.loads(body))
            except (ValueError, AttributeError, TypeError) as error:
                self._answer(400, {"error": str(error)})
            else:
                self._answer(200, {"ok": True})

        def _webhook(self, body: bytes) -> None:
            wait_s, fail = behaviour.next()
            time.sleep(wait_s)
            if fail in {"400", "401", "410", "500", "503"}:
                self._answer(int(fail), {"error": "told to refuse"})
                return
            if fail == "timeout":
                behaviour.over.wait(HANG_S)
                self.close_connection = True
                return
            if fail == "reset":
                self._reset()
                return
            try:
                signer.verify(body, {key.lower(): value for key, value in self.headers.items()})
            except WebhookVerificationError as error:
                ledger.refuse()
                self._answer(401, {"error": f"signature: {error}"})
                return
            try:
                number = ledger.take(self.headers["webhook-id"], body)
            except ValueError as error:
                self._answer(409, {"error": str(error)})
                return
            if fail == "after_commit":
                self._reset()
                return
            self._answer(200, {"document": number}, document=number)

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
            self.close_connection = True
            self.connection.close()

        def _answer(self, status: int, content: dict[str, Any], *, document: str | None = None) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            if document is not None:
                self.send_header("x-document-id", document)
            self.end_headers()
            self.wfile.write(data)

    return Handler


class ErpServer(ThreadingHTTPServer):
    """Answers in threads; broken peers are none of its business."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], *, secret: str) -> None:
        self.ledger = Ledger()
        self.behaviour = Behaviour()
        super().__init__(address, handler(self.ledger, self.behaviour, Webhook(secret)))

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address

    def server_close(self) -> None:
        self.behaviour.over.set()
        super().server_close()


def new_secret() -> str:
    return "whsec_" + b64encode(secrets.token_bytes(32)).decode()


def command(arguments: list[str]) -> int:
    """The program behind `comboio-control simulate erp`."""
    parser = argparse.ArgumentParser(prog="comboio-control simulate erp", description="An ERP stand-in.")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--secret-file", type=Path, required=True, help="made if it is missing")
    parser.add_argument("--json", action="store_true", help="print the address as one JSON line")
    args = parser.parse_args(arguments)
    if not args.secret_file.exists():
        args.secret_file.write_text(new_secret() + "\n")
        args.secret_file.chmod(0o600)
    secret = args.secret_file.read_text().strip()
    host, _, port = args.listen.rpartition(":")
    try:
        server = ErpServer((host, int(port)), secret=secret)
    except OSError as error:
        print(f"simulate erp: --listen {args.listen}: {error.strerror}", file=sys.stderr)
        return 1
    url = f"http://{host}:{server.server_port}"
    print(json.dumps({"simulator": "erp", "url": url}) if args.json else f"ERP stand-in on {url}", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    return 0
