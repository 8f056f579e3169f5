"""A Modbus sensor: what it wants of one unit is one group; every poll gives one row or is accounted for.

A row's values are all from one poll, its time the middle between asking the first request and the last answer. A poll
of which any request fails gives no row at all: half a row would be an invention. See `outage` for what becomes of it,
and `modbus_reads` for what is asked differently after a device refused an address.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

from firmware_configs.schema import Derived, ModbusProfile, Register
from gateway.clock import Clock
from gateway.decoders.registers import series_of
from gateway.errors import Misconfigured, Rejected
from gateway.reading import GroupShape, Row, Wire
from gateway.sensors.driver import Emit
from gateway.sensors.modbus_frames import Cause, ReadFailed
from gateway.sensors.modbus_poll import SharedPoll
from gateway.sensors.outage import Outage, Skipped
from gateway.writing import Point
from protos.config import ModbusSensor as SensorOptions


@dataclass(slots=True)
class PollCounters:
    """Since the driver was built. polls = ok + sum(failed); withheld and late ones were never tried."""

    polls: int = 0
    ok: int = 0
    withheld: int = 0
    late: int = 0
    failed: Counter[Cause] = field(default_factory=Counter)


Pick = Callable[[Sequence[Any]], tuple[Any, ...]]
"""A sensor's columns of a poll's."""


class ModbusSensor:
    """A `Driver`, and a member of the poll of its unit. Raises Misconfigured when poll and options don't fit."""

    def __init__(self, *, options: SensorOptions, poll: SharedPoll, clock: Clock, gap_close_s: float = 60.0) -> None:
        wanted = wanted_of(options, poll.profile)
        _check_quantities(options, {name_of(options, quantity) for quantity in wanted})
        self.counters = PollCounters()
        self.problem: str | None = None
        """Why the last poll gave nothing; None after a good one."""
        self._poll = poll
        self._options = options
        self._renamed = options.rename
        self._pick = _picker(poll.profile.quantities(), wanted)
        self._group = _group(options, poll.profile, wanted)
        self._clock = clock
        self._gap_close_s = gap_close_s
        self._emit: Emit | None = None
        self._outage: Outage | None = None
        self._skipped: Skipped | None = None
        self._began_ms: int | None = None

    def groups(self) -> Sequence[GroupShape]:
        return (self._group,)

    def pending_since(self) -> int | None:
        """The read under way, or the oldest failed one that no gap record names yet."""
        since = self._outage.since_ms if self._outage is not None else None
        return self._began_ms if since is None else since

    async def run(self, emit: Emit) -> None:
        """Join the poll until cancelled; a gap still open then is closed and emitted on the way out."""
        started_ms, close_every_ms = self._clock.mono_ms(), round(self._gap_close_s * 1000)
        self._outage = Outage(started_ms=started_ms, close_every_ms=close_every_ms)
        self._skipped = Skipped(started_ms=started_ms, close_every_ms=close_every_ms)
        self._emit = emit
        try:
            with self._poll.joined(self):
                while True:
                    await asyncio.sleep(self._gap_close_s / 4)
                    self._close_overdue_gap()
        finally:
            self.cut_off()
            now_ms = self._clock.mono_ms()
            for lost in (self._outage.end(now_ms), self._skipped.end(now_ms)):
                if lost is not None:
                    emit.lost(0, lost)
            self._emit = self._outage = self._skipped = None

    def point(self, quantity: str) -> Point:
        """Where a command may write `quantity`. Raises Rejected, in words."""
        options, profile = self._options, self._poll.profile
        known = {name_of(options, register.quantity): register for register in profile.expanded()}
        register = known.get(quantity)
        if register is None:
            raise Rejected(f"sensor {options.id} has no {quantity} that can be written")
        if not register.writable:
            raise Rejected(f"{options.profile} does not say that {quantity} may be written")
        if quantity not in options.allow_write:
            raise Rejected(f"the configuration of {options.id} does not allow it: allow_write lacks {quantity!r}")
        if quantity in options.calibration:
            raise Rejected(f"{quantity} is calibrated here: what is written would not be what is read")
        return self._poll.point(register)

    # --- asked by a person --------------------------------------------------------------------------

    def plan(self, quantity: str | None) -> Iterator[str]:
        return self._poll.plan(self._of_profile(quantity))

    def last_frame(self, quantity: str | None, now_ms: int) -> Iterator[str]:
        return self._poll.last_frame(self._of_profile(quantity), now_ms)

    def _of_profile(self, quantity: str | None) -> str | None:
        """The name there of what is called `quantity` here."""
        return next((old for old, new in self._renamed.items() if new == quantity), quantity)

    # --- called by the poll -------------------------------------------------------------------------

    def began(self, at_ms: int) -> None:
        self.counters.polls += 1
        self._began_ms = at_ms

    def good(self, at_ms: int, values: Sequence[Wire], quality: Sequence[int] | None) -> None:
        self._began_ms = None
        self.counters.ok += 1
        self.problem = None
        if self._emit is None or self._outage is None or self._skipped is None:
            return  # left while reading
        for lost in (self._outage.good(at_ms), self._skipped.good(at_ms)):
            if lost is not None:
                self._emit.lost(0, lost)
        self._emit.row(0, Row(at_ms, self._pick(values), self._pick(quality) if quality is not None else None))

    def failed(self, failure: ReadFailed) -> None:
        self.counters.failed[failure.cause] += 1
        self.problem = str(failure)
        self.cut_off()
        self._close_overdue_gap()

    def cut_off(self) -> None:
        """The device may have answered the read under way; nobody will hear it."""
        began_ms, self._began_ms = self._began_ms, None
        if began_ms is not None and self._outage is not None:
            self._outage.failed(began_ms)

    def withheld(self) -> None:
        self.counters.withheld += 1
        if self._outage is not None:
            self._outage.failed(self._clock.mono_ms())
        self._close_overdue_gap()

    def late(self, skipped: int) -> None:
        self.counters.late += skipped
        if self._skipped is not None:
            self._skipped.add(skipped)

    def _close_overdue_gap(self) -> None:
        if self._outage is None or self._emit is None or self._began_ms is not None:
            return
        lost = self._outage.overdue(self._clock.mono_ms())
        if lost is not None:
            self._emit.lost(0, lost)


def wanted_of(options: SensorOptions, profile: ModbusProfile) -> tuple[str, ...]:
    """Of the profile's quantities those that are this sensor's, in the profile's order. Raises Misconfigured."""
    known = profile.quantities()
    for quantity in (*options.quantities, *options.rename):
        if quantity not in known:
            raise _unknown(options, f"quantities: {quantity}", known)
    return tuple(quantity for quantity in known if not options.quantities or quantity in options.quantities)


def name_of(options: SensorOptions, quantity: str) -> str:
    return options.rename.get(quantity, quantity)


def _picker(columns: Sequence[str], wanted: Sequence[str]) -> Pick:
    if tuple(columns) == tuple(wanted):
        return tuple
    at = [columns.index(quantity) for quantity in wanted]
    return itemgetter(*at) if len(at) > 1 else lambda values: (values[at[0]],)


def _group(options: SensorOptions, profile: ModbusProfile, wanted: Sequence[str]) -> GroupShape:
    mark = {"simulated": "true"} if profile.simulated else {}
    listed: tuple[Register | Derived, ...] = (*profile.expanded(), *profile.derived)
    columns = {one.quantity: one for one in listed}
    return GroupShape(
        sensor=options.id,
        period_ms=max(1, round(options.every_s * 1000)),
        series=tuple(
            replace(
                series_of(
                    columns[quantity],
                    attrs=options.attrs.get(name_of(options, quantity), {})
                    | mark
                    | _write_attrs(columns[quantity], allowed=name_of(options, quantity) in options.allow_write),
                ),
                name=name_of(options, quantity),
            )
            for quantity in wanted
        ),
    )


def _write_attrs(column: Register | Derived, *, allowed: bool) -> dict[str, str]:
    """How the control plane learns that there is something to write, and within which limits."""
    if not allowed or not isinstance(column, Register) or not column.writable:
        return {}
    limits = {"write_min": column.min, "write_max": column.max}
    return {"writable": "true"} | {name: f"{limit:g}" for name, limit in limits.items() if limit is not None}


def _check_quantities(options: SensorOptions, known: set[str]) -> None:
    for section, named in (("calibration", options.calibration), ("attrs", options.attrs)):
        for quantity in named:
            if quantity not in known:
                raise _unknown(options, f"{section}.{quantity}", sorted(known))


def _unknown(options: SensorOptions, what: str, known: Sequence[str]) -> Misconfigured:
    return Misconfigured(
        f"sensor {options.id}: {what} is no quantity of {options.profile}; it has {', '.join(sorted(known))}"
    )
