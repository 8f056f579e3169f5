"""One unit read once for all sensors that want something of it.

Sensors of one bus, unit, profile and period share a poll: each joins it while it runs and gets every outcome, so that
what became of a read is each one's own row or gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from firmware_configs.budget import Request
from firmware_configs.buses import line_of
from firmware_configs.schema import ModbusProfile, Register
from gateway.clock import Clock
from gateway.reading import Wire
from gateway.sensors.explains import ago
from gateway.sensors.modbus_bus import ModbusBus
from gateway.sensors.modbus_frames import Cause, ReadFailed
from gateway.sensors.modbus_link import Link
from gateway.sensors.modbus_point import ModbusPoint
from gateway.sensors.modbus_reads import Reads

REQUESTS_SHOWN = 8


class Member(Protocol):
    """One sensor, as its poll sees it. Every `began` is followed by exactly one of `good`, `failed` and `cut_off`."""

    def began(self, at_ms: int) -> None: ...

    def good(self, at_ms: int, values: Sequence[Wire], quality: Sequence[int] | None) -> None:
        """Columns as the poll's profile has them."""

    def failed(self, failure: ReadFailed) -> None: ...

    def cut_off(self) -> None:
        """The bus is stopped; the device may have answered, and nobody will hear it."""

    def withheld(self) -> None: ...

    def late(self, skipped: int) -> None: ...


class SharedPoll:
    """A `Poller` of its bus for as long as it has members."""

    def __init__(
        self,
        *,
        unit: int,
        every_s: float,
        profile: ModbusProfile,
        bus: ModbusBus,
        clock: Clock,
        name: str,
        memory: Path | None = None,
    ) -> None:
        self.unit = unit
        self.every_s = every_s
        self.profile = profile
        self._bus = bus
        bus.suits(unit, profile.timing)
        self._clock = clock
        self._reads = Reads(name, profile, line_of(bus.options), memory=memory)
        self._members: list[Member] = []
        self._joined = ExitStack()
        self._answers: tuple[int, Sequence[Request], Sequence[Sequence[int]]] | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """Quantities that the device refuses."""
        return self._reads.missing

    def point(self, register: Register) -> ModbusPoint:
        """Of this unit's `register`, orders filled in."""
        return ModbusPoint(bus=self._bus, unit=self.unit, register=register)

    @contextmanager
    def joined(self, member: Member) -> Iterator[None]:
        """Tell `member` of every poll, beginning with the next."""
        if not self._members:
            self._joined.enter_context(self._bus.joined(self))
        self._members.append(member)
        try:
            yield
        finally:
            self._members.remove(member)
            if not self._members:
                self._joined.close()

    # --- asked by a person --------------------------------------------------------------------------

    def plan(self, quantity: str | None) -> Iterator[str]:
        """How and how often the unit is read."""
        asked = self._reads.requests
        requests = ", ".join(f"{one.function} {one.address}+{one.length}" for one in asked[:REQUESTS_SHOWN])
        more = f" and {len(asked) - REQUESTS_SHOWN} more" if len(asked) > REQUESTS_SHOWN else ""
        yield f"unit {self.unit} on bus {self._bus.options.id}, every {self.every_s:g} s: {requests}{more}"
        for register in self.profile.expanded():
            if register.quantity == quantity:
                yield f"{quantity} is {register.function} {register.address}, {register.type}"
        for derived in self.profile.derived:
            if derived.quantity == quantity:
                terms = " + ".join(f"{term.times:g} × {term.of}" for term in derived.terms)
                yield f"{quantity} is {terms}"
        if quantity in self.missing:
            yield f"the device refuses {quantity}; it is asked for again every hour"
        if heard := ", ".join(f"{count} {what}" for what, count in self._bus.dropped.items()):
            yield f"heard on the bus and taken for nothing: {heard}"

    def last_frame(self, quantity: str | None, now_ms: int) -> Iterator[str]:
        """What came last, as registers, and when; nothing if nothing did."""
        if self._answers is None:
            return
        at_ms, requests, answers = self._answers
        wanted = [one for one in self.profile.expanded() if one.quantity == quantity]
        for request, words in zip(requests, answers, strict=True):
            for one in wanted:
                first = one.address - request.address
                if one.function == request.function and 0 <= first < request.length:
                    shown = " ".join(f"{word:04x}" for word in words[first : first + one.width])
                    yield f"{one.function} {one.address} held {shown} (hex), {ago(now_ms, at_ms)}"
        if not wanted:
            yield f"{sum(map(len, answers))} registers came {ago(now_ms, at_ms)}"

    # --- called by the bus --------------------------------------------------------------------------

    async def poll(self, link: Link) -> Cause | None:
        began_ms, members = self._clock.mono_ms(), tuple(self._members)
        for member in members:
            member.began(began_ms)
        try:
            requests = self._reads.requests
            answers = [await self._read(link, request) for request in requests]
            ended_ms = self._clock.mono_ms()
            self._answers = (ended_ms, requests, answers)
            values, quality = self._reads.decode(answers)
        except ReadFailed as failure:
            return _failed(members, failure)
        except asyncio.CancelledError:
            for member in members:
                member.cut_off()
            raise
        except Exception as error:  # a poll that breaks must not take the bus with it
            return _failed(members, ReadFailed("internal", f"{type(error).__name__}: {error}"))
        self._reads.answered(now_ms=ended_ms)
        for member in members:
            member.good((began_ms + ended_ms) // 2, values, quality)
        return None

    def withheld(self) -> None:
        for member in tuple(self._members):
            member.withheld()

    def late(self, skipped: int) -> None:
        for member in tuple(self._members):
            member.late(skipped)

    async def _read(self, link: Link, request: Request) -> Sequence[int]:
        try:
            return await link.read(self.unit, request)
        except ReadFailed as failure:
            self._reads.refused(request, failure.code, now_ms=self._clock.mono_ms())
            raise


def _failed(members: Sequence[Member], failure: ReadFailed) -> Cause:
    for member in members:
        member.failed(failure)
    return failure.cause
