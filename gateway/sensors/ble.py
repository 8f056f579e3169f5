"""A Bluetooth LE sensor that advertises: one address, one profile; every new measurement gives one row.

A device that sends its values in packets of several kinds has a group for each. A row's time is when the system handed
the advertisement over, before it waited in the queue. What was heard and gave no row is counted, and is a loss only if
it was a measurement: repetitions and replays are none.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog

from firmware_configs.adverts import BleProfile
from gateway.clock import Clock
from gateway.decoders.advertisements import Advert, Fields, Format, Undecodable
from gateway.decoders.advertisements.columns import Columns, parts, require_some
from gateway.errors import Misconfigured
from gateway.reading import GroupShape, Lost, Row
from gateway.sensors.ble_adverts import Adverts
from gateway.sensors.ble_memory import CounterMemory
from gateway.sensors.driver import Emit
from gateway.sensors.explains import ago, hexed
from gateway.sensors.freshness import Freshness, News
from gateway.sensors.heard import Heard
from gateway.sensors.merged import Merged
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BleSensor as SensorOptions

LOOK_EVERY_S = 5.0
MIN_RESTART_MS = 60_000
COMPLAIN_EVERY_MS = 60_000
OLDER = (
    "its counter went back: a replay, or the sensor began anew, as with a new battery "
    "(then: comboio-gateway ble forget ADDRESS, with the gateway stopped)"
)

log = structlog.get_logger("gateway.ble")


class BleSensor:
    """A `Driver`. Raises Misconfigured when profile and options don't fit."""

    def __init__(
        self,
        *,
        options: SensorOptions,
        profile: BleProfile,
        format_: Format,
        key: bytes | None,
        simulated: bool,
        clock: Clock,
        adverts: Adverts,
        memory: CounterMemory,
    ) -> None:
        _check_quantities(options, profile)
        self.id = options.id
        self.address = options.address
        self.counters: Counter[str] = Counter()
        """heard = foreign + ambiguous + repeated + older + refused + measurements; queue_full never got so far.

        refused is told apart by its causes too: refused_plain, refused_wrong_key and so on.
        """
        self.problem: str | None = None
        """Why the last measurement gave nothing; None after a good one."""
        self._profile = profile
        self._format = format_
        self._key = key
        self._clock = clock
        self._adverts = adverts
        self._memory = memory
        self._parts = parts(profile)
        self._period_ms = max(1, round(profile.period_s * 1000))
        mark = {"simulated": "true"} if simulated or profile.simulated else {}
        self._groups = tuple(
            GroupShape(
                sensor=options.id,
                period_ms=max(1, round(part.period_s * 1000)),
                series=part.series(attrs=options.attrs, mark=mark),
                part=part.name,
            )
            for part in self._parts
        )
        self._merged = Merged() if format_.rotating else None
        known = memory.last(options.address, key) if key is not None else None
        self._freshness = Freshness(restart_ms=max(MIN_RESTART_MS, 10 * self._period_ms), last=known)
        self._heard: tuple[Heard, ...] = ()
        self._emit: Emit | None = None
        self._waiting: deque[int] = deque()
        self._complained_ms: int | None = None
        self._last_ms = [0] * len(self._parts)
        self._advert: Advert | None = None

    def groups(self) -> Sequence[GroupShape]:
        return self._groups

    def pending_since(self) -> int | None:
        """The oldest advertisement in the queue, or loss in no gap yet."""
        begun = [self._waiting[0]] if self._waiting else []
        begun += [heard.since_ms for heard in self._heard if heard.since_ms is not None]
        return min(begun, default=None)

    async def run(self, emit: Emit) -> None:
        """Take what is heard until cancelled; gaps still open then are closed and emitted on the way out."""
        now_ms = self._clock.mono_ms()
        self._heard = tuple(Heard(started_ms=now_ms, period_ms=group.period_ms) for group in self._groups)
        self._emit = emit
        try:
            with self._adverts.joined(self):
                while True:
                    await asyncio.sleep(LOOK_EVERY_S)
                    self._lose(lambda heard: heard.overdue(self._clock.mono_ms()))
        finally:
            for mono_ms in self._waiting:  # nobody will know whether these were measurements
                self._failed(mono_ms, pb.GAP_QUEUE_FULL)
            self._lose(lambda heard: heard.end(self._clock.mono_ms()))
            self._heard, self._emit = (), None
            self._waiting.clear()
            self._memory.save()

    # --- asked by a person --------------------------------------------------------------------------

    def plan(self, quantity: str | None) -> Iterator[str]:
        del quantity
        how = "with a key" if self._key is not None else "without a key"
        yield f"advertisements of {self.address}, {how}; usually one every {self._period_ms / 1000:g} s"

    def last_frame(self, quantity: str | None, now_ms: int) -> Iterator[str]:
        del quantity
        advert = self._advert
        if advert is None:
            return
        strength = "unknown strength" if advert.rssi is None else f"{advert.rssi} dBm"
        yield f"advertisement {ago(now_ms, advert.mono_ms)}, {strength}"
        for company, data in advert.manufacturer.items():
            yield f"manufacturer {company:04x}: {hexed(data)}"
        for service, data in advert.service.items():
            yield f"service {service}: {hexed(data)}"

    # --- called by the queue ------------------------------------------------------------------------

    def queued(self, mono_ms: int) -> None:
        self._waiting.append(mono_ms)

    def overflowed(self, mono_ms: int) -> None:
        """The queue was full: nobody will know whether this was a measurement."""
        self.counters["queue_full"] += 1
        self._failed(mono_ms, pb.GAP_QUEUE_FULL)

    def take(self, advert: Advert) -> None:
        """One advertisement from the queue."""
        if self._waiting:
            self._waiting.popleft()
        if not self._heard:
            return  # stopped while it waited
        self.counters["heard"] += 1
        if self._merged is not None:
            newest = self._merged.newest(advert.manufacturer)
            if newest is None:
                self.counters["ambiguous"] += 1
                return
            if not newest and advert.manufacturer:
                self.counters["repeated"] += 1
                return
            advert = advert._replace(manufacturer=newest)
        self._advert = advert
        payload = self._format.payload(advert)
        if payload is None:
            self.counters["foreign"] += 1
        elif self._freshness.repeats(payload) and not self._due(advert.mono_ms):
            self.counters["repeated"] += 1
        else:
            self._measurement(payload, advert)

    def deaf(self, since_ms: int) -> None:
        for heard in self._heard:
            heard.deaf(since_ms)

    def hears(self, now_ms: int) -> None:
        self._lose(lambda heard: heard.hears(now_ms))

    # --- outcomes -----------------------------------------------------------------------------------

    def _due(self, mono_ms: int) -> bool:
        """A beacon's measurement is that it was heard: the same bytes are one again after a period."""
        return self._profile.beacon and mono_ms - max(self._last_ms) >= self._period_ms

    def _measurement(self, payload: bytes, advert: Advert) -> None:
        try:
            fields = self._format.decode(payload, self.address, self._key)
            found = [part.columns(fields, advert.rssi) for part in self._parts]
            require_some(found, self._profile, fields)
        except Undecodable as error:
            self._refused(advert.mono_ms, error.cause, str(error))
            return
        except Exception as error:  # a decoder that breaks must not take the other sensors with it
            self._refused(advert.mono_ms, "unreadable", f"{type(error).__name__}: {error}")
            return
        news = self._freshness.judge(fields.counter, advert.mono_ms)
        if news is not News.NEW:
            self.counters[news.value] += 1
            if news is News.OLDER:
                self._complain(OLDER)
            return
        self.counters["measurements"] += 1
        self.problem = None
        self._remember(fields)
        for number, columns in enumerate(found):
            if columns is not None:
                self._row(number, columns, advert.mono_ms)

    def _row(self, number: int, columns: Columns, mono_ms: int) -> None:
        assert self._emit is not None
        self.counters["rows"] += 1
        at_ms = self._last_ms[number] = max(mono_ms, self._last_ms[number] + 1)  # two of one millisecond stay apart
        for lost in self._heard[number].good(at_ms):
            self._emit.lost(number, lost)
        self._emit.row(number, Row(at_ms, columns.values, columns.quality))

    def _remember(self, fields: Fields) -> None:
        counter = fields.counter
        if counter is not None and counter.proven and self._key is not None:
            self._memory.took(self.address, self._key, counter)

    def _refused(self, mono_ms: int, cause: str, why: str) -> None:
        self.counters["refused"] += 1
        self.counters[f"refused_{cause}"] += 1
        self._complain(why)
        self._failed(mono_ms, pb.GAP_REFUSED)

    def _complain(self, why: str) -> None:
        """Kept for whoever asks, and in the log at most once a minute: anybody can send nonsense."""
        self.problem = why
        now_ms = self._clock.mono_ms()
        if self._complained_ms is None or now_ms - self._complained_ms >= COMPLAIN_EVERY_MS:
            self._complained_ms = now_ms
            log.warning("ble.refused", sensor=self.id, why=why)

    def _failed(self, mono_ms: int, reason: pb.GapReason.ValueType) -> None:
        """Which of its packets it was, nobody knows."""
        for heard in self._heard:
            heard.failed(mono_ms, reason)

    def _lose(self, gaps: Callable[[Heard], Iterable[Lost]]) -> None:
        for number, heard in enumerate(self._heard):
            for lost in gaps(heard):
                assert self._emit is not None
                self._emit.lost(number, lost)


def _check_quantities(options: SensorOptions, profile: BleProfile) -> None:
    known = profile.quantities()
    for section, named in (("calibration", options.calibration), ("attrs", options.attrs)):
        for quantity in named:
            if quantity not in known:
                raise Misconfigured(
                    f"sensor {options.id}: {section}.{quantity} is no quantity of {options.profile}; "
                    f"it has {', '.join(known)}"
                )
