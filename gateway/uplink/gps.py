"""Time from satellites, by gpsd's JSON protocol: a stream of reports over a local TCP connection (gpsd_json(5)).

A TPV report says when its fix was. It comes somewhat later, by the receiver's serial line, but before the next one: so
the moment it comes is taken for the middle of that interval, and half of it is added to its own error (`ept`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import structlog

from gateway.clock import Clock
from gateway.errors import Retryable

WATCH = b'?WATCH={"enable":true,"json":true}\n'
EPT_MS = 100
"""Where a report does not say how sure it is."""
MODE_2D = 2
SILENT_S = 30.0
MOST_APART_MS = 5000
LINE_BYTES = 1 << 16

log = structlog.get_logger("gateway.uplink")
Offer = Callable[[int, int, int], None]
"""(mono_ms, wall_ms, err_ms)."""


class Gpsd:
    """`run()` supervised. `address` is host:port. What it says that can't be used is passed over."""

    def __init__(self, address: str, *, clock: Clock, offer: Offer) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._clock = clock
        self._offer = offer
        self._last: tuple[int, int] | None = None

    async def run(self) -> None:
        """Listen until cancelled; raises Retryable when there is nobody, or nothing comes any more."""
        self._last = None
        try:
            async with asyncio.timeout(SILENT_S):
                reader, writer = await asyncio.open_connection(self._host, self._port, limit=LINE_BYTES)
        except (OSError, TimeoutError) as error:
            raise Retryable(f"gpsd at {self._host}:{self._port}: {error or 'no answer'}") from None
        try:
            writer.write(WATCH)
            while True:
                async with asyncio.timeout(SILENT_S):
                    line = await reader.readline()
                if not line:
                    raise Retryable("gpsd ended the connection")
                self._heard(line, self._clock.mono_ms())
        except (OSError, ValueError, TimeoutError) as error:
            raise Retryable(f"gpsd: {error or f'nothing for {SILENT_S:g} s'}") from None
        finally:
            writer.transport.abort()

    def _heard(self, line: bytes, mono_ms: int) -> None:
        fix_ms, err_ms = _fix(line) or (0, 0)
        if not fix_ms:
            return
        last, self._last = self._last, (mono_ms, fix_ms)
        if last is None:
            return
        apart_ms = max(mono_ms - last[0], fix_ms - last[1])
        if 0 < apart_ms <= MOST_APART_MS and fix_ms > last[1]:
            self._offer(mono_ms, fix_ms + apart_ms // 2, err_ms + apart_ms // 2 + 1)


def _fix(line: bytes) -> tuple[int, int] | None:
    """(wall ms of the fix, its error) of a TPV report with a fix."""
    try:
        said: Any = msgspec.json.decode(line)
        if said["class"] != "TPV" or said["mode"] < MODE_2D:
            return None
        at = datetime.fromisoformat(said["time"])
        err_ms = round(float(said.get("ept", EPT_MS / 1000)) * 1000)
        return (round(at.timestamp() * 1000), max(1, err_ms)) if at.tzinfo is not None and err_ms < 1 << 31 else None
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, OverflowError, OSError):
        return None
