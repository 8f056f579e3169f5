"""The one place where the gateway's parts meet, top to bottom: the order of starting. Stopping is the other way round.

sensors ─► pipeline ─► buffer ─► uplink ◄─► desired, which says under which configuration the others run
"""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import structlog

from firmware_configs.buses import overloads
from firmware_configs.loader import Profiles
from firmware_configs.policies import with_reports
from gateway import checking, sensors
from gateway.buffer import thinning
from gateway.buffer.buffer import Buffer
from gateway.buffer.disk import DiskBuffer
from gateway.clock import Clock
from gateway.commands.beside import asked_at_box
from gateway.commands.book import Book
from gateway.commands.commands import Commands
from gateway.desired.desired import Desired, Pinned
from gateway.desired.state import Desk
from gateway.errors import Misconfigured, Rejected
from gateway.explaining import Explaining
from gateway.health.carrier import carrier
from gateway.health.picture import STANDSTILL_S, headline
from gateway.health.process import Process
from gateway.health.status import Identified, StatusSocket
from gateway.health.watchdog import Watchdog, notify
from gateway.identifying import identified
from gateway.identity.keeper import Keeper
from gateway.picturing import Picturing
from gateway.pipeline.flow import Flow, flow
from gateway.pipeline.silence import Silence
from gateway.power import PowerFail
from gateway.reading import GroupShape
from gateway.sensors import BuiltSensor, Identify, Supervised
from gateway.sensors.driver import Driver, Writable
from gateway.supervise import Failures, supervised
from gateway.uplink.anchors import Anchors
from gateway.uplink.gps import Gpsd
from gateway.uplink.hardware_clock import HardwareClock
from gateway.uplink.health import LinkHealth
from gateway.uplink.link import Link
from gateway.uplink.spending import Spending
from gateway.writing import Point
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import FieldSection, GatewayConfig

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
    failures = Failures()
    site = Site(
        buffer=buffer,
        clock=clock,
        local=config,
        build=lambda wanted: built(wanted, buffer, clock, profiles, data_dir),
        failures=failures,
    )
    plan = _first_plan(desired, site)
    await site.open(plan)

    def record(anchor: pb.Anchor) -> None:
        buffer.event(pb.EVENT_ANCHOR, anchor.SerializeToString())

    def set_batch_interval(seconds: float) -> None:
        buffer.batch_interval_s = seconds

    hardware = HardwareClock(data_dir / "hardware-clock.json")
    anchors = Anchors(clock=clock, boot=buffer.opening.boot, record=record, hardware=hardware)
    spending = Spending(data_dir / "uplink-day.json", clock=clock)

    commands = Commands(
        book=Book(data_dir / "commands" / "book.db"),
        clock=clock,
        site=site,
        event=buffer.event,
        pinned=lambda: (keeper.gateway_id, keeper.config_key),
        generation=lambda: desired.running().generation,
    )

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
            spending=spending,
            sensors_silent=site.silent,
            commands=commands,
        )

    picture = Picturing(
        scene=site,
        buffer=buffer,
        clock=clock,
        keeper=keeper,
        desired=desired,
        anchors=anchors,
        failures=failures,
        process=Process(disk=data_dir),
        version=functools.cache(version),
    )

    explain = Explaining(scene=site, buffer=buffer, clock=clock, anchors=anchors, failures=failures)

    def page(settings: FieldSection) -> Supervised:
        from gateway.field.page import Page  # noqa: PLC0415 - aiohttp takes 15 MB; imported where it is asked for

        return Supervised("page", Page(settings, data_dir=data_dir, clock=clock, take=picture).run)

    power = PowerFail(buffer=buffer, clock=clock, fail_input=lambda: site.config.power.fail_input)
    watchdog = Watchdog(
        stuck=lambda: [*_standing(buffer), *site.ended(), *_ended_parts(running)],
        headline=lambda: headline(picture()),
    )
    running: list[asyncio.Task[None]] = []
    for overload in overloads(config, profiles):
        log.warning("bus.overloaded", why=overload)
    for why in checking.advice(config):
        log.warning("bus.port_may_change", why=why)
    log.info("gateway.start", id=keeper.gateway_id, epoch=f"{buffer.opening.epoch:08x}", opens=buffer.opening.opens)
    try:
        async with power.listening(), asyncio.TaskGroup() as tasks:
            always: dict[str, Callable[[], Awaitable[None]]] = {
                "buffer": buffer.run,
                "power": power.run,
                "clock": anchors.run,
                "status": StatusSocket(
                    data_dir, take=picture, explain=explain, write=asked_at_box(commands), identify=site.identify
                ).run,
                "commands": commands.run,
                "watchdog": watchdog.run,
            }
            if site.config.gateway.gpsd:
                always["gps"] = Gpsd(site.config.gateway.gpsd, clock=clock, offer=anchors.from_gps).run
            for name, run in always.items():
                running.append(tasks.create_task(supervised(name, run, failures=failures), name=name))
            site.begin(tasks, link, page)
            ruling = tasks.create_task(
                supervised("configuration", lambda: desired.run(site), failures=failures), name="configuration"
            )
            ready()
            notify("READY=1")
            watchdog.look()
            await stop.wait()
            notify("STOPPING=1")
            await _ended([ruling])
            await desired.paused()
            await site.end()
            await _ended(running)
    finally:
        await buffer.close()
        commands.close()
        log.info("gateway.stop")


@dataclass(slots=True)
class Plan:
    """The sensors of one configuration, built and not yet running; without one there are none."""

    config: GatewayConfig | None = None
    sensors: Sequence[BuiltSensor] = ()
    beside: Sequence[Supervised] = ()
    flows: Sequence[Flow] = ()
    identify: Mapping[str, Identify] = field(default_factory=dict)

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
    told = [with_reports(options, profiles) for options in config.sensor]
    flows = [flow(s, b.driver.groups(), buffer) for s, b in zip(told, made.sensors, strict=True)]
    return Plan(config, made.sensors, made.tasks, flows, made.identify)


def _first_plan(desired: Desired, site: Site) -> Plan:
    """What can be started: the newest document that is trusted, else an older one, else no sensors at all."""
    config = desired.first()
    while True:
        try:
            return site.build(config)
        except Misconfigured as error:
            config = desired.not_started(error)


class Site:
    """The parts that a configuration decides: sensors with what runs beside them, where the uplink leads, the page."""

    def __init__(
        self,
        *,
        buffer: DiskBuffer,
        clock: Clock,
        local: GatewayConfig,
        build: Callable[[GatewayConfig | None], Plan],
        failures: Failures,
    ) -> None:
        self.build = build
        self._failures = failures
        self._buffer = buffer
        self._clock = clock
        self._silence = Silence((), clock=clock)
        self._local = local
        self._plan = Plan()
        self._running: list[asyncio.Task[None]] = []
        self._uplink: list[asyncio.Task[None]] = []
        self._page: list[asyncio.Task[None]] = []

    @property
    def config(self) -> GatewayConfig:
        """What runs; without any, the hand-written document still decides the rest."""
        return self._plan.config or self._local

    @property
    def sensors(self) -> Sequence[BuiltSensor]:
        return self._plan.sensors

    @property
    def flows(self) -> Sequence[Flow]:
        return self._plan.flows

    @property
    def beside(self) -> Sequence[Supervised]:
        return self._plan.beside

    @property
    def link(self) -> LinkHealth:
        return self._link.health

    async def open(self, plan: Plan) -> None:
        """Open the buffer for what will be read first."""
        self._plan = plan
        self._buffer.limit(self.config.buffer, thinning.priorities(self.config.sensor))
        plan.bind(await self._buffer.open(plan.shapes))

    def begin(
        self,
        tasks: asyncio.TaskGroup,
        link: Callable[[GatewayConfig], Link],
        page: Callable[[FieldSection], Supervised],
    ) -> None:
        self._tasks, self._make_link, self._make_page = tasks, link, page
        self._start_uplink()
        self._start_sensors()
        self._start_page()

    async def end(self) -> None:
        await _ended([*self._running, *self._uplink, *self._page])

    def ended(self) -> list[str]:
        """Parts whose task has ended although nobody stopped it, one sentence each."""
        return _ended_parts([*self._running, *self._uplink, *self._page])

    async def switch(self, config: GatewayConfig | None) -> None:
        """See `gateway.desired.desired.Site`."""
        plan = self.build(config)
        before, after = self.config, config or self._local
        await _ended(self._running)
        self._plan = plan
        self._buffer.limit(after.buffer, thinning.priorities(after.sensor))
        plan.bind(await self._buffer.declare(plan.shapes))
        self._start_sensors()
        if after.uplink != before.uplink:
            await _ended(self._uplink)
            self._start_uplink()
        if after.field != before.field:
            await _ended(self._page)
            self._start_page()

    def delivered(self) -> Mapping[str, int]:
        return {way.sensor: max(way.heard_ms, default=0) for way in self._plan.flows}

    def silent(self) -> int:
        return self._silence.silent

    def which_silent(self) -> set[str]:
        return self._silence.which()

    def point(self, sensor: str, quantity: str) -> Point:
        """Where a command may write. Raises Rejected."""
        found = next((one.driver for one in self._plan.sensors if one.id == sensor), None)
        if found is None:
            known = ", ".join(sorted(one.id for one in self._plan.sensors)) or "none"
            raise Rejected(f"there is no sensor {sensor} on this gateway; it has {known}")
        if not isinstance(found, Writable):
            raise Rejected(f"nothing can be written to {sensor}: only Modbus devices take commands")
        return found.point(quantity)

    async def identify(self, bus: str, unit: int) -> Identified:
        """Of a device on a bus in use. Never raises."""
        return await identified(self._plan.identify.get(bus), unit)

    def connected(self) -> bool:
        return self._link.health.connected

    def carrier(self) -> bool:
        return carrier()

    def pending_since(self) -> int | None:
        begun = [since for s in self._plan.sensors if (since := s.driver.pending_since()) is not None]
        return min(begun, default=None)

    def _start_uplink(self) -> None:
        self._link = self._make_link(self.config)
        self._uplink = [self._started("uplink", self._link.run)]

    def _start_page(self) -> None:
        settings = self.config.field
        made = [self._make_page(settings)] if settings.enabled else []
        self._page = [self._started(page.name, page.run) for page in made]

    def _start_sensors(self) -> None:
        plan = self._plan
        self._silence = Silence(plan.flows, clock=self._clock)
        self._running = [self._started("silence", self._silence.run)]
        self._running += [self._started(task.name, task.run) for task in plan.beside]
        for sensor, way in zip(plan.sensors, plan.flows, strict=True):
            self._running.append(self._started(f"sensor.{sensor.id}", _drive(sensor.driver, way), part=sensor.id))

    def _started(self, name: str, run: Callable[[], Awaitable[None]], *, part: str | None = None) -> asyncio.Task[None]:
        running = supervised(part or name, run, failures=self._failures, known_as=name)
        return self._tasks.create_task(running, name=name)


async def _ended(running: Sequence[asyncio.Task[None]]) -> None:
    """Cancel, newest first, and wait for them, but not for ever."""
    for one in reversed(running):
        one.cancel()
    if running:
        _, late = await asyncio.wait(running, timeout=STOP_WITHIN_S)
        for one in late:
            log.error("part.not_ended", part=one.get_name(), after_s=STOP_WITHIN_S)


def _ended_parts(running: Sequence[asyncio.Task[None]]) -> list[str]:
    return [f"{one.get_name()} has ended" for one in running if one.done()]


def _standing(buffer: DiskBuffer) -> Iterator[str]:
    if why := buffer.damaged():
        yield f"the buffer's store is damaged ({why}); the next start sets it aside and keeps what is readable"
    still_s = buffer.standstill_ms() / 1000
    if still_s >= STANDSTILL_S:
        yield f"the buffer has waited {still_s:.0f} s for the disk"


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
