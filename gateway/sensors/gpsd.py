"""Where the box is, by gpsd's JSON protocol (gpsd_json(5)): a stream of reports over TCP.

Two groups: `fix` by TPV reports and `sky` by SKY reports, each as often as configured at the most. A receiver without a
fix gives rows too: they say so, and have no position. A row's time is when its report came.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from firmware_configs.host import HostProfile, HostValue
from firmware_configs.loader import Profiles
from gateway.backoff import Backoff
from gateway.clock import Clock
from gateway.errors import Retryable
from gateway.reading import GroupShape, Lost
from gateway.sensors import Built, BuiltSensor
from gateway.sensors.driver import Emit
from gateway.sensors.explains import ago
from gateway.sensors.heard import Heard
from gateway.sensors.host import row_of, shape_of
from gateway.sensors.host_build import profile_of
from gateway.sensors.host_facts import Fact
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import GatewayConfig
from protos.config import GpsdSensor as SensorOptions

WATCH = b'?WATCH={"enable":true,"json":true}\n'
SILENT_S = 30.0
LINE_BYTES = 1 << 16
LOOK_EVERY_S = 5.0
STEADY_S = 60.0
MODE_2D, MODE_3D = 2, 3
REPORTS = {"TPV": "tpv", "SKY": "sky"}
NAMES = {"hdop": "hdop", "pdop": "pdop", "vdop": "vdop"}
PLACE = {"lat": "lat", "lon": "lon", "speed": "speed", "track": "track", "climb": "climb", "eph": "eph", "eps": "eps",
         "status": "status"}  # fmt: skip

log = structlog.get_logger("gateway.gpsd")


def build(config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None) -> Built:
    """One driver per [[sensor]]. Raises Misconfigured."""
    del data_dir
    wanted = [options for options in config.sensor if isinstance(options, SensorOptions)]
    made = [
        GpsdSensor(options=options, profile=profile_of(options.id, options.profile, profiles, ("gpsd",)), clock=clock)
        for options in wanted
    ]
    return Built(sensors=tuple(BuiltSensor(one.id, one) for one in made))


@dataclass(slots=True)
class _Part:
    """One kind of report."""

    kind: str
    group: int
    values: Sequence[HostValue]
    heard: Heard | None = None
    last_ms: int = 0


class GpsdSensor:
    """A `Driver`. It connects again by itself; the time in between is a gap."""

    def __init__(
        self, *, options: SensorOptions, profile: HostProfile, clock: Clock, backoff: Backoff | None = None
    ) -> None:
        self.id = options.id
        self.counters: Counter[str] = Counter()
        """reports, rows, skipped (more often than asked), unreadable, without_fix, connected, broken."""
        self.problem: str | None = "not connected to gpsd yet"
        self._options = options
        self._host, _, port = options.address.rpartition(":")
        self._port = int(port)
        self._clock = clock
        self._backoff = backoff or Backoff(base_s=0.5, cap_s=30.0)
        self._every_ms = max(1, round(options.every_s * 1000))
        kinds = list(dict.fromkeys(value.fact.partition(".")[0] for value in profile.value))
        self._parts = [
            _Part(kind, group, [value for value in profile.value if value.fact.startswith(f"{kind}.")])
            for group, kind in enumerate(kinds)
        ]
        self._shapes = tuple(
            shape_of(options.id, part.values, every_s=options.every_s, mark={}, part=part.kind) for part in self._parts
        )
        self._emit: Emit | None = None
        self._line: tuple[int, bytes] | None = None

    def groups(self) -> Sequence[GroupShape]:
        return self._shapes

    def pending_since(self) -> int | None:
        begun = [part.heard.since_ms for part in self._parts if part.heard is not None]
        return min((since for since in begun if since is not None), default=None)

    def plan(self, quantity: str | None) -> Iterator[str]:
        del quantity
        yield f"reports of gpsd at {self._options.address}, at most one every {self._options.every_s:g} s"

    def last_frame(self, quantity: str | None, now_ms: int) -> Iterator[str]:
        del quantity
        if self._line is not None:
            at_ms, line = self._line
            yield f"report {ago(now_ms, at_ms)}"
            yield line[:300].decode(errors="replace").strip()

    async def run(self, emit: Emit) -> None:
        self._emit = emit
        now_ms = self._clock.mono_ms()
        for part in self._parts:
            part.heard = Heard(started_ms=now_ms, period_ms=self._every_ms)
        looking = asyncio.create_task(self._look(), name=f"gpsd.{self.id}.gaps")
        try:
            while True:
                await self._listened()
                await asyncio.sleep(self._backoff.next_s())
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            for part in self._parts:
                if part.heard is not None:
                    self._lose(part, part.heard.end(self._clock.mono_ms()))
                part.heard = None
            self._emit = None

    async def _listened(self) -> None:
        began = asyncio.get_running_loop().time()
        try:
            await self._listen()
        except Retryable as error:
            if str(error) != self.problem:
                log.warning("gpsd.away", sensor=self.id, why=str(error))
            self.problem = str(error)
        self.counters["broken"] += 1
        if asyncio.get_running_loop().time() - began > STEADY_S:
            self._backoff.reset()
        for part in self._parts:
            if part.heard is not None:
                part.heard.deaf(max(self._clock.mono_ms(), part.last_ms))

    async def _listen(self) -> None:
        """One connection's life. Raises Retryable, in words, when it ends."""
        try:
            async with asyncio.timeout(SILENT_S):
                reader, writer = await asyncio.open_connection(self._host, self._port, limit=LINE_BYTES)
        except (OSError, TimeoutError) as error:
            why = os.strerror(error.errno) if error.errno else str(error) or "no answer"
            raise Retryable(f"gpsd at {self._options.address}: {why}") from None
        try:
            writer.write(WATCH)
            self.counters["connected"] += 1
            while True:
                async with asyncio.timeout(SILENT_S):
                    line = await reader.readline()
                if not line:
                    raise Retryable("gpsd ended the connection")
                self._heard(line, self._clock.mono_ms())
        except TimeoutError:
            raise Retryable(f"gpsd says nothing for {SILENT_S:g} s: is a receiver connected?") from None
        except (OSError, ValueError) as error:
            raise Retryable(f"gpsd: {error}") from None
        finally:
            writer.transport.abort()

    def _heard(self, line: bytes, mono_ms: int) -> None:
        try:
            said: Any = msgspec.json.decode(line)
            kind = said["class"]
        except (msgspec.MsgspecError, LookupError, TypeError, UnicodeDecodeError, RecursionError):
            self.counters["unreadable"] += 1
            return
        device = self._options.device
        if kind == "ERROR":
            self.problem = f"gpsd: {str(said.get('message', ''))[:200]}"
        if kind not in REPORTS or (device and said.get("device") != device):
            return
        self._line = (mono_ms, line)
        self.counters["reports"] += 1
        for part in self._parts:
            if part.kind == REPORTS[kind]:
                self._report(part, said, mono_ms)

    def _report(self, part: _Part, said: Mapping[str, Any], mono_ms: int) -> None:
        facts = of_tpv(said) if part.kind == "tpv" else of_sky(said)
        row = row_of(part.values, facts, max(mono_ms, part.last_ms + 1), lacking=pb.QUALITY_BAD_SENSOR)
        assert part.heard is not None
        assert self._emit is not None
        if row is None:
            self.counters["unreadable"] += 1
            return
        if part.kind == "tpv":
            self.problem = None if "tpv.lat" in facts else "no fix: the receiver sees too few satellites"
            self.counters["without_fix"] += "tpv.lat" not in facts
        self._lose(part, part.heard.hears(mono_ms))
        if part.last_ms and mono_ms - part.last_ms < self._every_ms * 0.9:  # a receiver's pace is not exact
            self.counters["skipped"] += 1
            return
        self.counters["rows"] += 1
        row = row._replace(mono_ms=max(row.mono_ms, part.last_ms + 1))
        part.last_ms = row.mono_ms
        self._lose(part, part.heard.good(row.mono_ms))
        self._emit.row(part.group, row)

    async def _look(self) -> None:
        """Gaps that have been open for long are told."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for part in self._parts:
                if part.heard is not None:
                    self._lose(part, part.heard.overdue(self._clock.mono_ms()))

    def _lose(self, part: _Part, gaps: Iterable[Lost]) -> None:
        for lost in gaps:
            assert self._emit is not None
            part.last_ms = max(part.last_ms, lost.before_mono_ms - 1)
            self._emit.lost(part.group, lost)


def of_tpv(said: Mapping[str, Any]) -> dict[str, Fact]:
    """A fix; without one only its mode."""
    mode = said.get("mode")
    if isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode <= MODE_3D:
        return {}
    found: dict[str, Fact] = {"tpv.mode": mode}
    if mode < MODE_2D:
        return found
    found |= {f"tpv.{fact}": value for name, fact in PLACE.items() if (value := _number(said.get(name))) is not None}
    if not (-90 <= float(found.get("tpv.lat", 99)) <= 90 and -180 <= float(found.get("tpv.lon", 999)) <= 180):
        return {"tpv.mode": mode}
    if mode == MODE_3D:
        for name in ("altMSL", "alt", "altHAE"):  # newer gpsd says which height it means
            if (height := _number(said.get(name))) is not None:
                found["tpv.altitude"] = height
                break
        if (error := _number(said.get("epv"))) is not None:
            found["tpv.epv"] = error
    return found


def of_sky(said: Mapping[str, Any]) -> dict[str, Fact]:
    """Satellites: by their numbers where gpsd gives them (since 3.20), else counted."""
    found: dict[str, Fact] = {f"sky.{n}": value for n in NAMES if (value := _number(said.get(n))) is not None}
    seen = said.get("satellites")
    seen = [one for one in seen if isinstance(one, dict)] if isinstance(seen, list) else None
    used, visible = _number(said.get("uSat")), _number(said.get("nSat"))
    if used is None and seen is not None:
        used = sum(one.get("used") is True for one in seen)
    if visible is None and seen is not None:
        visible = len(seen)
    found |= {"sky.used": used} if used is not None else {}
    return found | ({"sky.visible": visible} if visible is not None else {})


def _number(said: Any) -> int | float | None:
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        return None
    return said
