"""An MQTT sensor: one topic or several, each of them one group; every message that can be read gives one row or more.

A row's time is when the message came; what the device's own clock said goes beside it. What may have been said long
before (a retained message, or one the broker kept while we were away) is STALE: nobody knows when it was measured. A
message that can't be read is refused, counted by its cause and inside a gap; it is acknowledged all the same, or it
would come again for ever and stop the broker for everybody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import structlog

from firmware_configs.messages import Availability, Message, filled
from gateway.clock import Clock
from gateway.decoders.json_path import ABSENT, Unreadable, at, document, tokens
from gateway.decoders.payloads import Decode, Decoded, compile_payload
from gateway.decoders.values import series_of
from gateway.errors import Misconfigured, Rejected
from gateway.reading import GroupShape, Lost, Receipt, Row
from gateway.sensors.driver import Emit
from gateway.sensors.explains import ago, hexed
from gateway.sensors.heard import Heard
from gateway.sensors.mqtt_memory import group_key
from gateway.sensors.mqtt_topics import AVAILABILITY, Wanted, templates
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import MqttSensor as SensorOptions

LOOK_EVERY_S = 5.0
COMPLAIN_EVERY_MS = 60_000
AHEAD_MS = 5 * 60_000
BEHIND_MS = 24 * 3_600_000
"""So far off a live message's own time may be before its clock is called wrong."""
RETAINED_TOPICS = 256
"""Of a sensor, whose last retained payload is remembered."""

log = structlog.get_logger("gateway.mqtt")


class Topics(Protocol):
    """What tells a sensor of its messages; the broker's task."""

    @property
    def waiting_since(self) -> int | None: ...

    @contextmanager
    def joined(self, sensor: MqttSensor) -> Iterator[None]: ...


class Said(NamedTuple):
    """A message as it came; `size` may be more than is left of the payload."""

    topic: str
    payload: bytes
    size: int
    retained: bool
    behind: bool
    mono_ms: int

    @property
    def whole(self) -> bool:
        return self.size == len(self.payload)


class Made(NamedTuple):
    """Rows that a message became: `first_ms` and the milliseconds after it; `skipped` of it had been rows before."""

    key: str
    first_ms: int
    many: int
    skipped: int
    receipts: Sequence[Receipt]


@dataclass(slots=True)
class _Part:
    """One group of the sensor."""

    shape: GroupShape
    key: str
    wanted: Wanted
    decode: Decode
    timed: bool
    heard: Heard | None = None
    last_ms: int = 0
    """When the last row or loss was: the next row is later."""
    message: Said | None = None


@dataclass(slots=True)
class _Wrong:
    """What a technician should know, the most urgent first."""

    away: str | None = None
    """The broker says that the device is not there."""
    unreadable: str | None = None
    """Why the last message gave nothing; None after a good one."""
    clock: str | None = None
    """How far the device's clock is off."""
    complained_ms: int | None = field(default=None)


class MqttSensor:
    """A `Driver`. Raises Misconfigured when messages and options don't fit."""

    def __init__(
        self,
        *,
        options: SensorOptions,
        messages: Sequence[Message],
        period_s: float,
        simulated: bool,
        clock: Clock,
        topics: Topics,
        availability: Availability | None = None,
    ) -> None:
        _check_quantities(options, [value.quantity for message in messages for value in message.value])
        self.id = options.id
        self.counters: Counter[str] = Counter()
        """heard = taken + refused + repeated, messages; rows; stale is part of rows; refused_<cause> is part of it."""
        self._wrong = _Wrong()
        self._availability = availability
        self._clock = clock
        self._topics = topics
        self._emit: Emit | None = None
        self._retained: dict[str, bytes] = {}
        mark = {"simulated": "true"} if simulated else {}
        self._parts = [
            _Part(
                shape=_group(options, message, options.every_s or message.period_s or period_s, mark),
                key=group_key(options.id, message.value[0].quantity),
                wanted=Wanted(options.id, group, template),
                decode=compile_payload(message),
                timed=message.time is not None,
            )
            for group, (message, template) in enumerate(zip(messages, templates(options, messages), strict=True))
        ]
        self.wanted: list[Wanted] = [part.wanted for part in self._parts]
        """The topics it is to be told of."""
        if availability is not None:
            self.wanted.append(Wanted(options.id, AVAILABILITY, filled(availability.topic, options.device)))

    @property
    def problem(self) -> str | None:
        return self._wrong.away or self._wrong.unreadable or self._wrong.clock

    def groups(self) -> Sequence[GroupShape]:
        return tuple(part.shape for part in self._parts)

    def pending_since(self) -> int | None:
        """The oldest message not handed over, or loss in no gap yet."""
        begun = [part.heard.since_ms for part in self._parts if part.heard is not None]
        return min((since for since in [*begun, self._topics.waiting_since] if since is not None), default=None)

    async def run(self, emit: Emit) -> None:
        """Take messages until cancelled; gaps still open then are closed and emitted on the way out."""
        now_ms = self._clock.mono_ms()
        for part in self._parts:
            part.heard = Heard(started_ms=now_ms, period_ms=part.shape.period_ms)
        self._emit = emit
        try:
            with self._topics.joined(self):
                while True:
                    await asyncio.sleep(LOOK_EVERY_S)
                    self._all(lambda heard: heard.overdue(self._clock.mono_ms()))
        finally:
            self._all(lambda heard: heard.end(self._clock.mono_ms()))
            self._emit = None
            for part in self._parts:
                part.heard = None

    # --- asked by a person --------------------------------------------------------------------------

    def plan(self, quantity: str | None) -> Iterator[str]:
        for part in self._asked(quantity):
            every_s = part.shape.period_ms / 1000
            yield f"messages on {part.wanted.template}; usually one every {every_s:g} s"

    def last_frame(self, quantity: str | None, now_ms: int) -> Iterator[str]:
        for part in self._asked(quantity):
            if part.message is not None:
                message = part.message
                kept = ", retained by the broker" if message.retained else ""
                yield f"message of {message.size} bytes {ago(now_ms, message.mono_ms)}{kept} on {message.topic}"
                yield message.payload[:200].decode(errors="replace")
                if self._wrong.unreadable is not None:
                    yield f"as bytes: {hexed(message.payload)}"

    def _asked(self, quantity: str | None) -> list[_Part]:
        return [p for p in self._parts if quantity is None or quantity in {series.name for series in p.shape.series}]

    # --- called by the broker's task ----------------------------------------------------------------

    def message(self, wanted: Wanted, message: Said, already: Mapping[str, int]) -> Made | None:
        """One message of that topic; the rows it made, if any, without the first `already[key]`, which are known."""
        if wanted.group == AVAILABILITY:
            self._available(message)
            return None
        part = self._parts[wanted.group]
        skip = already.get(part.key, 0)
        self.counters["heard"] += 1
        part.message = message._replace(payload=message.payload[:4096])
        if message.retained and self._repeats(message):
            self.counters["repeated"] += 1
            return None
        try:
            if not message.whole:
                raise Unreadable("too_large", f"{message.size} bytes are more than a message may have")
            rows = part.decode(message.payload, wanted.parts(message.topic))[skip:]
        except Unreadable as error:
            self._refused(part, message, error.cause, str(error))
            return None
        except Exception as error:  # a decoder that breaks must not take the other sensors with it
            self._refused(part, message, "broken_decoder", f"{type(error).__name__}: {error}")
            return None
        self._wrong.unreadable = None
        self.counters["taken"] += 1
        return self._rows(part, rows, message, skip) if rows else None

    def overflowed(self, wanted: Wanted, mono_ms: int) -> None:
        """A message that nobody can ask for again came while too many waited."""
        if wanted.group != AVAILABILITY:
            self.counters["dropped"] += 1
            part = self._parts[wanted.group]
            assert part.heard is not None
            part.heard.failed(max(mono_ms, part.last_ms), pb.GAP_QUEUE_FULL)

    def deaf(self, since_ms: int) -> None:
        for part in self._parts:
            if part.heard is not None:
                part.heard.deaf(since_ms)

    def hears(self, now_ms: int, *, kept: bool) -> None:
        """`kept`: the broker kept what was said meanwhile."""
        self._all(lambda heard: heard.hears(now_ms, kept=kept))

    # --- outcomes -----------------------------------------------------------------------------------

    def _rows(self, part: _Part, rows: Sequence[Decoded], message: Said, skip: int) -> Made:
        assert part.heard is not None
        assert self._emit is not None
        group = part.wanted.group
        stale = message.retained or message.behind
        self.counters["stale" if stale else "live"] += len(rows)
        self.counters["rows"] += len(rows)
        first_ms = max(part.last_ms + 1, message.mono_ms)  # no two rows of one millisecond, none before what was said
        self._lose(part, part.heard.good(first_ms))
        receipts = [self._emit.row(group, _row(one, first_ms + n, stale=stale)) for n, one in enumerate(rows)]
        part.last_ms = first_ms + len(rows) - 1
        if len(rows) > 1:
            self._lose(part, part.heard.good(part.last_ms))
        if part.timed:
            self._judge_clock(rows[-1].device_ms, message, stale=stale)
        return Made(part.key, first_ms, len(rows), skip, receipts)

    def _judge_clock(self, device_ms: int | None, message: Said, *, stale: bool) -> None:
        """The newest measurement of a live message should be of now."""
        if device_ms is None:
            self.counters["no_time"] += 1
            self._wrong.clock = "its messages have no time that can be used"
        elif not stale:
            off_ms = device_ms - (self._clock.wall_ms() - (self._clock.mono_ms() - message.mono_ms))
            wrong = "clock_ahead" if off_ms > AHEAD_MS else "clock_behind" if off_ms < -BEHIND_MS else None
            self._wrong.clock = None
            if wrong is not None:
                self.counters[wrong] += 1
                side = "ahead of" if off_ms > 0 else "behind"
                self._wrong.clock = f"its clock is {_lasting(abs(off_ms))} {side} this box's"

    def _available(self, message: Said) -> None:
        """A state, said by the broker in place of a device that went without a word; never a reading."""
        availability = self._availability
        assert availability is not None
        said: object = message.payload.decode(errors="replace").strip()
        if availability.path or str(said).startswith("{"):
            try:
                said = at(document(message.payload), tokens(availability.path or "/state"))
            except Rejected:
                said = ABSENT
        spelled = {True: "true", False: "false"}.get(said) if isinstance(said, bool) else said
        if spelled == availability.online:
            self.counters["online"] += self._wrong.away is not None
            self._wrong.away = None
        elif spelled == availability.offline:
            self.counters["offline"] += self._wrong.away is None
            self._wrong.away = "the broker says that it is offline"
        else:
            self.counters["availability_unknown"] += 1

    def _repeats(self, message: Said) -> bool:
        """A retained message that was told before: the broker repeats it at each subscription."""
        if self._retained.get(message.topic) == message.payload:
            return True
        if len(self._retained) >= RETAINED_TOPICS:
            self._retained.clear()
        self._retained[message.topic] = message.payload
        return False

    def _refused(self, part: _Part, message: Said, cause: str, why: str) -> None:
        self.counters["refused"] += 1
        self.counters[f"refused_{cause}"] += 1
        self._complain(message.topic, why)
        assert part.heard is not None
        part.last_ms = max(message.mono_ms, part.last_ms)
        part.heard.failed(part.last_ms, pb.GAP_REFUSED)

    def _complain(self, topic: str, why: str) -> None:
        """Kept for whoever asks, and in the log at most once a minute."""
        wrong = self._wrong
        wrong.unreadable = f"a message on {topic} can't be read: {why}"
        now_ms = self._clock.mono_ms()
        if wrong.complained_ms is None or now_ms - wrong.complained_ms >= COMPLAIN_EVERY_MS:
            wrong.complained_ms = now_ms
            log.warning("mqtt.unreadable", sensor=self.id, topic=topic, why=why)

    def _all(self, gaps: Callable[[Heard], Iterable[Lost]]) -> None:
        for part in self._parts:
            if part.heard is not None:
                self._lose(part, gaps(part.heard))

    def _lose(self, part: _Part, gaps: Iterable[Lost]) -> None:
        for lost in gaps:
            assert self._emit is not None
            after_ms = lost.after_mono_ms  # rows of one message may stand some milliseconds ahead
            told = lost._replace(before_mono_ms=max(lost.before_mono_ms, after_ms + 1))
            part.last_ms = max(part.last_ms, told.before_mono_ms - 1)
            self._emit.lost(part.wanted.group, told)


def _row(one: Decoded, at_ms: int, *, stale: bool) -> Row:
    quality = one.quality
    if stale:
        quality = tuple(code or pb.QUALITY_STALE for code in quality or (pb.QUALITY_GOOD,) * len(one.values))
    return Row(at_ms, one.values, quality, one.device_ms)


def _lasting(ms: float) -> str:
    for unit, size in (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= 2 * size:
            return f"{ms / size:.0f} {unit}"
    return f"{ms / 1000:.0f} s"


def _group(options: SensorOptions, message: Message, period_s: float, mark: Mapping[str, str]) -> GroupShape:
    return GroupShape(
        sensor=options.id,
        period_ms=max(1, round(period_s * 1000)),
        late_source=message.time is not None,
        part=message.topic,
        series=tuple(
            series_of(
                value.quantity,
                kind=value.type,
                unit=value.unit,
                decimals=value.decimals,
                scale=value.scale,
                offset=value.offset,
                attrs={**value.attrs, **options.attrs.get(value.quantity, {}), **mark},
            )
            for value in message.value
        ),
    )


def _check_quantities(options: SensorOptions, known: Sequence[str]) -> None:
    for section, named in (("calibration", options.calibration), ("attrs", options.attrs)):
        for quantity in named:
            if quantity not in known:
                raise Misconfigured(
                    f"sensor {options.id}: {section}.{quantity} is no quantity of its messages; "
                    f"they have {', '.join(known)}"
                )
