"""A gateway's stream to ingest: HTTP/2 and TLS by hand on a socket that never blocks, far lighter than a gRPC library.

Thousands fit into one thread. Only what the Link service needs is spoken: one request, messages of one frame upwards.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator

from protos.comboio.v1 import link_pb2 as wire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
INITIAL_WINDOW = 65_535
LARGEST_WINDOW = 0x7FFFFFFF
LARGEST_FRAME = 16_384
CONNECT_WITHIN_S = 20.0


class StreamError(ConnectionError):
    """The server ended the stream or the connection, or something can't be said by this one."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def message(payload: bytes) -> bytes:
    """One gRPC message as one DATA frame of stream 1. Raises StreamError for what needs more."""
    if len(payload) + 5 > LARGEST_FRAME:
        raise StreamError(f"a message of {len(payload)} bytes needs more than one frame")
    return frame(DATA, 0, 1, struct.pack(">BI", 0, len(payload)) + payload)


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that HPACK need not remember."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def _request_headers() -> bytes:
    fields = {
        b":method": b"POST",
        b":scheme": b"https",
        b":path": b"/comboio.v1.Link/Connect",
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    return b"".join(_literal(name, value) for name, value in fields.items())


class Stream:
    """One connection. `certificate` and `ca` are files; the first holds key and chain. Raises OSError at the start."""

    def __init__(self, *, certificate: str, ca: str, address: tuple[str, int]) -> None:
        self._window = self._stream_window = self._initial = INITIAL_WINDOW
        self._in = bytearray()
        self._messages = bytearray()
        self._out = bytearray()
        self.sock = _connected(certificate, ca, address)

    def say(self, uplink: wire.Uplink) -> None:
        self.put(message(uplink.SerializeToString()))

    def put(self, data: bytes) -> None:
        """A DATA frame, whatever the windows; ask `fits` before."""
        self._out += data
        self._window -= len(data) - 9
        self._stream_window -= len(data) - 9

    def fits(self, size: int) -> bool:
        """Whether the server lets us send a frame of so many bytes now."""
        return min(self._window, self._stream_window) >= size - 9

    def flush(self) -> None:
        while self._out:
            try:
                sent = self.sock.send(self._out)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                return
            del self._out[:sent]

    @property
    def blocked(self) -> bool:
        return bool(self._out)

    def close(self) -> None:
        self.sock.close()

    def receive(self) -> Iterator[wire.Downlink]:
        """What is there. Raises StreamError once the server has ended it."""
        while True:
            try:
                data = self.sock.recv(1 << 16)
            except (ssl.SSLWantReadError, BlockingIOError):
                return
            if not data:
                raise StreamError("the server hung up")
            self._in += data
            yield from self._frames()
            if not self.sock.pending():
                return

    def windows_grew(self) -> None:
        """The server lets us send more."""

    def _frames(self) -> Iterator[wire.Downlink]:
        at = 0
        while len(self._in) - at >= 9:
            size = int.from_bytes(self._in[at : at + 3], "big")
            if len(self._in) - at < 9 + size:
                break
            kind, flags = self._in[at + 3], self._in[at + 4]
            stream = int.from_bytes(self._in[at + 5 : at + 9], "big")
            payload = bytes(self._in[at + 9 : at + 9 + size])
            at += 9 + size
            if kind == DATA:
                self._messages += payload
                yield from self._whole()
            else:
                self._control(kind, flags, stream, payload)
        del self._in[:at]

    def _whole(self) -> Iterator[wire.Downlink]:
        while len(self._messages) >= 5:
            end = 5 + int.from_bytes(self._messages[1:5], "big")
            if len(self._messages) < end:
                return
            said = bytes(self._messages[5:end])
            del self._messages[:end]
            yield wire.Downlink.FromString(said)

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            self._window += 0 if stream else more
            self._stream_window += more if stream else 0
            self.windows_grew()
        elif kind == SETTINGS and not flags & 1:
            for at in range(0, len(payload), 6):
                key, value = struct.unpack_from(">HI", payload, at)
                if key == 4:
                    self._stream_window += value - self._initial
                    self._initial = value
            self._out += frame(SETTINGS, 1, 0)
        elif kind == PING and not flags & 1:
            self._out += frame(PING, 1, 0, payload)
        elif kind in (GOAWAY, RESET) or (kind == HEADERS and flags & 1):
            raise StreamError(f"the server ended the stream: {payload!r}")


def _connected(certificate: str, ca: str, address: tuple[str, int]) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])
    raw = socket.create_connection(address, timeout=CONNECT_WITHIN_S)
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = context.wrap_socket(raw, server_hostname="localhost")
        settings = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, LARGEST_WINDOW))
        grow = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST_WINDOW - INITIAL_WINDOW))
        sock.sendall(PREFACE + settings + grow + frame(HEADERS, 4, 1, _request_headers()))
    except BaseException:
        raw.close()
        raise
    sock.setblocking(False)
    return sock
