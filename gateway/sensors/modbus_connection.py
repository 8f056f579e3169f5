"""One connection of pymodbus': opened when needed, asked one question at a time, closed with what it means.

pymodbus carries the bytes and waits; what they mean is decided in `modbus_hearing`, which sees them first. Three of its
habits are turned off: it drops a connection that serves many units because one is dead, it waits out the timeout on a
connection already closed, and it prints whole frames.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pymodbus.exceptions import ModbusException

from gateway.sensors import modbus_frames as frames
from gateway.sensors.modbus_dialects import Client, Dialect, Question
from gateway.sensors.modbus_frames import ReadFailed
from gateway.sensors.modbus_hearing import GLUED_BYTES, Asked, Hearing

_SETTLED_S = 0.002
"""Where a dialect asks for no silence."""


class Connection:
    """Life cycle: `open`, then `exchange` any number of times; `close` or `drop`, and `open` again."""

    def __init__(self, dialect: Dialect, *, timeout_s: float, seed: int | None = None) -> None:
        self.dialect = dialect
        self.hearing = Hearing(dialect.cut, serial=dialect.serial)
        self.client: Client | None = None
        self.opened_at_s = 0.0
        self.dirty = False
        """An answer that was given up may come yet: listen before asking anything."""
        self.sent = b""
        """PDU of the last question that went out."""
        self._timeout_s = timeout_s
        self._gone = f"{dialect.where}: {dialect.gone}"
        self._random = random.Random(seed)  # noqa: S311 - jitter
        self._next: tuple[int, bytes, str] | None = None
        self._reason = ""
        self._delay_s = 0.0
        self._retry_at_s = 0.0
        self._grace: asyncio.TimerHandle | None = None
        logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)

    async def exchange(self, unit: int, asked: bytes, what: str) -> bytes:
        """PDU of the answer, an exception included. Raises ReadFailed."""
        client, dialect, hearing = self.client, self.dialect, self.hearing
        assert client is not None
        if hearing.stray:
            raise ReadFailed("malformed", f"{dialect.where}: bytes nobody asked for")
        if dialect.character_s:
            wire_s = dialect.wire_s(len(asked) + 3, _answer_bytes(asked))
            client.ctx.comm_params.timeout_connect = self._timeout_s + wire_s
        self._next = (unit, asked, what)
        answered = False
        try:
            await client.execute(False, Question(unit, asked))
            if dialect.serial:
                await self._alone(what)
            answered = True
        except ModbusException:
            if not client.connected:
                raise ReadFailed("closed", self._gone) from None
            raise hearing.silence(what, self._timeout_s) from None
        finally:
            self._next = None
            hearing.done()
            self._stop_grace()
            if dialect.serial and not answered:
                self.dirty = True
                hearing.given_up(unit, asked)
        return hearing.answer

    async def _alone(self, what: str) -> None:
        """A frame ends with silence: where another follows at once, either could be an older answer. Raises ReadFailed.

        It costs the line nothing: the next question must wait for that silence anyway.
        """
        self.hearing.done()
        before = self.hearing.stray_bytes
        await asyncio.sleep(self.dialect.silence_s or _SETTLED_S)
        more = self.hearing.stray_bytes - before
        if more >= GLUED_BYTES:
            raise ReadFailed("malformed", f"{what}: {more} bytes came right behind the answer")

    def close(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            client.close()

    # --- connecting ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """Unless it is open. Raises ReadFailed "unreachable", without trying too often."""
        if self.client is not None and self.client.connected:
            return
        self.close()
        if time.monotonic() < self._retry_at_s:
            raise ReadFailed("unreachable", self._reason)
        client = self.dialect.make(self)
        dial = client.ctx.call_create
        client.ctx.call_create = lambda: self._dial(dial)
        client.ctx.comm_params.timeout_connect = self._timeout_s
        self._reason = f"{self.dialect.where}: no connection within {self._timeout_s:g} s"
        self.hearing.connected()
        if not await client.connect():
            client.close()
            self.back_off(self._reason)
            raise ReadFailed("unreachable", self._reason)
        self.client = client
        self.opened_at_s = time.monotonic()
        self.dirty = self.dialect.serial

    async def _dial(self, dial: Callable[[], Awaitable[Any]]) -> Any:
        """Keep what pymodbus only logs, or lets pass: why connecting failed."""
        try:
            return await dial()
        except Exception as error:
            self._reason = self.dialect.why(error)
            raise OSError(self._reason) from error

    def answered(self) -> None:
        """All is well: the next failure is the first again."""
        self._delay_s = 0.0

    def back_off(self, reason: str) -> None:
        """Decorrelated jitter up to 2 s, the first retry included."""
        self._reason = reason
        self._delay_s = min(2.0, self._random.uniform(0.05, max(0.1, self._delay_s * 3)))
        self._retry_at_s = time.monotonic() + self._delay_s

    def drop(self) -> None:
        """Close with a reset: a question still on its way dies with its connection, and no device answers it later."""
        transport = self.client.ctx.transport if self.client is not None else None
        sock = transport.get_extra_info("socket") if transport is not None else None
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if isinstance(transport, asyncio.Transport) and transport.get_extra_info("sslcontext") is not None:
            transport.abort()  # no farewell that a dead peer would have to answer
        self.close()

    # --- called by pymodbus -------------------------------------------------------------------------

    def on_bytes(self, sending: bool, data: bytes) -> bytes:
        """See `Hooks`."""
        client = self.client
        if client is None:
            return b""
        if sending:
            if self._next is not None:
                unit, asked, what = self._next
                self.sent = asked
                self.hearing.asks(Asked(unit, asked, data, what, client.ctx.request_transaction_id))
            return data
        client.ctx.recv_buffer = b""
        self._stop_grace()
        try:
            frame = self.hearing.hears(data)
        except ReadFailed as failure:
            self._fail(failure)
            return b""
        if frame is None and self.hearing.suspect is not None:
            self._grace = client.ctx.loop.call_later(self.dialect.grace_s, self._fail, self.hearing.suspect)
        return frame or b""

    def on_connection(self, connected: bool) -> None:
        """See `Hooks`."""
        if not connected and self.client is not None:
            self._fail(ReadFailed("closed", self._gone))

    def _fail(self, failure: ReadFailed) -> None:
        future = self.client.ctx.response_future if self.client is not None else None
        if self._next is not None and future is not None and not future.done():
            future.set_exception(failure)

    def _stop_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None


def _answer_bytes(asked: bytes) -> int:
    """As long as a good answer can be, with unit and check."""
    if asked[0] in frames.BIT_FUNCTIONS:
        return 5 + -(-int.from_bytes(asked[3:5], "big") // 8)
    if asked[0] in {3, 4, 23}:
        return 5 + 2 * int.from_bytes(asked[3:5], "big")
    return 256 if asked[0] == frames.IDENTIFY else 10
