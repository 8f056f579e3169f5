"""Which sensors have fallen silent: no row for max(3 × period, 60 s), by the gateway's own clock.

Said here and not at the control plane, because only here a sensor's silence can be told from that of the link. Rows
count as they come from the driver, before any report policy. The first row after a start is said too: nobody knows
whether the sensor was silent before. `heard`: a row's own time, so that a poll of this loop adds nothing to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from gateway.clock import Clock
from gateway.pipeline.flow import Flow
from protos.comboio.v1 import batch_pb2 as pb

LOOK_EVERY_S = 2.0
AT_LEAST_MS = 60_000
PERIODS = 3

log = structlog.get_logger("gateway.pipeline")


@dataclass(slots=True)
class _Ear:
    """One group. `silent` is None until something has been said of it."""

    way: Flow
    group: int
    after_ms: int
    silent: bool | None = None


class Silence:
    """Look after these flows; `run()` supervised."""

    def __init__(self, flows: Sequence[Flow], *, clock: Clock) -> None:
        self._clock = clock
        self._began_ms = clock.mono_ms()
        self._ears = [
            _Ear(way, group, max(PERIODS * shape.period_ms, AT_LEAST_MS))
            for way in flows
            for group, shape in enumerate(way.shapes)
        ]

    @property
    def silent(self) -> int:
        """Sensors of which at least one group is silent now."""
        return len(self.which())

    def which(self) -> set[str]:
        """Their ids."""
        return {ear.way.sensor for ear in self._ears if ear.silent}

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        now_ms = self._clock.mono_ms()
        for ear in self._ears:
            heard_ms = ear.way.heard_ms[ear.group]
            last_ms = heard_ms or self._began_ms
            if now_ms - last_ms > ear.after_ms:
                if not ear.silent:
                    self._say(ear, silent=True, since_ms=last_ms)
            elif heard_ms and ear.silent is not False:
                self._say(ear, silent=False, since_ms=heard_ms)

    @staticmethod
    def _say(ear: _Ear, *, silent: bool, since_ms: int) -> None:
        kind = pb.EVENT_SENSOR_SILENT if silent else pb.EVENT_SENSOR_RECOVERED
        severity = pb.SEVERITY_WARNING if silent else pb.SEVERITY_INFO
        if ear.way.say(ear.group, kind, pb.Condition(since_mono_ms=since_ms), severity):
            if silent or ear.silent:
                log.warning("sensor.silent" if silent else "sensor.recovered", sensor=ear.way.sensor)
            ear.silent = silent
