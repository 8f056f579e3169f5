"""A Bluetooth LE sensor that advertises: one address, one profile, one group; every new measurement gives one row.

A row's time is when the system handed the advertisement over, before it waited in the queue. What was heard and gave no
row is counted, and is a loss only if it was a measurement: repetitions and replays are none.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence

import structlog

from firmware_configs.adverts import BleProfile
from gateway.clock import Clock
from gateway.decoders.advertisements import Advert, Format, Undecodable
from gateway.decoders.advertisements.columns import columns, series
from gateway.errors import Misconfigured
from gateway.reading import GroupShape, Lost, Row
from gateway.sensors.ble_adverts import Adverts
from gateway.sensors.driver import Emit
from gateway.sensors.explains import ago, hexed
from gateway.sensors.freshness import Freshness, News
from gateway.sensors.heard import Heard
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BleSensor as SensorOptions

LOOK_EVERY_S = 5.0
MIN_RESTART_MS = 60_000
COMPLAIN_EVERY_MS = 60_000

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
    ) -> None:
        _check_quantities(options, profile)
        self.id = options.id
        self.address = options.address
        self.counters: Counter[str] = Counter()
        """heard = foreign + repeated + older + refused + rows; queue_full never got so far."""
        self.problem: str | None = None
        """Why the last measurement gave nothing; None after a good one."""
        self._profile = profile
        self._format = format_
        self._key = key
        self._clock = clock
        self._adverts = adverts
        self._period_ms = max(1, round(profile.period_s * 1000))
        mark = {"simulated": "true"} if simulated or profile.simulated else {}
        self._group = GroupShape(
            sensor=options.id,
            period_ms=self._period_ms,
            series=series(profile, attrs=options.attrs, mark=mark),
        )
        self._freshness = Freshness(restart_ms=max(MIN_RESTART_MS, 10 * self._period_ms))
        self._heard: Heard | None = None
        self._emit: Emit | None = None
        self._waiting: deque[int] = deque()
        self._complained_ms: int | None = None
        self._last_ms = 0
        self._advert: Advert | None = None

    def groups(self) -> Sequence[GroupShape]:
        return (self._group,)

    def pending_since(self) -> int | None:
        """The oldest advertisement in the queue, or loss in no gap yet."""
        begun = [self._waiting[0]] if self._waiting else []
        if self._heard is not None and self._heard.since_ms is not None:
            begun.append(self._heard.since_ms)
        return min(begun, default=None)

    async def run(self, emit: Emit) -> None:
        """Take what is heard until cancelled; gaps still open then are closed and emitted on the way out."""
        self._heard = Heard(started_ms=self._clock.mono_ms(), period_ms=self._period_ms)
        self._emit = emit
        try:
            with self._adverts.joined(self):
                while True:
                    await asyncio.sleep(LOOK_EVERY_S)
                    self._lose(self._heard.overdue(self._clock.mono_ms()))
        finally:
            for mono_ms in self._waiting:  # nobody will know whether these were measurements
                self._heard.failed(mono_ms, pb.GAP_QUEUE_FULL)
            self._lose(self._heard.end(self._clock.mono_ms()))
            self._heard = self._emit = None
            self._waiting.clear()

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
        if self._heard is not None:
            self._heard.failed(mono_ms, pb.GAP_QUEUE_FULL)

    def take(self, advert: Advert) -> None:
        """One advertisement from the queue."""
        if self._waiting:
            self._waiting.popleft()
        if self._heard is None:
            return  # stopped while it waited
        self.counters["heard"] += 1
        self._advert = advert
        payload = self._format.payload(advert)
        if payload is None:
            self.counters["foreign"] += 1
        elif self._freshness.repeats(payload):
            self.counters["repeated"] += 1
        else:
            self._measurement(payload, advert)

    def deaf(self, since_ms: int) -> None:
        if self._heard is not None:
            self._heard.deaf(since_ms)

    def hears(self, now_ms: int) -> None:
        if self._heard is not None:
            self._lose(self._heard.hears(now_ms))

    # --- outcomes -----------------------------------------------------------------------------------

    def _measurement(self, payload: bytes, advert: Advert) -> None:
        try:
            fields = self._format.decode(payload, self.address, self._key)
            found = columns(self._profile, fields, advert.rssi)
        except Undecodable as error:
            self._refused(advert.mono_ms, str(error))
            return
        except Exception as error:  # a decoder that breaks must not take the other sensors with it
            self._refused(advert.mono_ms, f"{type(error).__name__}: {error}")
            return
        news = self._freshness.judge(fields.counter, advert.mono_ms)
        if news is not News.NEW:
            self.counters[news.value] += 1
            if news is News.OLDER:
                self._complain("its counter went back: a replay, or it began anew (then restart the gateway)")
            return
        self.counters["rows"] += 1
        self.problem = None
        assert self._heard is not None
        assert self._emit is not None
        self._last_ms = max(advert.mono_ms, self._last_ms + 1)  # two of one millisecond stay apart
        self._lose(self._heard.good(self._last_ms))
        self._emit.row(0, Row(self._last_ms, found.values, found.quality))

    def _refused(self, mono_ms: int, why: str) -> None:
        self.counters["refused"] += 1
        self._complain(why)
        assert self._heard is not None
        self._heard.failed(mono_ms, pb.GAP_REFUSED)

    def _complain(self, why: str) -> None:
        """Kept for whoever asks, and in the log at most once a minute: anybody can send nonsense."""
        self.problem = why
        now_ms = self._clock.mono_ms()
        if self._complained_ms is None or now_ms - self._complained_ms >= COMPLAIN_EVERY_MS:
            self._complained_ms = now_ms
            log.warning("ble.refused", sensor=self.id, why=why)

    def _lose(self, gaps: Iterable[Lost]) -> None:
        for lost in gaps:
            assert self._emit is not None
            self._emit.lost(0, lost)


def _check_quantities(options: SensorOptions, profile: BleProfile) -> None:
    known = profile.quantities()
    for section, named in (("calibration", options.calibration), ("attrs", options.attrs)):
        for quantity in named:
            if quantity not in known:
                raise Misconfigured(
                    f"sensor {options.id}: {section}.{quantity} is no quantity of {options.profile}; "
                    f"it has {', '.join(known)}"
                )
