"""The one place where the gateway's parts meet, top to bottom: the order of starting. Stopping is the other way round.

sensors ─► pipeline ─► buffer ─► uplink
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import structlog

from firmware_configs.loader import Profiles
from gateway import sensors
from gateway.buffer.disk import DiskBuffer
from gateway.clock import Clock
from gateway.health.watchdog import notify
from gateway.identity.keeper import Keeper
from gateway.pipeline.flow import Flow, flow
from gateway.sensors.driver import Driver
from gateway.supervise import supervised
from gateway.uplink.anchors import Anchors
from gateway.uplink.link import Link
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import GatewayConfig

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
    """Run until SIGTERM or SIGINT. Raises Misconfigured for what a person must mend first, OSError for the disk."""
    stop = _stop_requested()  # first: a buffer being opened is closed cleanly too
    keeper = Keeper(data_dir, clock=clock)
    built = sensors.build(config, clock=clock, profiles=profiles, data_dir=data_dir)

    def pending_since() -> int | None:
        begun = [since for s in built.sensors if (since := s.driver.pending_since()) is not None]
        return min(begun, default=None)

    buffer = DiskBuffer(
        data_dir / "buffer",
        clock=clock,
        settings=config.buffer,
        batch_interval_s=config.uplink.batch_interval_s,
        pending_since=pending_since,
    )
    flows = [flow(s, b.driver.groups(), buffer) for s, b in zip(config.sensor, built.sensors, strict=True)]
    await _open(buffer, flows)

    def record(anchor: pb.Anchor) -> None:
        buffer.event(pb.EVENT_ANCHOR, anchor.SerializeToString())

    def set_batch_interval(seconds: float) -> None:
        buffer.batch_interval_s = seconds

    anchors = Anchors(clock=clock, boot=buffer.opening.boot, record=record)
    link = Link(
        buffer=buffer,
        clock=clock,
        settings=config.uplink,
        endpoint=Door(keeper, address=config.uplink.server),
        set_batch_interval=set_batch_interval,
        anchors=anchors,
        version=version,
    )
    log.info("gateway.start", id=keeper.gateway_id, epoch=f"{buffer.opening.epoch:08x}", opens=buffer.opening.opens)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(supervised("buffer", buffer.run), name="buffer")]
            running += [tasks.create_task(supervised("clock", anchors.run), name="clock")]
            running += [tasks.create_task(supervised("uplink", link.run), name="uplink")]
            for task in built.tasks:
                running.append(tasks.create_task(supervised(task.name, task.run), name=task.name))
            for sensor, way in zip(built.sensors, flows, strict=True):
                drive = _drive(sensor.driver, way)
                running.append(tasks.create_task(supervised(sensor.id, drive), name=f"sensor.{sensor.id}"))
            ready()
            notify("READY=1")
            await stop.wait()
            notify("STOPPING=1")
            for one in reversed(running):
                one.cancel()
    finally:
        await buffer.close()
        log.info("gateway.stop")


async def _open(buffer: DiskBuffer, flows: list[Flow]) -> None:
    """Declare every group and give each flow its ids."""
    ids = iter(await buffer.open([shape for way in flows for shape in way.shapes]))
    for way in flows:
        way.bind([next(ids) for _ in way.shapes])


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
