"""Serves the page, so that it can't hurt polling: few connections, none of them for long, small requests only."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.clock import Clock
from gateway.errors import Misconfigured
from gateway.field import pin
from gateway.field.app import Surface
from gateway.field.sessions import Sessions
from gateway.health.picture import Picture
from protos.config import FieldSection

AT_ONCE = 24
LONGEST_S = 60.0
"""A browser opens another connection without a word; somebody who only holds them open does not matter."""
LOOK_EVERY_S = 5.0
ENDING_S = 1.0
LINE_BYTES = 4096

log = structlog.get_logger("gateway.field")


class Page:
    """`run()` supervised. Raises Misconfigured when it can't listen where it is told to."""

    def __init__(
        self,
        settings: FieldSection,
        *,
        data_dir: Path,
        clock: Clock,
        take: Callable[[], Picture],
        longest_s: float = LONGEST_S,
    ) -> None:
        self.port: int | None = None
        """Once it listens."""
        self._settings = settings
        self._clock = clock
        self._take = take
        self._pin_path = Path(settings.pin_file) if settings.pin_file else data_dir / pin.NAME
        self._longest_s = longest_s

    async def run(self) -> None:
        door = pin.Door(self._pin_path, clock=self._clock)
        surface = Surface(take=self._take, door=door, sessions=Sessions(clock=self._clock), pin_path=self._pin_path)
        runner = web.AppRunner(
            surface.app(),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=ENDING_S,
            keepalive_timeout=15.0,
            max_line_size=LINE_BYTES,
            max_field_size=LINE_BYTES,
        )
        await runner.setup()
        try:
            await self._serve(runner)
        finally:
            await runner.cleanup()

    async def _serve(self, runner: web.AppRunner) -> None:
        assert runner.server is not None
        doorman = Doorman(runner.server, at_once=AT_ONCE, longest_s=self._longest_s)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(doorman, sock=_listening(self._settings.listen), backlog=AT_ONCE)
        self.port = server.sockets[0].getsockname()[1]
        log.info("field.serving", listen=self._settings.listen, port=self.port, pin=self._pin_path.exists())
        try:
            while True:
                await asyncio.sleep(min(LOOK_EVERY_S, self._longest_s / 4))
                doorman.look()
        finally:
            self.port = None
            server.close()


class Doorman:
    """Lets connections in to `server`, up to `at_once`, each for about `longest_s`; `look` now and then."""

    def __init__(self, server: web.Server, *, at_once: int, longest_s: float) -> None:
        self._server = server
        self._at_once = at_once
        self._longest_s = longest_s
        self._since_s: dict[RequestHandler, float] = {}

    def __call__(self) -> asyncio.BaseProtocol:
        return self._server() if len(self._server.connections) < self._at_once else _Refused()

    def look(self) -> None:
        """Close what has been open for too long."""
        now_s = asyncio.get_running_loop().time()
        self._since_s = {one: self._since_s.get(one, now_s) for one in self._server.connections}
        for connection, since_s in self._since_s.items():
            if now_s - since_s > self._longest_s:
                connection.force_close()


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def _listening(listen: str) -> socket.socket:
    """Not listening yet; Misconfigured says why not."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if int(port) > 65535:
        raise Misconfigured(f"field.listen: {listen}: a port is at most 65535")
    opened: socket.socket | None = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST
        )[0]
        opened = socket.socket(family, kind)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except (OSError, OverflowError) as error:
        if opened is not None:
            opened.close()
        raise Misconfigured(f"field.listen: {listen}: {getattr(error, 'strerror', None) or error}") from None
    return opened
