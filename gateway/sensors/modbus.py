"""A Modbus sensor: one unit, one profile, one group; every poll gives one row or is accounted for.

A row's values are all from one poll, its time the middle between asking the first request and the last answer. A poll
of which any request fails gives no row at all: half a row would be an invention. See `outage` for what becomes of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from firmware_configs.budget import plan
from firmware_configs.schema import ModbusProfile
from gateway.clock import Clock
from gateway.decoders.registers import compile_registers, series_of
from gateway.errors import Misconfigured
from gateway.reading import GroupShape, Row
from gateway.sensors.driver import Emit
from gateway.sensors.explains import ago
from gateway.sensors.modbus_bus import ModbusBus
from gateway.sensors.modbus_frames import Cause, ReadFailed
from gateway.sensors.modbus_link import Link
from gateway.sensors.outage import Outage, Skipped
from protos.config import ModbusSensor as SensorOptions

REQUESTS_SHOWN = 8


@dataclass(slots=True)
class PollCounters:
    """Since the driver was built. polls = ok + sum(failed); withheld and late ones were never tried."""

    polls: int = 0
    ok: int = 0
    withheld: int = 0
    late: int = 0
    failed: Counter[Cause] = field(default_factory=Counter)


class ModbusSensor:
    """A `Driver` and the `Poller` of its bus. Raises Misconfigured when profile and options don't fit."""

    def __init__(
        self,
        *,
        options: SensorOptions,
        profile: ModbusProfile,
        clock: Clock,
        bus: ModbusBus,
        gap_close_s: float = 60.0,
    ) -> None:
        registers = profile.expanded()
        _check_quantities(options, {register.quantity for register in registers})
        self.unit = options.unit
        self.every_s = options.every_s
        self.counters = PollCounters()
        self.problem: str | None = None
        """Why the last poll gave nothing; None after a good one."""
        self._registers = registers
        self._requests = plan(registers, profile.limits)
        self._decode = compile_registers(registers, self._requests)
        self._group = _group(options, profile)
        self._clock = clock
        self._bus = bus
        self._gap_close_s = gap_close_s
        self._emit: Emit | None = None
        self._outage: Outage | None = None
        self._skipped: Skipped | None = None
        self._began_ms: int | None = None
        self._answers: tuple[int, Sequence[Sequence[int]]] | None = None

    def groups(self) -> Sequence[GroupShape]:
        return (self._group,)

    def pending_since(self) -> int | None:
        """The read under way, or the oldest failed one that no gap record names yet."""
        since = self._outage.since_ms if self._outage is not None else None
        return self._began_ms if since is None else since

    async def run(self, emit: Emit) -> None:
        """Join the bus until cancelled; a gap still open then is closed and emitted on the way out."""
        started_ms, close_every_ms = self._clock.mono_ms(), round(self._gap_close_s * 1000)
        self._outage = Outage(started_ms=started_ms, close_every_ms=close_every_ms)
        self._skipped = Skipped(started_ms=started_ms, close_every_ms=close_every_ms)
        self._emit = emit
        try:
            with self._bus.joined(self):
                while True:
                    await asyncio.sleep(self._gap_close_s / 4)
                    self._close_overdue_gap()
        finally:
            if self._began_ms is not None:  # the device may have answered; nobody will hear it
                self._outage.failed(self._began_ms)
            now_ms = self._clock.mono_ms()
            for lost in (self._outage.end(now_ms), self._skipped.end(now_ms)):
                if lost is not None:
                    emit.lost(0, lost)
            self._emit = self._outage = self._skipped = None

    # --- asked by a person --------------------------------------------------------------------------

    def plan(self, quantity: str | None) -> Iterator[str]:
        requests = ", ".join(f"{one.function} {one.address}+{one.length}" for one in self._requests[:REQUESTS_SHOWN])
        more = f" and {len(self._requests) - REQUESTS_SHOWN} more" if len(self._requests) > REQUESTS_SHOWN else ""
        yield f"unit {self.unit} on bus {self._bus.options.id}, every {self.every_s:g} s: {requests}{more}"
        for register in self._registers:
            if register.quantity == quantity:
                yield f"{quantity} is {register.function} {register.address}, {register.type}"

    def last_frame(self, quantity: str | None, now_ms: int) -> Iterator[str]:
        if self._answers is None:
            return
        at_ms, answers = self._answers
        wanted = [one for one in self._registers if one.quantity == quantity]
        for request, words in zip(self._requests, answers, strict=True):
            for one in wanted:
                first = one.address - request.address
                if one.function == request.function and 0 <= first < request.length:
                    shown = " ".join(f"{word:04x}" for word in words[first : first + one.width])
                    yield f"{one.function} {one.address} held {shown} (hex), {ago(now_ms, at_ms)}"
        if not wanted:
            yield f"{sum(map(len, answers))} registers came {ago(now_ms, at_ms)}"

    # --- called by the bus --------------------------------------------------------------------------

    async def poll(self, link: Link) -> Cause | None:
        self.counters.polls += 1
        began_ms = self._began_ms = self._clock.mono_ms()
        try:
            answers = [await link.read(self.unit, request) for request in self._requests]
            ended_ms = self._clock.mono_ms()
            self._answers = (ended_ms, answers)
            values, quality = self._decode(answers)
        except ReadFailed as failure:
            return self._failed(began_ms, failure)
        except asyncio.CancelledError:
            if self._outage is not None:
                self._outage.failed(began_ms)
            raise
        except Exception as error:  # a poll that breaks must not take the bus with it
            return self._failed(began_ms, ReadFailed("internal", f"{type(error).__name__}: {error}"))
        finally:
            self._began_ms = None
        self._good(Row((began_ms + ended_ms) // 2, values, quality))
        return None

    def withheld(self) -> None:
        self.counters.withheld += 1
        if self._outage is not None:
            self._outage.failed(self._clock.mono_ms())
        self._close_overdue_gap()

    def late(self, skipped: int) -> None:
        self.counters.late += skipped
        if self._skipped is not None:
            self._skipped.add(skipped)

    # --- outcomes -----------------------------------------------------------------------------------

    def _good(self, row: Row) -> None:
        self.counters.ok += 1
        self.problem = None
        if self._emit is None or self._outage is None or self._skipped is None:
            return  # left the bus while reading
        for lost in (self._outage.good(row.mono_ms), self._skipped.good(row.mono_ms)):
            if lost is not None:
                self._emit.lost(0, lost)
        self._emit.row(0, row)

    def _failed(self, began_ms: int, failure: ReadFailed) -> Cause:
        self.counters.failed[failure.cause] += 1
        self.problem = str(failure)
        if self._outage is not None:
            self._outage.failed(began_ms)
        self._began_ms = None
        self._close_overdue_gap()
        return failure.cause

    def _close_overdue_gap(self) -> None:
        if self._outage is None or self._emit is None or self._began_ms is not None:
            return
        lost = self._outage.overdue(self._clock.mono_ms())
        if lost is not None:
            self._emit.lost(0, lost)


def _group(options: SensorOptions, profile: ModbusProfile) -> GroupShape:
    mark = {"simulated": "true"} if profile.simulated else {}
    return GroupShape(
        sensor=options.id,
        period_ms=max(1, round(options.every_s * 1000)),
        series=tuple(
            series_of(register, attrs=options.attrs.get(register.quantity, {}) | mark)
            for register in profile.expanded()
        ),
    )


def _check_quantities(options: SensorOptions, known: set[str]) -> None:
    for section, named in (("calibration", options.calibration), ("attrs", options.attrs)):
        for quantity in named:
            if quantity not in known:
                raise Misconfigured(
                    f"sensor {options.id}: {section}.{quantity} is no quantity of {options.profile}; "
                    f"it has {', '.join(sorted(known))}"
                )
