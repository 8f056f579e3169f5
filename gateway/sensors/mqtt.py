"""An MQTT sensor: one topic, one group; every message that can be read gives one row.

A row's time is when the message came. What may have been said long before (a retained message, or one the broker kept
while we were away) is STALE: nobody knows when it was measured. A message that can't be read is refused, counted and
inside a gap; it is acknowledged all the same, or it would stop the broker for everybody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import structlog

from firmware_configs.messages import MessageValue
from gateway.clock import Clock
from gateway.decoders.json_path import Decoded, compile_values
from gateway.decoders.values import series_of
from gateway.errors import Misconfigured, Rejected
from gateway.reading import GroupShape, Lost, Receipt, Row
from gateway.sensors.driver import Emit
from gateway.sensors.explains import ago, hexed
from gateway.sensors.heard import Heard
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import MqttSensor as SensorOptions

LOOK_EVERY_S = 5.0
COMPLAIN_EVERY_MS = 60_000

log = structlog.get_logger("gateway.mqtt")


class Topics(Protocol):
    """What tells a sensor of its messages; the broker's task."""

    @property
    def waiting_since(self) -> int | None: ...

    @contextmanager
    def joined(self, sensor: MqttSensor) -> Iterator[None]: ...


class MqttSensor:
    """A `Driver`. Raises Misconfigured when values and options don't fit."""

    def __init__(
        self,
        *,
        options: SensorOptions,
        values: Sequence[MessageValue],
        period_s: float,
        simulated: bool,
        clock: Clock,
        topics: Topics,
    ) -> None:
        _check_quantities(options, [value.quantity for value in values])
        self.id = options.id
        self.topic = options.topic
        self.counters: Counter[str] = Counter()
        """heard = rows + refused + repeated; stale is part of rows."""
        self.problem: str | None = None
        """Why the last message gave nothing; None after a good one."""
        self._decode: Callable[[bytes], Decoded] = compile_values(values)
        self._clock = clock
        self._topics = topics
        self._period_ms = max(1, round(period_s * 1000))
        self._group = _group(options, values, self._period_ms, {"simulated": "true"} if simulated else {})
        self._heard: Heard | None = None
        self._emit: Emit | None = None
        self._retained: bytes | None = None
        self._complained_ms: int | None = None
        self._message: tuple[int, bytes, bool] | None = None
        self.last_ms = 0
        """When the last row was."""

    def groups(self) -> Sequence[GroupShape]:
        return (self._group,)

    def pending_since(self) -> int | None:
        """The oldest message not handed over, or loss in no gap yet."""
        lost = self._heard.since_ms if self._heard is not None else None
        begun = [since for since in (lost, self._topics.waiting_since) if since is not None]
        return min(begun, default=None)

    async def run(self, emit: Emit) -> None:
        """Take messages until cancelled; gaps still open then are closed and emitted on the way out."""
        self._heard = Heard(started_ms=self._clock.mono_ms(), period_ms=self._period_ms)
        self._emit = emit
        try:
            with self._topics.joined(self):
                while True:
                    await asyncio.sleep(LOOK_EVERY_S)
                    self._lose(self._heard.overdue(self._clock.mono_ms()))
        finally:
            self._lose(self._heard.end(self._clock.mono_ms()))
            self._heard = self._emit = None

    # --- asked by a person --------------------------------------------------------------------------

    def plan(self, quantity: str | None) -> Iterator[str]:
        del quantity
        yield f"messages on {self.topic}; usually one every {self._period_ms / 1000:g} s"

    def last_frame(self, quantity: str | None, now_ms: int) -> Iterator[str]:
        del quantity
        if self._message is not None:
            at_ms, payload, retained = self._message
            kept = ", retained by the broker" if retained else ""
            yield f"message of {len(payload)} bytes {ago(now_ms, at_ms)}{kept}"
            yield payload[:200].decode(errors="replace")
            if self.problem is not None:
                yield f"as bytes: {hexed(payload)}"

    # --- called by the broker's task ----------------------------------------------------------------

    def message(self, payload: bytes, *, retained: bool, behind: bool, mono_ms: int) -> Receipt | None:
        """One message that came then; the receipt of its row, or None if it made none."""
        assert self._heard is not None
        assert self._emit is not None
        self.counters["heard"] += 1
        self._message = (mono_ms, payload, retained)
        if retained and payload == self._retained:
            self.counters["repeated"] += 1
            return None
        self._retained = payload if retained else self._retained
        try:
            values, quality = self._decode(payload)
        except Rejected as error:
            self._refused(mono_ms, str(error))
            return None
        except Exception as error:  # a decoder that breaks must not take the other sensors with it
            self._refused(mono_ms, f"{type(error).__name__}: {error}")
            return None
        if retained or behind:
            self.counters["stale"] += 1
            quality = tuple(code or pb.QUALITY_STALE for code in quality or (pb.QUALITY_GOOD,) * len(values))
        self.counters["rows"] += 1
        self.problem = None
        self.last_ms = max(mono_ms, self.last_ms + 1)  # two of one millisecond stay apart
        self._lose(self._heard.good(self.last_ms))
        return self._emit.row(0, Row(self.last_ms, values, quality))

    def deaf(self, since_ms: int) -> None:
        if self._heard is not None:
            self._heard.deaf(since_ms)

    def hears(self, now_ms: int, *, kept: bool) -> None:
        """`kept`: the broker kept what was said meanwhile."""
        if self._heard is not None:
            self._lose(self._heard.hears(now_ms, kept=kept))

    # --- outcomes -----------------------------------------------------------------------------------

    def _refused(self, mono_ms: int, why: str) -> None:
        self.counters["refused"] += 1
        self._complain(why)
        assert self._heard is not None
        self._heard.failed(mono_ms, pb.GAP_REFUSED)

    def _complain(self, why: str) -> None:
        """Kept for whoever asks, and in the log at most once a minute."""
        self.problem = why
        now_ms = self._clock.mono_ms()
        if self._complained_ms is None or now_ms - self._complained_ms >= COMPLAIN_EVERY_MS:
            self._complained_ms = now_ms
            log.warning("mqtt.unreadable", sensor=self.id, topic=self.topic, why=why)

    def _lose(self, gaps: Iterable[Lost]) -> None:
        for lost in gaps:
            assert self._emit is not None
            self._emit.lost(0, lost)


def _group(
    options: SensorOptions, values: Sequence[MessageValue], period_ms: int, mark: Mapping[str, str]
) -> GroupShape:
    return GroupShape(
        sensor=options.id,
        period_ms=period_ms,
        series=tuple(
            series_of(
                value.quantity,
                kind=value.type,
                unit=value.unit,
                decimals=value.decimals,
                attrs={**value.attrs, **options.attrs.get(value.quantity, {}), **mark},
            )
            for value in values
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
