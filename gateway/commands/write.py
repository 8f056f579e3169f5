"""One write: checked, asked once at most, read back. What it says afterwards is what is known, never what is hoped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from gateway.errors import ComboioError, Rejected
from gateway.writing import Point, Unanswered, Untouched, Value
from protos.comboio.v1 import link_pb2 as wire
from protos.commands import Outcome, Write, encoded

LOOKS_FOR_S = 2.0
"""How long a device may show the old value after its profile said that it shows the new one."""
LOOK_EVERY_S, LOOKS_AT_LEAST = 0.25, 3
FOUND_WITHIN_S = 60.0
"""After a restart: how long a device may stay unreadable before nobody can tell what it holds."""
FIND_EVERY_S = 1.0

log = structlog.get_logger("gateway.commands")


class TooLate(ComboioError):  # noqa: N818
    """Its time was over before the write."""


class Otherwise(ComboioError):  # noqa: N818
    """The device does not hold what was expected."""

    def __init__(self, holds: Value | None) -> None:
        super().__init__(f"holds {shown(holds)}")
        self.holds = holds


@dataclass(slots=True, kw_only=True)
class Attempt:
    """`begin` makes durable that the device may be changed from now on; `late` says that the time is over."""

    write: Write
    point: Callable[[], Point]
    begin: Callable[[], Awaitable[None]]
    late: Callable[[], bool]
    begun: bool = False
    before: Value | None = None
    state: wire.CommandState.ValueType = field(default=wire.COMMAND_FAILED, init=False)
    holds: Value | None = field(default=None, init=False)

    async def made(self) -> str:
        """Try, and say in words how it ended; `state`, `before` and `holds` say the rest."""
        try:
            point = self.point()
            point.check(self.write.value)
            await point.write(self.write.value, before=self._first)
        except TooLate:
            self.state = wire.COMMAND_EXPIRED
            return "its time was over before it could be written"
        except Otherwise as other:
            self.holds = other.holds
            return f"{self.write.quantity} is {shown(other.holds)}, not {shown(self.write.expect)}; nothing was written"
        except (Rejected, Untouched) as error:
            return f"{error}; nothing was written"
        except Exception as error:
            if not isinstance(error, Unanswered):
                log.exception("command.broken", quantity=self.write.quantity)
            if not self.begun:
                return f"{error}; nothing was written"
            return await self._verified(str(error) or type(error).__name__)
        return await self._verified()

    async def found(self) -> str:
        """After a restart: it was begun, and nobody knows whether the device heard it. It is read, never written."""
        end = asyncio.get_running_loop().time() + FOUND_WITHIN_S
        why = ""
        while asyncio.get_running_loop().time() < end:
            try:
                await self._look()
            except Unanswered as error:
                why = str(error)
                await asyncio.sleep(FIND_EVERY_S)
            else:
                if self.state == wire.COMMAND_DONE:
                    return "done; found after a restart of the gateway"
                self.state = wire.COMMAND_UNCERTAIN
                return f"the gateway stopped while it was written; the device holds {shown(self.holds)}"
        self.state = wire.COMMAND_UNCERTAIN
        return f"the gateway stopped while it was written, and the device can't be read since: {why}"

    def outcome(self, *, at_box: bool) -> bytes:
        """For CommandResult.result."""
        write = self.write
        said = Outcome(
            sensor=write.sensor,
            quantity=write.quantity,
            value=write.value,
            before=self.before,
            holds=self.holds,
            at_box=at_box,
        )
        return encoded(said)

    async def _first(self, read: Callable[[], Awaitable[Value | None]]) -> None:
        """When the bus is ours, just before the write."""
        expect = self.write.expect
        if self.late():
            raise TooLate
        if expect is not None:
            self.before = await read()
            if self.before is None or not self.point().same(expect, self.before):
                raise Otherwise(self.before)
            if self.late():
                raise TooLate
        await self.begin()
        self.begun = True

    async def _verified(self, unanswered: str = "") -> str:
        try:
            await self._look()
        except Unanswered as error:
            self.state = wire.COMMAND_UNCERTAIN
            asked = f"the write has no sure answer ({unanswered})" if unanswered else "the device answered the write"
            return f"{asked}, and it could not be read back: {error}"
        if self.state == wire.COMMAND_DONE:
            return f"done; found by reading it back ({unanswered})" if unanswered else "done"
        if unanswered:
            self.state = wire.COMMAND_UNCERTAIN
            return f"the write has no sure answer ({unanswered}); the device holds {shown(self.holds)}"
        return f"the device answered the write and holds {shown(self.holds)}, not {shown(self.write.value)}"

    async def _look(self) -> None:
        """Read back until it is there, or long enough. Raises Unanswered when it never could be read."""
        loop = asyncio.get_running_loop()
        end, looks, heard, silent = 0.0, 0, False, Unanswered("it was not read")
        while looks < LOOKS_AT_LEAST or loop.time() < end:
            try:
                point = self.point()  # anew: the configuration may have put another in its place
                if not looks:
                    await asyncio.sleep(point.verify_after_s)
                    end = loop.time() + LOOKS_FOR_S
                self.holds, heard = await point.read(), True
            except (Rejected, Unanswered) as error:
                silent = Unanswered(str(error))
            else:
                if self.holds is not None and point.same(self.write.value, self.holds):
                    self.state = wire.COMMAND_DONE
                    return
            looks += 1
            await asyncio.sleep(LOOK_EVERY_S)
        if not heard:
            raise silent


def shown(value: Value | None) -> str:
    if value is None:
        return "nothing that can be read"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
