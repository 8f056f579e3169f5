"""Takes the picture of the running box from its parts; never waits, and asks no device."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.buffer.disk import DiskBuffer
from gateway.clock import Clock
from gateway.desired.desired import Desired
from gateway.health.picture import (
    WITHOUT,
    BoxPicture,
    BufferPicture,
    ClockPicture,
    ConfigurationPicture,
    IdentityPicture,
    LinkPicture,
    PartPicture,
    Picture,
    RadioPicture,
    SensorPicture,
    Value,
    judged,
)
from gateway.health.process import Process
from gateway.identity.keeper import Keeper
from gateway.pipeline.flow import Flow
from gateway.pipeline.real import Real, real_of
from gateway.reading import GroupShape, Row, SeriesShape
from gateway.sensors import BuiltSensor, Supervised
from gateway.sensors.complaint import counters_of, problem_of
from gateway.supervise import Failures
from gateway.uplink.anchors import Anchors
from gateway.uplink.health import LinkHealth
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.config import GatewayConfig, SensorBase

OPEN_AFTER_MS = 5_000
"""A read under way for longer than this, or than two periods, is loss in the making."""


class Scene(Protocol):
    """What runs now; it changes with the configuration."""

    @property
    def config(self) -> GatewayConfig: ...
    @property
    def sensors(self) -> Sequence[BuiltSensor]: ...
    @property
    def flows(self) -> Sequence[Flow]: ...
    @property
    def beside(self) -> Sequence[Supervised]: ...
    @property
    def link(self) -> LinkHealth: ...
    def which_silent(self) -> set[str]: ...


@dataclass(slots=True, kw_only=True)
class Picturing:
    """Called for a picture. `version` may be slow the first time; it is asked for once."""

    scene: Scene
    buffer: DiskBuffer
    clock: Clock
    keeper: Keeper
    desired: Desired
    anchors: Anchors
    failures: Failures
    process: Process
    version: Callable[[], str]
    _known_version: str = field(default="", init=False)

    def __call__(self) -> Picture:
        now_ms = self.clock.mono_ms()
        return judged(
            Picture(
                taken_ms=self.clock.wall_ms(),
                sensors=self._sensors(now_ms),
                link=self._link(now_ms),
                clock=self._clock(now_ms),
                buffer=self._buffer(now_ms),
                configuration=self._configuration(),
                identity=self._identity(),
                box=self._box(now_ms),
                parts=list(self._parts()),
                radios=list(self._radios()),
            )
        )

    def _sensors(self, now_ms: int) -> list[SensorPicture]:
        scene, silent = self.scene, self.scene.which_silent()
        together = zip(scene.config.sensor, scene.sensors, scene.flows, strict=False)
        return [
            self._sensor(options, built, way, now_ms, silent=way.sensor in silent) for options, built, way in together
        ]

    def _sensor(
        self, options: SensorBase, built: BuiltSensor, way: Flow, now_ms: int, *, silent: bool
    ) -> SensorPicture:
        rows = [row for row in way.newest if row is not None]
        values = [
            value
            for shape, row in zip(way.shapes, way.newest, strict=True)
            if row is not None
            for value in told(shape, row)
        ]
        age_s = max(0.0, (now_ms - min(row.mono_ms for row in rows)) / 1000) if rows else None
        said, cause = problem_of(built.driver)(), ""
        failed = self.failures.recent(now_s=_loop_s()).get(f"sensor.{options.id}")
        if said is None and failed is not None:
            said = failed.why
        if said is None:
            cause, said = _why(age_s, values, silent=silent)
        counters = counters_of(built.driver) | {
            "rows_taken": way.counters.rows,
            "held_back": way.counters.held_back,
            "lost": way.counters.lost,
        }
        return SensorPicture(
            id=options.id,
            driver=str(options.__struct_config__.tag),
            asset=options.asset,
            heard=bool(rows),
            silent=silent,
            problem=said,
            cause=cause,
            age_s=age_s,
            values=values,
            counters={name: count for name, count in counters.items() if count},
        )

    def _link(self, now_ms: int) -> LinkPicture:
        health, usage = self.scene.link, self.buffer.usage()
        since_ms, oldest_ms = health.connected_since_ms, usage.oldest_waiting_ms
        return LinkPicture(
            connected=health.connected,
            connected_s=None if since_ms is None else (now_ms - since_ms) / 1000,
            server=health.server,
            connections=health.connections,
            last_error=health.last_error,
            waiting_batches=usage.waiting_batches,
            waiting_readings=usage.waiting_readings,
            waiting_bytes=usage.waiting_bytes,
            oldest_waiting_s=max(0.0, (self.clock.wall_ms() - oldest_ms) / 1000) if oldest_ms else None,
            acked_batches=health.acked_batches,
            sent_bytes=health.sent_bytes,
            via=health.via,
            held_back=health.held_back,
            paused=health.paused,
            day_bytes=health.day_bytes,
            day_limit_bytes=health.day_limit_bytes,
        )

    def _clock(self, now_ms: int) -> ClockPicture:
        last = self.anchors.last
        if last is None:
            return ClockPicture(source=None, error_ms=None, anchor_age_s=None)
        source = pb.ClockSource.Name(last.source).removeprefix("CLOCK_").lower()
        return ClockPicture(source=source, error_ms=last.err_ms, anchor_age_s=(now_ms - last.mono_ms) / 1000)

    def _buffer(self, now_ms: int) -> BufferPicture:
        usage = self.buffer.usage()
        return BufferPicture(
            bytes=usage.bytes_on_disk,
            limit_bytes=usage.limit_bytes,
            unsealed_rows=self.buffer.unsealed(),
            dropped_readings=usage.dropped_readings,
            gaps_open=sum(_losing(built, now_ms) for built in self.scene.sensors),
            standstill_s=self.buffer.standstill_ms() / 1000,
            refused=self.buffer.refused(),
            thinned_readings=usage.thinned_readings,
            urgent_bytes=usage.urgent_bytes,
            urgent_limit_bytes=usage.urgent_limit_bytes,
        )

    def _configuration(self) -> ConfigurationPicture:
        running = self.desired.running()
        return ConfigurationPicture(
            management="local" if running.local_management else "managed",
            running_hash=(running.pushed_hash or running.local_hash).hex(),
            generation=running.generation,
            phase=wire.ConfigPhase.Name(running.phase).removeprefix("CONFIG_").lower(),
            last_rejection=self.desired.last_rejection(),
        )

    def _identity(self) -> IdentityPicture:
        return IdentityPicture(
            gateway_id=self.keeper.gateway_id,
            name=self.scene.config.gateway.name,
            certificate_days_left=self.keeper.days_left(),
        )

    def _box(self, now_ms: int) -> BoxPicture:
        self._known_version = self._known_version or self.version()
        opening = self.buffer.opening
        return BoxPicture(
            version=self._known_version,
            boot=opening.boot,
            opens=opening.opens,
            uptime_s=self.process.uptime_s,
            machine_uptime_s=now_ms / 1000,
            cpu_percent=self.process.cpu_percent(),
            rss_bytes=self.process.rss_bytes(),
            disk_free_bytes=self.process.disk_free_bytes(),
        )

    def _parts(self) -> Iterable[PartPicture]:
        recent = self.failures.recent(now_s=_loop_s())
        lacking = {part.name: said for part in self.scene.beside if (said := part.problem()) is not None}
        for name in dict.fromkeys([*lacking, *recent]):
            if not name.startswith("sensor."):
                problem = lacking.get(name) or recent[name].why
                yield PartPicture(name=name, restarts=self.failures.of(name).restarts, problem=problem)

    def _radios(self) -> Iterable[RadioPicture]:
        for part in self.scene.beside:
            if part.says is not None:
                said = part.says()
                yield RadioPicture(name=part.name, state=said.state, counters=dict(said.counters))


def told(shape: GroupShape, row: Row) -> Iterable[Value]:
    """Each column of a row in its unit."""
    quality = row.quality or (pb.QUALITY_GOOD,) * len(row.values)
    for series, wire_value, code in zip(shape.series, row.values, quality, strict=True):
        yield Value(
            quantity=series.name,
            unit=series.unit,
            value=_seen(series, wire_value, real_of(series)),
            quality=pb.Quality.Name(pb.Quality.ValueType(code)).removeprefix("QUALITY_").lower(),
        )


def _seen(series: SeriesShape, value: float | str | None, real: Real) -> float | bool | str | None:
    if value is None or isinstance(value, str):
        return value
    if series.type == pb.VT_BOOL:
        return bool(value)
    return real(value)


def _why(age_s: float | None, values: Sequence[Value], *, silent: bool) -> tuple[str, str | None]:
    """(cause, problem) as of a SensorPicture."""
    if silent and age_s is None:
        return "never", "nothing heard since it was started"
    if silent:
        return "silent", f"nothing heard for {age_s:.0f} s"
    without = [value.quantity for value in values if value.quality in WITHOUT]
    return ("no_value", f"no value for {', '.join(without)}") if without else ("", None)


def _losing(built: BuiltSensor, now_ms: int) -> bool:
    since_ms = built.driver.pending_since()
    period_ms = max((shape.period_ms for shape in built.driver.groups()), default=0)
    return since_ms is not None and now_ms - since_ms > max(OPEN_AFTER_MS, 2 * period_ms)


def _loop_s() -> float:
    return asyncio.get_running_loop().time()
