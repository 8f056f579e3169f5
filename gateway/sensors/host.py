"""The box itself as a sensor: every so often, all that its profile asks and the box has."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog

from firmware_configs.host import HostProfile, HostValue
from gateway.clock import Clock
from gateway.decoders.values import series_of, wire
from gateway.errors import Retryable
from gateway.reading import GroupShape, Lost, Row, Wire
from gateway.sensors.driver import Emit
from gateway.sensors.explains import ago
from gateway.sensors.host_facts import Fact
from gateway.sensors.outage import Outage
from protos.comboio.v1 import batch_pb2 as pb

Read = Callable[[], Mapping[str, Fact]]
"""Facts by name; what isn't there now is left out. May block; raises Retryable, in words."""

log = structlog.get_logger("gateway.host")


class HostSensor:
    """A `Driver`. `values`: those of the profile that this box has; `absent`: the quantities that it has not."""

    def __init__(
        self,
        *,
        sensor: str,
        values: Sequence[HostValue],
        absent: Sequence[str] = (),
        read: Read,
        every_s: float,
        clock: Clock,
        mark: Mapping[str, str] | None = None,
    ) -> None:
        self.id = sensor
        self.counters: Counter[str] = Counter()
        """asked = rows + failed."""
        self.problem: str | None = None
        self._values = tuple(values)
        self._absent = tuple(absent)
        self._read = read
        self._every_s = every_s
        self._clock = clock
        self._group = shape_of(sensor, values, every_s=every_s, mark=mark or {})
        self._asked_ms: int | None = None
        self._outage: Outage | None = None
        self._said = False
        self._last_ms: int | None = None

    def groups(self) -> Sequence[GroupShape]:
        return (self._group,)

    def pending_since(self) -> int | None:
        lost = self._outage.since_ms if self._outage is not None else None
        return min((since for since in (self._asked_ms, lost) if since is not None), default=None)

    def plan(self, quantity: str | None) -> Iterator[str]:
        del quantity
        yield f"read every {self._every_s:g} s"
        if self._absent:
            yield f"this box does not tell {', '.join(self._absent)}"

    def last_frame(self, quantity: str | None, now_ms: int) -> Iterator[str]:
        del quantity
        if self._last_ms is not None:
            yield f"read {ago(now_ms, self._last_ms)}"

    async def run(self, emit: Emit) -> None:
        if self._absent and not self._said:
            self._said = True
            log.info("host.absent", sensor=self.id, quantities=list(self._absent))
        loop = asyncio.get_running_loop()
        self._outage = Outage(started_ms=self._clock.mono_ms())
        next_s = loop.time()
        try:
            while True:
                await self._once(emit)
                next_s = max(next_s + self._every_s, loop.time())
                await asyncio.sleep(next_s - loop.time())
        finally:
            self._asked_ms = None
            self._lose(emit, self._outage.end(self._clock.mono_ms()))
            await self._closed()

    async def facts(self) -> Mapping[str, Fact]:
        """Facts by name; what isn't there now is left out. Raises Retryable, in words."""
        return await asyncio.to_thread(self._read)

    async def _closed(self) -> None:
        """Nobody will read any more."""

    async def _once(self, emit: Emit) -> None:
        outage = self._outage
        assert outage is not None
        began_ms = self._asked_ms = self._clock.mono_ms()
        self.counters["asked"] += 1
        why = "it tells nothing of what is asked"
        facts: Mapping[str, Fact]
        try:
            facts = await self.facts()
        except Retryable as error:
            facts, why = {}, str(error)
        row = row_of(self._values, facts, began_ms)
        if row is None:
            self.counters["failed"] += 1
            outage.failed(began_ms)
            self._complain(why)
        else:
            self.counters["rows"] += 1
            self._complain(None)
            self._last_ms = began_ms
            self._lose(emit, outage.good(began_ms))
            emit.row(0, row)
        self._asked_ms = None
        self._lose(emit, outage.overdue(self._clock.mono_ms()))

    def _complain(self, why: str | None) -> None:
        if why is not None and why != self.problem:
            log.warning("host.silent", sensor=self.id, why=why)
        self.problem = why

    @staticmethod
    def _lose(emit: Emit, lost: Lost | None) -> None:
        if lost is not None:
            emit.lost(0, lost)


def shape_of(
    sensor: str, values: Sequence[HostValue], *, every_s: float, mark: Mapping[str, str], part: str = ""
) -> GroupShape:
    return GroupShape(
        sensor=sensor,
        period_ms=max(1, round(every_s * 1000)),
        part=part,
        series=tuple(
            series_of(
                value.quantity,
                kind=value.type,
                unit=value.unit,
                decimals=value.decimals,
                attrs={**value.attrs, **mark},
            )
            for value in values
        ),
    )


def row_of(
    values: Sequence[HostValue],
    facts: Mapping[str, Fact],
    at_ms: int,
    *,
    lacking: pb.Quality.ValueType = pb.QUALITY_BAD_COMM,
) -> Row | None:
    """None when nothing of what is asked is there. `lacking`: the quality of what is not."""
    found = [_wire(value, facts.get(value.fact)) for value in values]
    if all(one is None for one in found):
        return None
    quality = None
    if None in found:
        quality = tuple(lacking if one is None else pb.QUALITY_GOOD for one in found)
    return Row(at_ms, tuple(found), quality)


def _wire(value: HostValue, fact: Fact | None) -> Wire:
    if value.decimals is not None and isinstance(fact, float):
        fact = round(fact, value.decimals)
    return wire(fact, value.type, value.decimals)


def had(profile: HostProfile, facts: Mapping[str, Fact]) -> tuple[list[HostValue], list[str]]:
    """The values of a profile that a box has, and the quantities that it has not."""
    here = [value for value in profile.value if value.fact in facts]
    return here, [value.quantity for value in profile.value if value.fact not in facts]
