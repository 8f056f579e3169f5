"""A Bluetooth LE peripheral that is connected to: read once a period, or heard while it notifies.

A visit: wait until it is heard, take a connection of that adapter, connect, write what starts its measuring, subscribe,
read, and go, or stay as the profile wants. What is read in a visit is one row, its time when the last answer came; each
notification is a row of its characteristic, its time when it came. Nothing else makes a row: values that bluetoothd
remembers are never asked for. What was due and gave nothing is in a gap, counted by cause.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from firmware_configs.characteristics import GattProfile, GattValue, whole
from gateway.backoff import Backoff
from gateway.clock import Clock
from gateway.decoders.characteristics import Malformed, columns, series
from gateway.errors import Misconfigured
from gateway.reading import GroupShape, Lost, Row
from gateway.sensors.breaker import Breaker
from gateway.sensors.driver import Emit
from gateway.sensors.explains import ago, hexed
from gateway.sensors.gatt_failures import Cause, GattFailed
from gateway.sensors.gatt_link import GattLink
from gateway.sensors.gatt_peripherals import Peripherals
from gateway.sensors.gatt_polls import Polls
from gateway.sensors.heard import Heard
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import GattSensor as SensorOptions

LOOK_S = 1.0
"""How soon who stays connected notices that another waits."""
SETTLED_S = 15.0
"""How soon gaps that have been open for long are told."""
HEARD_WITHIN_S = 30.0
SILENT_PERIODS, SILENT_MIN_S = 3, 30.0
COMPLAIN_EVERY_MS = 60_000

log = structlog.get_logger("gateway.gatt")


@dataclass(slots=True)
class GattCounters:
    """Since the driver was built. withheld: due and not tried, after one failure upon another."""

    visits: int = 0
    connected: int = 0
    rows: int = 0
    gave_way: int = 0
    withheld: int = 0
    late: int = 0
    failed: Counter[Cause] = field(default_factory=Counter)


class _Notified:
    """One characteristic that notifies: a group of its own."""

    def __init__(self, *, group: int, values: tuple[GattValue, ...], heard: Heard) -> None:
        self.group = group
        self.values = values
        self.heard = heard
        self.last_ms = 0


class GattSensor:
    """A `Driver`. Raises Misconfigured when profile and options don't fit."""

    def __init__(
        self,
        *,
        options: SensorOptions,
        profile: GattProfile,
        passkey: int | None,
        simulated: bool,
        clock: Clock,
        peripherals: Peripherals,
        turn_s: float,
        silent_min_s: float = SILENT_MIN_S,
    ) -> None:
        _check_quantities(options, profile)
        self.id = options.id
        self.address = options.address
        self.counters = GattCounters()
        self.problem: str | None = None
        """Why the last visit gave nothing; None after a good answer."""
        self._options = options
        self._profile = profile
        self._passkey = passkey
        self._clock = clock
        self._peripherals = peripherals
        self._turn_s = turn_s
        self._period_ms = max(1, round((options.every_s or profile.period_s) * 1000))
        self._silent_ms = max(round(silent_min_s * 1000), SILENT_PERIODS * self._period_ms)
        self._reads = profile.read()
        self._groups = tuple(self._shapes(simulated=simulated))
        self._breaker = Breaker(first_s=self._period_ms / 1000)
        self._backoff = Backoff(base_s=1.0, cap_s=60.0)
        self._polls: Polls | None = None
        self._notified: dict[str, _Notified] = {}
        self._last: dict[str, tuple[int, bytes]] = {}
        self._row_ms = 0
        self._retry_ms = 0
        self._complained: tuple[str, int] = ("", 0)
        self._emit: Emit | None = None

    def groups(self) -> Sequence[GroupShape]:
        return self._groups

    def pending_since(self) -> int | None:
        """The read under way, or loss that is in no gap yet."""
        begun = [one.heard.since_ms for one in self._notified.values()]
        begun.append(self._polls.since_ms if self._polls is not None else None)
        return min((since for since in begun if since is not None), default=None)

    async def run(self, emit: Emit) -> None:
        """Visit until cancelled; gaps still open then are closed and emitted on the way out."""
        self._begin(emit)
        try:
            with self._peripherals.wanted(self.address):
                while True:
                    await self._until_due()
                    await self._visit_or_withhold()
        finally:
            now_ms = self._clock.mono_ms()
            if self._polls is not None:
                self._lose(0, self._polls.end(now_ms))
            for one in self._notified.values():
                self._lose(one.group, one.heard.end(now_ms))
            self._polls, self._notified, self._emit = None, {}, None

    # --- asked by a person --------------------------------------------------------------------------

    def plan(self, quantity: str | None) -> Iterator[str]:
        paired = "" if self._profile.bond == "none" else ", paired"
        stays = "stays connected" if self._profile.keep_connected else "connects for each read"
        yield f"{self.address}{paired}; {stays}; every {self._period_ms / 1000:g} s"
        for write in self._profile.write:
            yield f"after connecting: {write.hex} is written to {write.characteristic}"
        for value in self._profile.value:
            if quantity in {None, value.quantity}:
                how = "read" if value.how == "read" else "notified"
                yield f"{value.quantity}: {how}, service {value.service}, characteristic {value.characteristic}"

    def last_frame(self, quantity: str | None, now_ms: int) -> Iterator[str]:
        wanted = {whole(one.characteristic) for one in self._profile.value if quantity in {None, one.quantity}}
        for uuid, (at_ms, data) in self._last.items():
            if uuid in wanted:
                yield f"characteristic {uuid} {ago(now_ms, at_ms)}: {hexed(data)}"

    # --- when ---------------------------------------------------------------------------------------

    async def _until_due(self) -> None:
        while True:
            now_ms = self._clock.mono_ms()
            self._tell_overdue(now_ms)
            wait_ms = self._due_ms() - now_ms
            if wait_ms <= 0:
                return
            await asyncio.sleep(min(wait_ms / 1000, SETTLED_S))

    def _due_ms(self) -> int:
        """A peripheral that notifies is wanted at once, after a failure a little later; a read when it is due."""
        due = [self._polls.due_ms] if self._polls is not None else []
        if self._notified:
            due.append(self._retry_ms)
        return min(due)

    async def _visit_or_withhold(self) -> None:
        now_ms = self._clock.mono_ms()
        if not self._notified and not self._breaker.allows(now_ms / 1000):
            assert self._polls is not None
            self.counters.withheld += 1
            self._lose(0, self._polls.failed(now_ms))
            return
        if self._polls is not None:
            self._polls.begin(now_ms)
        self.counters.visits += 1
        try:
            await self._visit()
        except GattFailed as failure:
            self._failed(failure)
        else:
            self._breaker.answered()
            self._backoff.reset()
            self._retry_ms = self._clock.mono_ms()

    # --- a visit ------------------------------------------------------------------------------------

    async def _visit(self) -> None:
        """Raises GattFailed."""
        async with self._peripherals.alone(self.address):
            seen = await self._peripherals.live(self.address, within_s=HEARD_WITHIN_S)
            if self._polls is not None:
                self._polls.unheard(self._clock.mono_ms())
            turns = self._peripherals.turns[seen.adapter]
            async with turns.turn():
                # It may have waited long for its turn: whom it connects to must be on the air now.
                seen = await self._peripherals.live(self.address, within_s=min(HEARD_WITHIN_S, self._turn_s))
                link = GattLink(seen=seen, name=self.id, profile=self._profile, peripherals=self._peripherals)
                with self._peripherals.linked(self.address, seen.adapter, link):
                    try:
                        await self._use(link, wanted=lambda: turns.wanted)
                    finally:
                        self._deafened()
                        await link.close()

    async def _use(self, link: GattLink, *, wanted: Callable[[], bool]) -> None:
        link.within(self._turn_s)
        try:
            await link.open(passkey=self._passkey)
        except GattFailed:
            self._peripherals.doubted(self.address)
            raise
        self.counters.connected += 1
        began_ms = self._clock.mono_ms()
        for one in self._notified.values():
            await link.subscribe(one.values, self._told)
            self._lose(one.group, one.heard.hears(max(self._clock.mono_ms(), one.last_ms + 1)))
        for write in self._profile.write:
            await link.write(write)
        if self._profile.settle_s and self._profile.write:
            await link.ends(within_s=self._profile.settle_s)
        if self._polls is not None:
            await self._read(link)
        while self._profile.keep_connected:
            if wanted() and self._clock.mono_ms() - began_ms >= self._turn_s * 1000:
                self.counters.gave_way += 1
                return
            await self._stay(link, began_ms)

    async def _stay(self, link: GattLink, began_ms: int) -> None:
        """A little while; raises GattFailed when it hung up or fell silent."""
        now_ms = self._clock.mono_ms()
        due_ms = min(now_ms + round(LOOK_S * 1000), self._polls.due_ms if self._polls is not None else now_ms + 60_000)
        await link.ends(within_s=max(0.0, (due_ms - now_ms) / 1000))
        now_ms = self._clock.mono_ms()
        for one in self._notified.values():
            if now_ms - max(one.last_ms, began_ms) > self._silent_ms:
                since_s = (now_ms - max(one.last_ms, began_ms)) / 1000
                names = ", ".join(value.quantity for value in one.values)
                raise GattFailed("silent", f"it is connected, and has not told {names} for {since_s:.0f} s")
        self._tell_overdue(now_ms)
        if self._polls is not None and now_ms >= self._polls.due_ms:
            self._polls.begin(now_ms)
            link.within(self._turn_s)
            await self._read(link)

    async def _read(self, link: GattLink) -> None:
        said = await link.read(self._reads)
        at_ms = self._clock.mono_ms()
        for uuid, data in said.items():
            self._last[uuid] = (at_ms, data)
        assert self._polls is not None
        try:
            found = columns(self._reads, said)
        except Malformed as error:
            self._complain("malformed", str(error))
            self._lose(0, self._polls.failed(at_ms, pb.GAP_REFUSED))
            return
        self._row_ms = max(at_ms, self._row_ms + 1)
        self._lose(0, self._polls.good(self._row_ms))
        self.counters.late = self._polls.late
        self._row(0, Row(self._row_ms, found.values, found.quality))

    def _told(self, uuid: str, data: bytes) -> None:
        """A notification; called by bleak, so it must not raise."""
        one = self._notified.get(uuid)
        if one is None:
            return
        at_ms = self._clock.mono_ms()
        self._last[uuid] = (at_ms, data)
        try:
            found = columns(one.values, {uuid: data})
        except Malformed as error:
            self._complain("malformed", str(error))
            one.heard.failed(at_ms, pb.GAP_REFUSED)
            return
        one.last_ms = max(at_ms, one.last_ms + 1)
        self._lose(one.group, one.heard.good(one.last_ms))
        self._row(one.group, Row(one.last_ms, found.values, found.quality))

    # --- outcomes -----------------------------------------------------------------------------------

    def _failed(self, failure: GattFailed) -> None:
        now_ms = self._clock.mono_ms()
        self._complain(failure.cause, str(failure))
        if failure.cause not in {"absent", "adapter"}:
            self._breaker.silent(now_ms / 1000, most_s=max(60.0, 4 * self._period_ms / 1000))
        self._retry_ms = now_ms + round(self._backoff.next_s() * 1000)
        if self._polls is not None and (self._polls.since_ms is not None or now_ms >= self._polls.due_ms):
            self._lose(0, self._polls.failed(now_ms))

    def _deafened(self) -> None:
        """The connection is over: nothing can be told any more."""
        now_ms = self._clock.mono_ms()
        for one in self._notified.values():
            one.heard.deaf(max(now_ms, one.last_ms))

    def _tell_overdue(self, now_ms: int) -> None:
        if self._polls is not None:
            self._lose(0, self._polls.overdue(now_ms))
        for one in self._notified.values():
            self._lose(one.group, one.heard.overdue(now_ms))

    def _row(self, group: int, row: Row) -> None:
        self.counters.rows += 1
        self.problem = None
        assert self._emit is not None
        self._emit.row(group, row)

    def _complain(self, cause: Cause, why: str) -> None:
        """Counted and kept for whoever asks; in the log once per cause, and then at most once a minute."""
        self.counters.failed[cause] += 1
        self.problem = why
        now_ms = self._clock.mono_ms()
        before, at_ms = self._complained
        if before != cause or now_ms - at_ms >= COMPLAIN_EVERY_MS:
            self._complained = (cause, now_ms)
            log.warning("gatt.failed", sensor=self.id, cause=cause, why=why)

    def _lose(self, group: int, gaps: Iterable[Lost]) -> None:
        for lost in gaps:
            assert self._emit is not None
            self._emit.lost(group, lost)

    # --- beginnings ---------------------------------------------------------------------------------

    def _begin(self, emit: Emit) -> None:
        started_ms = self._clock.mono_ms()
        self._emit, self._retry_ms = emit, started_ms
        self._polls = Polls(started_ms=started_ms, period_ms=self._period_ms) if self._reads else None
        first = 1 if self._reads else 0
        self._notified = {
            uuid: _Notified(
                group=first + number,
                values=values,
                heard=Heard(started_ms=started_ms, period_ms=self._period_ms),
            )
            for number, (uuid, values) in enumerate(self._profile.notified().items())
        }

    def _shapes(self, *, simulated: bool) -> Iterator[GroupShape]:
        mark = {"simulated": "true"} if simulated or self._profile.simulated else {}
        parts = [("", self._reads)] if self._reads else []
        parts += [(values[0].characteristic, values) for values in self._profile.notified().values()]
        for part, values in parts:
            yield GroupShape(
                sensor=self._options.id,
                period_ms=self._period_ms,
                series=series(values, attrs=self._options.attrs, mark=mark),
                part=part,
            )


def _check_quantities(options: SensorOptions, profile: GattProfile) -> None:
    known = profile.quantities()
    for section, named in (("calibration", options.calibration), ("attrs", options.attrs)):
        for quantity in named:
            if quantity not in known:
                raise Misconfigured(
                    f"sensor {options.id}: {section}.{quantity} is no quantity of {options.profile}; "
                    f"it has {', '.join(known)}"
                )
