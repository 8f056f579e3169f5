"""How bytes reach a simulated device and leave it: TCP connections, and a serial line with the speed of a wire."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import struct
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gateway.simulators.modbus_framing import Framing, NotModbusError, Request

_PIECE_S = 0.004
"""Bytes are let go at least this far apart, several at a time on a fast line."""
_PAUSE_S = 0.05
"""What is left of a request by then belongs to no other."""


class Line(Protocol):
    """Where an answer goes."""

    def send(self, data: bytes) -> None: ...

    def trickle(self, data: bytes, every_s: float) -> None:
        """Byte by byte."""

    def reset(self) -> None:
        """Break the connection, if there is one."""


Answer = Callable[[Request, Framing, Line], None]


class Connection(asyncio.Protocol):
    """Cuts the stream into requests; whatever isn't Modbus ends the connection."""

    def __init__(self, framing: Framing, answer: Answer, connections: set[Connection]) -> None:
        self._framing = framing
        self._answer = answer
        self._connections = connections
        self._heard = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._heard += data
        try:
            while self._heard:
                request, used = self._framing.cut(self._heard)
                self._heard = self._heard[used:]
                if request is not None:
                    self._answer(request, self._framing, self)
                elif not used:
                    return
        except NotModbusError:
            self.abort()

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def trickle(self, data: bytes, every_s: float) -> None:
        _trickle(self.send, data, every_s)

    def reset(self) -> None:
        """End with RST instead of FIN."""
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class SerialLine:
    """A pseudo terminal, or a port that is given, with a device at its end.

    `character_s`: time of one character, 0 as fast as it goes. A pseudo terminal has no speed: a question counts as
    heard only when its last character would have come, and answers leave character by character. `silence_s`: what ends
    a frame; `turnaround_s`: from a question to its answer. `echo`: as through an adapter that hears itself.
    """

    def __init__(
        self,
        framing: Framing,
        answer: Answer,
        *,
        character_s: float = 0.0,
        silence_s: float = 0.0,
        turnaround_s: float = 0.0,
        echo: bool = False,
    ) -> None:
        self._framing = framing
        self._answer = answer
        self._character_s = character_s
        self._before_answer_s = max(silence_s, turnaround_s)
        self._echo = echo
        self._loop = asyncio.get_running_loop()
        self._heard = b""
        self._heard_at_s = 0.0
        self._due: deque[int] = deque()
        self._free_at_s = 0.0
        self._timers: set[asyncio.TimerHandle] = set()
        self._descriptors: list[int] = []
        self._link: Path | None = None
        self.path = ""

    def open_pty(self, link: Path | None = None) -> str:
        """The path to open; `link` becomes a symbolic link to it."""
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        self.path = os.ttyname(theirs)
        self._descriptors = [ours, theirs]  # theirs stays open: a terminal nobody has open says so without end
        if link is not None:
            link.unlink(missing_ok=True)
            link.symlink_to(self.path)
            self._link, self.path = link, str(link)
        self._listen(ours)
        return self.path

    def open_port(self, path: Path) -> str:
        """A port that is there, already set as wanted or a pseudo terminal."""
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(descriptor)
        self._descriptors = [descriptor]
        self.path = str(path)
        self._listen(descriptor)
        return self.path

    def _listen(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._readable)

    def close(self) -> None:
        """As if the adapter were pulled out."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._descriptors:
            self._loop.remove_reader(self._descriptors[0])
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        if self._link is not None:
            self._link.unlink(missing_ok=True)

    def _readable(self) -> None:
        try:
            piece = os.read(self._descriptors[0], 4096)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:  # the other end of a given port has gone
            self._loop.remove_reader(self._descriptors[0])
            return
        now_s = self._loop.time()
        if now_s - self._heard_at_s > _PAUSE_S + 256 * self._character_s:
            self._heard = b""
        self._heard_at_s = now_s
        self._later(len(piece) * self._character_s, lambda: self._heard_whole(piece))

    def _heard_whole(self, piece: bytes) -> None:
        if self._echo:
            self._write(piece)
        self._heard += piece
        try:
            while self._heard:
                request, used = self._framing.cut(self._heard)
                self._heard = self._heard[used:]
                if request is not None:
                    self._later(self._before_answer_s, lambda asked=request: self._answer(asked, self._framing, self))  # type: ignore[misc]
                elif not used:
                    return
        except NotModbusError:
            self._heard = b""

    def send(self, data: bytes) -> None:
        now_s = self._loop.time()
        self._free_at_s = max(self._free_at_s, now_s)
        if not self._character_s:
            self._write(data)
            return
        most = max(1, round(_PIECE_S / self._character_s))
        for at in range(0, len(data), most):
            piece = data[at : at + most]
            self._free_at_s += len(piece) * self._character_s
            self._later(self._free_at_s - now_s, lambda piece=piece: self._write(piece))  # type: ignore[misc]

    def trickle(self, data: bytes, every_s: float) -> None:
        _trickle(self._write, data, every_s)

    def reset(self) -> None:
        """A line has no connection: nothing comes."""

    def _write(self, data: bytes) -> None:
        if self._descriptors:
            try:
                os.write(self._descriptors[0], data)
            except OSError:
                return  # nobody reads: the line does not wait

    def _later(self, after_s: float, what: Callable[[], None]) -> None:
        def now() -> None:
            self._timers.discard(timer)
            what()

        timer = self._loop.call_later(max(0.0, after_s), now)
        self._timers.add(timer)


def _trickle(write: Callable[[bytes], None], data: bytes, every_s: float) -> None:
    loop = asyncio.get_running_loop()
    for n in range(len(data)):
        loop.call_later(n * every_s, write, data[n : n + 1])
