"""One connection to Modbus devices: connects when needed, asks, and says clearly why an answer did not come.

pymodbus carries the bytes and waits; what they mean is decided in `modbus_hearing`, which sees them first. Three of its
habits are turned off: it drops a connection that serves many units because one is dead, it waits out the timeout on a
connection already closed, and it prints whole frames. Not safe for concurrent use: it belongs to one bus task.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from pymodbus.exceptions import ModbusException

from firmware_configs.budget import Request
from firmware_configs.schema import Timing
from gateway.sensors import modbus_frames as frames
from gateway.sensors.modbus_dialects import Client, Question, dialect_of
from gateway.sensors.modbus_frames import ReadFailed
from gateway.sensors.modbus_hearing import Asked, Dropped, Hearing
from gateway.sensors.modbus_identity import identified
from gateway.sensors.modbus_writes import Write
from protos.config import Bus

_SILENT_LIMIT = 5
"""Exchanges in a row without an answer, over all units, after which a connection itself is doubted."""
_BUSY = frozenset({5, 6})
_AT_WORK = frozenset({5, 11})
"""Exceptions to a write that do not say it was refused: it takes long; the device behind a gateway was not heard."""
_BABBLE = 4
"""Times the longest frame: a line that is not silent for so long is broken."""
_STANDARD = Timing()


class Link(Protocol):
    """What a poll and a command are given."""

    async def read(self, unit: int, request: Request) -> Sequence[int]:
        """Exactly `request.length` registers (or bits as 0 and 1). Raises ReadFailed, nothing else."""

    async def write(self, unit: int, write: Write) -> Sequence[int]:
        """Asked once, again only of a device that said it was busy (6). What function 23 read, else nothing.

        Raises ReadFailed, nothing else. Cause "exception": the device refused, nothing was changed by this request.
        "unreachable": it was not asked. Any other: it may or may not have acted.
        """

    async def identify(self, unit: int) -> Mapping[str, str]:
        """What the device says that it is (43/14), by the standard's names; others as object_128 on.

        Raises ReadFailed, nothing else.
        """


class ModbusLink:
    """Life cycle: exchanges any number of times from one task, connecting by itself; `close` at the end."""

    def __init__(self, *, options: Bus, seed: int | None = None) -> None:
        self._options = options
        self._dialect = dialect_of(options)
        self._where = self._dialect.where
        self._gone = f"{self._where}: {self._dialect.gone}"
        self._hearing = Hearing(self._dialect.cut, serial=self._dialect.serial)
        self._random = random.Random(seed)  # noqa: S311 - jitter
        self._client: Client | None = None
        self._next: tuple[int, bytes, str] | None = None
        self._sent = b""
        """What was asked last."""
        self._timings: dict[int, Timing] = {}
        self._unproved: set[int] = set()
        """Units in doubt that have not answered a loopback either."""
        self._no_loopback: set[int] = set()
        self._silent = 0
        self._reason = ""
        self._delay_s = 0.0
        self._retry_at = self._opened_at = 0.0
        self._rest_until = 0.0
        self._units_rest: dict[int, float] = {}
        self._dirty = False
        self._grace: asyncio.TimerHandle | None = None
        logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)

    @property
    def dropped(self) -> Counter[Dropped]:
        """What was heard and taken for nothing, by what it was; since the link was made."""
        return self._hearing.dropped

    def suits(self, unit: int, timing: Timing) -> None:
        """Give `unit` the time it needs from now on; of several tellings the slowest counts."""
        needs = _slower(self._timings.get(unit, _STANDARD), timing)
        if needs != _STANDARD:
            self._timings[unit] = needs

    def close(self) -> None:
        """Close the connection, if any; the next exchange opens another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    # --- what can be asked --------------------------------------------------------------------------

    async def read(self, unit: int, request: Request) -> Sequence[int]:
        asked = frames.question(request)
        answer = await self._ask(unit, asked, f"unit {unit}, {request.function} {request.address}")
        if answer[0] != asked[0]:
            what = f"unit {unit}, {request.function} {request.address}+{request.length}"
            raise frames.exception_answer(what, answer[1])
        return frames.values(asked, answer)

    async def write(self, unit: int, write: Write) -> Sequence[int]:
        what = f"unit {unit}, function {write.function} at {write.address}"
        try:
            asked = frames.command(write)
        except (ValueError, struct.error) as error:
            raise ReadFailed("internal", f"{what}: {error}") from None
        self._sent = b""
        try:
            answer = await self._ask(unit, asked, what, again={6})
        except ReadFailed as failure:
            if self._sent != asked:
                raise ReadFailed("unreachable", f"{what}: was not asked: {failure}") from None
            raise
        if answer[0] == asked[0]:
            return frames.values(asked, answer) if write.function == 23 else ()
        refusal = frames.exception_answer(what, answer[1])
        if refusal.code in _AT_WORK:
            raise ReadFailed("timeout", f"{refusal}; it may or may not have acted", code=refusal.code)
        raise refusal

    async def identify(self, unit: int) -> Mapping[str, str]:
        return await identified(lambda asked: self._ask(unit, asked, f"unit {unit}, identification"), unit)

    # --- one exchange -------------------------------------------------------------------------------

    async def _ask(self, unit: int, asked: bytes, what: str, again: frozenset[int] | set[int] = _BUSY) -> bytes:
        """The answer's PDU, an exception included. Asked again while the device is busy, as its profile says."""
        timing = self._timings.get(unit)
        if timing is None:
            return await self._once(unit, asked, what, _STANDARD)
        answer = b""
        for left in range(timing.busy_retries, -1, -1):
            answer = await self._once(unit, asked, what, timing)
            if answer[0] == asked[0] or answer[1] not in again or not left:
                break
            await asyncio.sleep(timing.busy_wait_ms / 1000.0)
        return answer

    async def _once(self, unit: int, asked: bytes, what: str, timing: Timing) -> bytes:
        client = self._client
        if client is None or not client.connected:
            client = await self._connect()
        try:
            await self._turn(unit, timing)
            if self._dialect.serial:
                await self._make_sure(client, unit, asked)
            answer = await self._exchange(client, unit, asked, what)
        except ReadFailed as failure:
            self._judge(failure)
            raise
        finally:
            now_s = time.monotonic()
            self._rest_until = now_s + self._options.pause_ms / 1000.0
            if timing is not _STANDARD:
                self._units_rest[unit] = now_s + timing.pause_ms / 1000.0
                if timing.reconnect_each:
                    self.close()
        self._silent = 0
        self._delay_s = 0.0
        self._proved(unit)
        return answer

    def _proved(self, unit: int) -> None:
        if unit in self._hearing.doubted:
            self._hearing.doubted.discard(unit)
            if unit in self._unproved:  # it answers questions and no loopback
                self._no_loopback.add(unit)
        self._unproved.discard(unit)

    async def _exchange(self, client: Client, unit: int, asked: bytes, what: str) -> bytes:
        if self._hearing.stray:
            raise ReadFailed("malformed", f"{self._where}: bytes nobody asked for")
        dialect = self._dialect
        self._next = (unit, asked, what)
        timeout_s = self._options.timeout_s
        if dialect.character_s:
            client.ctx.comm_params.timeout_connect = timeout_s + dialect.wire_s(len(asked) + 3, _answer_bytes(asked))
        answered = False
        try:
            await client.execute(False, Question(unit, asked))
            answered = True
        except ModbusException:
            if not client.connected:
                raise ReadFailed("closed", self._gone) from None
            raise self._hearing.silence(what, timeout_s) from None
        finally:
            self._next = None
            self._hearing.done()
            self._stop_grace()
            if dialect.serial and not answered:
                self._dirty = True
                self._hearing.given_up(unit)
        return self._hearing.answer

    def _judge(self, failure: ReadFailed) -> None:
        """Keep a connection on which a unit is merely silent; leave one whose bytes can't be trusted."""
        self._silent += 1
        if not self._dialect.socket:
            if failure.cause == "closed":
                self.close()
                self._back_off(str(failure))
        elif failure.cause != "timeout" or self._silent >= _SILENT_LIMIT:
            self._silent = 0
            self._drop()
            if failure.cause in {"protocol", "closed"}:
                self._back_off(str(failure))

    # --- before a question --------------------------------------------------------------------------

    async def _turn(self, unit: int, timing: Timing) -> None:
        """Wait until this unit may be asked."""
        if self._options.pause_ms or timing is not _STANDARD:
            from_s = max(
                self._rest_until, self._units_rest.get(unit, 0.0), self._opened_at + timing.after_connect_ms / 1000.0
            )
            await asyncio.sleep(max(0.0, from_s - time.monotonic()))
        if self._dialect.serial:
            await self._silence(self._dialect.longest_s if self._dirty else self._dialect.silence_s)
            self._dirty = False

    async def _silence(self, needed_s: float) -> None:
        """Listen, and drop what comes, until nothing came for so long."""
        give_up_s = time.monotonic() + _BABBLE * (self._dialect.longest_s + needed_s)
        while (left_s := self._hearing.heard_at_s + needed_s - time.monotonic()) > 0:
            if time.monotonic() > give_up_s:
                raise ReadFailed("malformed", f"{self._where}: the line is never silent; is there a second master?")
            await asyncio.sleep(left_s)

    async def _make_sure(self, client: Client, unit: int, asked: bytes) -> None:
        """Nothing that comes now can be the answer to something else.

        A unit in doubt is sent a loopback (function 8) with a number of its own: devices answer in turn, so what comes
        after it is no older answer. One that knows no loopback and refuses has answered as well. From one that ignores
        it nothing may have come for two timeouts.
        """
        if unit in self._hearing.doubted:
            if unit in self._no_loopback or unit in self._unproved or not self._hearing.knows_echo:
                await self._silence(self._dialect.longest_s + self._options.timeout_s)
            else:
                await self._loopback(client, unit)
        if asked[0] in frames.SAME_BACK and not self._hearing.knows_echo:
            # an adapter that hears itself would confirm everything: learn it by a question that isn't its own answer
            await self._exchange(client, unit, b"\x03" + asked[1:3] + b"\0\1", f"unit {unit}, before a write")
            await self._silence(self._dialect.silence_s)

    async def _loopback(self, client: Client, unit: int) -> None:
        sent = struct.pack(">BHH", frames.LOOPBACK, 0, secrets.randbelow(1 << 16))
        try:
            await self._exchange(client, unit, sent, f"unit {unit}, in doubt after a late or missing answer")
        except ReadFailed:
            self._unproved.add(unit)
            raise
        self._hearing.doubted.discard(unit)
        await self._silence(self._dialect.silence_s)

    # --- connecting ---------------------------------------------------------------------------------

    async def _connect(self) -> Client:
        self.close()
        if time.monotonic() < self._retry_at:
            raise ReadFailed("unreachable", self._reason)
        client = self._dialect.make(self)
        dial = client.ctx.call_create
        client.ctx.call_create = lambda: self._dial(dial)
        client.ctx.comm_params.timeout_connect = self._options.timeout_s
        self._reason = f"{self._where}: no connection within {self._options.timeout_s:g} s"
        self._hearing.connected()
        if not await client.connect():
            client.close()
            self._back_off(self._reason)
            raise ReadFailed("unreachable", self._reason)
        self._client = client
        self._opened_at = time.monotonic()
        self._dirty = self._dialect.serial
        return client

    async def _dial(self, dial: Callable[[], Awaitable[Any]]) -> Any:
        """Keep what pymodbus only logs, or lets pass: why connecting failed."""
        try:
            return await dial()
        except Exception as error:
            self._reason = self._dialect.why(error)
            raise OSError(self._reason) from error

    def _back_off(self, reason: str) -> None:
        """Decorrelated jitter up to 2 s, the first retry included."""
        self._reason = reason
        self._delay_s = min(2.0, self._random.uniform(0.05, max(0.1, self._delay_s * 3)))
        self._retry_at = time.monotonic() + self._delay_s

    def _drop(self) -> None:
        """Close with a reset: a question still on its way dies with its connection, and no device answers it later."""
        transport = self._client.ctx.transport if self._client is not None else None
        sock = transport.get_extra_info("socket") if transport is not None else None
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if isinstance(transport, asyncio.Transport) and transport.get_extra_info("sslcontext") is not None:
            transport.abort()  # no farewell that a dead peer would have to answer
        self.close()

    # --- called by pymodbus -------------------------------------------------------------------------

    def on_bytes(self, sending: bool, data: bytes) -> bytes:
        """See `Hooks`."""
        client = self._client
        if client is None:
            return b""
        if sending:
            if self._next is not None:
                unit, asked, what = self._next
                self._sent = asked
                self._hearing.asks(Asked(unit, asked, data, what, client.ctx.request_transaction_id))
            return data
        client.ctx.recv_buffer = b""
        self._stop_grace()
        try:
            frame = self._hearing.hears(data)
        except ReadFailed as failure:
            self._fail(failure)
            return b""
        if frame is None and self._hearing.suspect is not None:
            self._grace = client.ctx.loop.call_later(self._dialect.grace_s, self._fail, self._hearing.suspect)
        return frame or b""

    def on_connection(self, connected: bool) -> None:
        """See `Hooks`."""
        if not connected and self._client is not None:
            self._fail(ReadFailed("closed", self._gone))

    def _fail(self, failure: ReadFailed) -> None:
        future = self._client.ctx.response_future if self._client is not None else None
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


def _slower(one: Timing, other: Timing) -> Timing:
    return Timing(
        pause_ms=max(one.pause_ms, other.pause_ms),
        after_connect_ms=max(one.after_connect_ms, other.after_connect_ms),
        busy_retries=max(one.busy_retries, other.busy_retries),
        busy_wait_ms=max(one.busy_wait_ms, other.busy_wait_ms),
        reconnect_each=one.reconnect_each or other.reconnect_each,
    )
