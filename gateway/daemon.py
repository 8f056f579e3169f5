"""The one place where the gateway's parts meet, top to bottom: the order of starting. Stopping is the other way round.

sensors ─► pipeline ─► buffer ─► uplink ◄─► desired, which says under which configuration the others run
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from firmware_configs.loader import Profiles
from gateway import checking, sensors
from gateway.buffer.buffer import Buffer
from gateway.buffer.disk import DiskBuffer
from gateway.clock import Clock
from gateway.desired.desired import Desired, Pinned
from gateway.desired.state import Desk
from gateway.errors import Misconfigured
from gateway.health.carrier import carrier
from gateway.health.watchdog import notify
from gateway.identity.keeper import Keeper
from gateway.pipeline.flow import Flow, flow
from gateway.pipeline.silence import Silence
from gateway.reading import GroupShape
from gateway.sensors import BuiltSensor, Supervised
from gateway.sensors.driver import Driver
from gateway.supervise import supervised
from gateway.uplink.anchors import Anchors
from gateway.uplink.link import Link
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import GatewayConfig

STOP_WITHIN_S = 10.0

log = structlog.get_logger("gateway")


async def run(
    config: GatewayConfig,
    *,
    data_dir: Path,
    clock: Clock,
    profiles: Profiles,
    version: Callable[[], str],
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Run until SIGTERM or SIGINT. Raises Misconfigured for what a person must mend first, OSError for the disk.

    `config` is the hand-written document; on a managed box one that was pushed takes its place.
    """
    stop = _stop_requested()  # first: a buffer being opened is closed cleanly too
    keeper = Keeper(data_dir, clock=clock)
    desired = Desired(
        desk=Desk(data_dir / "desired"),
        local=config,
        pinned=lambda: Pinned(gateway=keeper.gateway_id, config_key=keeper.config_key),
        check=lambda wanted: checking.problems(wanted, clock=clock, profiles=profiles),
        clock=clock,
    )

    def pending_since() -> int | None:
        return site.pending_since()

    buffer = DiskBuffer(
        data_dir / "buffer",
        clock=clock,
        settings=config.buffer,
        batch_interval_s=config.uplink.batch_interval_s,
        pending_since=pending_since,
    )
    site = Site(
        buffer=buffer, clock=clock, local=config, build=lambda wanted: built(wanted, buffer, clock, profiles, data_dir)
    )
    plan = _first_plan(desired, site)
    await site.open(plan)

    def record(anchor: pb.Anchor) -> None:
        buffer.event(pb.EVENT_ANCHOR, anchor.SerializeToString())

    def set_batch_interval(seconds: float) -> None:
        buffer.batch_interval_s = seconds

    anchors = Anchors(clock=clock, boot=buffer.opening.boot, record=record)

    def link(settings: GatewayConfig) -> Link:
        return Link(
            buffer=buffer,
            clock=clock,
            settings=settings.uplink,
            endpoint=Door(keeper, address=settings.uplink.server),
            set_batch_interval=set_batch_interval,
            anchors=anchors,
            version=version,
            configuration=desired,
            sensors_silent=site.silent,
        )

    log.info("gateway.start", id=keeper.gateway_id, epoch=f"{buffer.opening.epoch:08x}", opens=buffer.opening.opens)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(supervised("buffer", buffer.run), name="buffer")]
            running += [tasks.create_task(supervised("clock", anchors.run), name="clock")]
            site.begin(tasks, link)
            ruling = tasks.create_task(supervised("configuration", lambda: desired.run(site)), name="configuration")
            ready()
            notify("READY=1")
            await stop.wait()
            notify("STOPPING=1")
            await _ended([ruling])
            await desired.paused()
            await site.end()
            await _ended(running)
    finally:
        await buffer.close()
        log.info("gateway.stop")


@dataclass(slots=True)
class Plan:
    """The sensors of one configuration, built and not yet running; without one there are none."""

    config: GatewayConfig | None = None
    sensors: Sequence[BuiltSensor] = ()
    beside: Sequence[Supervised] = ()
    flows: Sequence[Flow] = ()

    @property
    def shapes(self) -> list[GroupShape]:
        return [shape for way in self.flows for shape in way.shapes]

    def bind(self, ids: Sequence[int]) -> None:
        """Give each flow the ids of its groups."""
        rest = iter(ids)
        for way in self.flows:
            way.bind([next(rest) for _ in way.shapes])


def built(config: GatewayConfig | None, buffer: Buffer, clock: Clock, profiles: Profiles, data_dir: Path) -> Plan:
    """Raises Misconfigured."""
    if config is None:
        return Plan()
    made = sensors.build(config, clock=clock, profiles=profiles, data_dir=data_dir)
    flows = [flow(s, b.driver.groups(), buffer) for s, b in zip(config.sensor, made.sensors, strict=True)]
    return Plan(config, made.sensors, made.tasks, flows)


def _first_plan(desired: Desired, site: Site) -> Plan:
    """What can be started: the newest document that is trusted, else an older one, else no sensors at all."""
    config = desired.first()
    while True:
        try:
            return site.build(config)
        except Misconfigured as error:
            config = desired.not_started(error)


class Site:
    """The parts that a configuration decides: sensors with what runs beside them, and where the uplink leads."""

    def __init__(
        self,
        *,
        buffer: DiskBuffer,
        clock: Clock,
        local: GatewayConfig,
        build: Callable[[GatewayConfig | None], Plan],
    ) -> None:
        self.build = build
        self._buffer = buffer
        self._clock = clock
        self._silence = Silence((), clock=clock)
        self._local = local
        self._plan = Plan()
        self._running: list[asyncio.Task[None]] = []
        self._uplink: list[asyncio.Task[None]] = []

    async def open(self, plan: Plan) -> None:
        """Open the buffer for what will be read first."""
        self._buffer.limit((plan.config or self._local).buffer)
        self._plan = plan
        plan.bind(await self._buffer.open(plan.shapes))

    def begin(self, tasks: asyncio.TaskGroup, link: Callable[[GatewayConfig], Link]) -> None:
        self._tasks, self._make_link = tasks, link
        self._start_uplink(self._plan.config or self._local)
        self._start_sensors()

    async def end(self) -> None:
        await _ended([*self._running, *self._uplink])

    async def switch(self, config: GatewayConfig | None) -> None:
        """See `gateway.desired.desired.Site`."""
        plan = self.build(config)
        before, after = self._plan.config or self._local, config or self._local
        await _ended(self._running)
        self._plan = plan
        self._buffer.limit(after.buffer)
        plan.bind(await self._buffer.declare(plan.shapes))
        self._start_sensors()
        if after.uplink != before.uplink:
            await _ended(self._uplink)
            self._start_uplink(after)

    def delivered(self) -> Mapping[str, int]:
        return {way.sensor: max(way.heard_ms, default=0) for way in self._plan.flows}

    def silent(self) -> int:
        return self._silence.silent

    def connected(self) -> bool:
        return self._link.health.connected

    def carrier(self) -> bool:
        return carrier()

    def pending_since(self) -> int | None:
        begun = [since for s in self._plan.sensors if (since := s.driver.pending_since()) is not None]
        return min(begun, default=None)

    def _start_uplink(self, config: GatewayConfig) -> None:
        self._link = self._make_link(config)
        self._uplink = [self._started("uplink", self._link.run)]

    def _start_sensors(self) -> None:
        plan = self._plan
        self._silence = Silence(plan.flows, clock=self._clock)
        self._running = [self._started("silence", self._silence.run)]
        self._running += [self._started(task.name, task.run) for task in plan.beside]
        for sensor, way in zip(plan.sensors, plan.flows, strict=True):
            self._running.append(self._started(f"sensor.{sensor.id}", _drive(sensor.driver, way), part=sensor.id))

    def _started(self, name: str, run: Callable[[], Awaitable[None]], *, part: str | None = None) -> asyncio.Task[None]:
        return self._tasks.create_task(supervised(part or name, run), name=name)


async def _ended(running: Sequence[asyncio.Task[None]]) -> None:
    """Cancel, newest first, and wait for them, but not for ever."""
    for one in reversed(running):
        one.cancel()
    if running:
        _, late = await asyncio.wait(running, timeout=STOP_WITHIN_S)
        for one in late:
            log.error("part.not_ended", part=one.get_name(), after_s=STOP_WITHIN_S)


def _drive(driver: Driver, way: Flow) -> Callable[[], Coroutine[Any, Any, None]]:
    async def run() -> None:
        await driver.run(way)

    return run


class Door:
    """The uplink's endpoint: the keeper's identity at the configured address, or as told at enrolment."""

    def __init__(self, keeper: Keeper, *, address: str) -> None:
        self._keeper = keeper
        self._address = address

    async def before_connecting(self) -> tuple[str, grpc.ChannelCredentials]:
        identity = await self._keeper.before_connecting()
        return self._address or identity.grpc_address, identity.credentials()

    def connected(self) -> None:
        self._keeper.connected()

    def failed(self) -> None:
        self._keeper.failed()


def _stop_requested() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
