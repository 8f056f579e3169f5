"""What polls and commands are given of a bus: exchanges in turn, at the pace its devices need, and never in doubt.

Not safe for concurrent use: it belongs to one bus task.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from firmware_configs.budget import Request
from firmware_configs.schema import Timing
from gateway.sensors import modbus_frames as frames
from gateway.sensors.modbus_connection import Connection
from gateway.sensors.modbus_dialects import dialect_of
from gateway.sensors.modbus_frames import ReadFailed
from gateway.sensors.modbus_hearing import Dropped
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
        self._pause_s = options.pause_ms / 1000.0
        self._timeout_s = options.timeout_s
        self._connection = Connection(dialect_of(options), timeout_s=options.timeout_s, seed=seed)
        self._dialect = self._connection.dialect
        self._hearing = self._connection.hearing
        self._timings: dict[int, Timing] = {}
        self._unproved: set[int] = set()
        """Units in doubt that have not answered a loopback either."""
        self._no_loopback: set[int] = set()
        self._silent = 0
        self._rest_until_s = 0.0
        self._units_rest_s: dict[int, float] = {}

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
        self._connection.close()

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
        self._connection.sent = b""
        try:
            answer = await self._ask(unit, asked, what, again={6})
        except ReadFailed as failure:
            if self._connection.sent != asked:
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
        await self._connection.open()
        try:
            await self._turn(unit, timing)
            if self._dialect.serial:
                await self._make_sure(unit, asked)
            answer = await self._connection.exchange(unit, asked, what)
        except ReadFailed as failure:
            self._judge(failure)
            raise
        finally:
            now_s = time.monotonic()
            self._rest_until_s = now_s + self._pause_s
            if timing is not _STANDARD:
                self._units_rest_s[unit] = now_s + timing.pause_ms / 1000.0
                if timing.reconnect_each:
                    self.close()
        self._silent = 0
        self._connection.answered()
        self._proved(unit)
        return answer

    def _proved(self, unit: int) -> None:
        if unit in self._hearing.doubted:
            self._hearing.trusts(unit)
            if unit in self._unproved:  # it answers questions and no loopback
                self._no_loopback.add(unit)
        self._unproved.discard(unit)

    def _judge(self, failure: ReadFailed) -> None:
        """Keep a connection on which a unit is merely silent; leave one whose bytes can't be trusted."""
        self._silent += 1
        if not self._dialect.socket:
            if failure.cause == "closed":
                self.close()
                self._connection.back_off(str(failure))
        elif failure.cause != "timeout" or self._silent >= _SILENT_LIMIT:
            self._silent = 0
            self._connection.drop()
            if failure.cause in {"protocol", "closed"}:
                self._connection.back_off(str(failure))

    # --- before a question --------------------------------------------------------------------------

    async def _turn(self, unit: int, timing: Timing) -> None:
        """Wait until this unit may be asked."""
        if self._pause_s or timing is not _STANDARD:
            settled_s = self._connection.opened_at_s + timing.after_connect_ms / 1000.0
            from_s = max(self._rest_until_s, self._units_rest_s.get(unit, 0.0), settled_s)
            await asyncio.sleep(max(0.0, from_s - time.monotonic()))
        if self._dialect.serial:
            await self._silence(self._dialect.longest_s if self._connection.dirty else self._dialect.silence_s)
            self._connection.dirty = False

    async def _silence(self, needed_s: float) -> None:
        """Listen, and drop what comes, until nothing came for so long."""
        give_up_s = time.monotonic() + _BABBLE * (self._dialect.longest_s + needed_s)
        while (left_s := self._hearing.heard_at_s + needed_s - time.monotonic()) > 0:
            if time.monotonic() > give_up_s:
                raise ReadFailed(
                    "malformed", f"{self._dialect.where}: the line is never silent; is there a second master?"
                )
            await asyncio.sleep(left_s)

    async def _make_sure(self, unit: int, asked: bytes) -> None:
        """Nothing that comes now can be the answer to something else.

        A unit in doubt is sent a loopback (function 8) with a number of its own: devices answer in turn, so what comes
        after it is no older answer. One that knows no loopback and refuses has answered as well. From one that ignores
        it nothing may have come for two timeouts.
        """
        if unit in self._hearing.doubted:
            if not self._hearing.knows_echo:
                await self._tell_apart(unit, asked)
            elif unit in self._no_loopback or unit in self._unproved:
                await self._silence(self._dialect.longest_s + self._timeout_s)
            else:
                await self._loopback(unit)
        if asked[0] in frames.SAME_BACK and not self._hearing.knows_echo:
            # an adapter that hears itself would confirm everything: learn it by a question that isn't its own answer
            await self._connection.exchange(unit, b"\x03" + asked[1:3] + b"\0\1", f"unit {unit}, before a write")
            await self._silence(self._dialect.silence_s)

    async def _tell_apart(self, unit: int, asked: bytes) -> None:
        """Instead of a loopback, which an echo would answer: a read of a table and size that nothing else has."""
        taken = {*self._hearing.owed.get(unit, ()), frames.count_of(asked)}
        count = next((n for n in range(1, 126) if n not in taken), 125)
        probe = (b"\x03" if asked[0] == 4 else b"\x04") + asked[1:3] + count.to_bytes(2, "big")
        await self._connection.exchange(unit, probe, f"unit {unit}, in doubt after a late or missing answer")
        self._hearing.trusts(unit)
        await self._silence(self._dialect.silence_s)

    async def _loopback(self, unit: int) -> None:
        sent = struct.pack(">BHH", frames.LOOPBACK, 0, secrets.randbelow(1 << 16))
        try:
            await self._connection.exchange(unit, sent, f"unit {unit}, in doubt after a late or missing answer")
        except ReadFailed:
            self._unproved.add(unit)
            raise
        self._hearing.trusts(unit)
        await self._silence(self._dialect.silence_s)


def _slower(one: Timing, other: Timing) -> Timing:
    return Timing(
        pause_ms=max(one.pause_ms, other.pause_ms),
        after_connect_ms=max(one.after_connect_ms, other.after_connect_ms),
        busy_retries=max(one.busy_retries, other.busy_retries),
        busy_wait_ms=max(one.busy_wait_ms, other.busy_wait_ms),
        reconnect_each=one.reconnect_each or other.reconnect_each,
    )
