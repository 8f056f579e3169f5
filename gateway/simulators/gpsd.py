"""gpsd as programs see it: JSON reports to whoever asks for them (gpsd_json(5)), with fixes that can be lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

VERSION = {"class": "VERSION", "release": "3.25", "rev": "simulated", "proto_major": 3, "proto_minor": 15}


class SimulatedGpsd:
    """Life cycle: `start`, then any number of clients, then `close`. `latency_s`: how late a report comes."""

    def __init__(
        self,
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        every_s: float = 1.0,
        latency_s: float = 0.2,
        ept_s: float | None = 0.005,
    ) -> None:
        self.mode = 3
        """0 and 1: no fix, 2: a place, 3: its height too."""
        self.port = 0
        self._wall_ms = wall_ms
        self._every_s = every_s
        self._latency_s = latency_s
        self._ept_s = ept_s
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; returns the port."""
        self._server = await asyncio.start_server(self._serve, host, port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def close(self) -> None:
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()

    async def command(self, line: str) -> str:
        """`mode N` sets the fix; answers `ok`. Raises ValueError."""
        word, _, mode = line.partition(" ")
        if word != "mode" or mode not in {"0", "1", "2", "3"}:
            raise ValueError("say mode 0, 1, 2 or 3")
        self.mode = int(mode)
        return "ok"

    def report(self) -> bytes:
        """The TPV of now."""
        said: dict[str, object] = {"class": "TPV", "device": "/dev/simulated", "mode": self.mode}
        if self.mode > 1:
            at = datetime.fromtimestamp(self._wall_ms() / 1000, UTC)
            said |= {"time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "lat": -23.55, "lon": -46.63}
            said |= {"ept": self._ept_s} if self._ept_s is not None else {}
        return json.dumps(said).encode() + b"\r\n"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            writer.write(json.dumps(VERSION).encode() + b"\r\n")
            if not (await reader.readline()).startswith(b"?WATCH="):
                return
            while True:
                report = self.report()
                await asyncio.sleep(self._latency_s)
                writer.write(report)
                await writer.drain()
                await asyncio.sleep(max(0.0, self._every_s - self._latency_s))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._clients.discard(task)
            with contextlib.suppress(OSError):
                writer.close()
