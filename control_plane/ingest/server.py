"""The ingest process's event loop: the Link service, the journal writer, the watch over revocations."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from control_plane.clock import Clock
from control_plane.fleet.dispatch import Dispatch
from control_plane.fleet.offers import Offers
from control_plane.ingest.commands import Commander
from control_plane.ingest.configuration import Pusher
from control_plane.ingest.dictionaries import Courier
from control_plane.ingest.door import Door
from control_plane.ingest.quota import Quota
from control_plane.ingest.service import METHOD_SERVICE, LinkService
from control_plane.ingest.turnstile import Turnstile
from control_plane.ingest.writer import Writer
from control_plane.journal.dictionaries import Issued
from control_plane.journal.journal import Journal
from control_plane.settings import IngestSection
from protos.columns import MAX_BODY_BYTES
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

REVOCATIONS_EVERY_S = 2.0
CERTIFICATE_EVERY_S = 10.0
ALIVE_EVERY_S = 3.0
STOP_WITHIN_S = 0.5

log = structlog.get_logger("control_plane.ingest")


class Admission:
    """Who may come in: gateways of the fleet whose certificate was not revoked."""

    def __init__(self, revoked: Callable[[], frozenset[str]]) -> None:
        self._load = revoked
        self._revoked: frozenset[str] = frozenset()

    def refresh(self) -> None:
        self._revoked = self._load()

    def why_not(self, gateway: str, serial: int) -> str | None:
        if not gateway:
            return "the certificate names no gateway"
        if f"{serial:x}" in self._revoked:
            return "the certificate was revoked"
        return None


async def serve(
    *,
    address: str,
    door: Door,
    journal: Journal,
    clock: Clock,
    settings: IngestSection,
    admission: Admission,
    ready: Callable[[], None],
    stop: threading.Event,
    offers: Offers | None = None,
    dictionaries: Issued | None = None,
    dispatch: Dispatch | None = None,
    released: Callable[[str], int | None] = lambda _gateway: None,
    alive: Callable[[], None] = lambda: None,
) -> None:
    """`alive` tells others that this process lives; it may block, and is called every ALIVE_EVERY_S.

    Serve until `stop`; then say goodbye, commit what is queued, and return within a few seconds.
    """
    writer = Writer(journal, linger_s=settings.linger_ms / 1000, each=2 * settings.max_inflight)
    turnstile = Turnstile(per_s=settings.opens_per_s, monotonic_s=time.monotonic)
    quota = Quota(
        batches_per_s=settings.batches_per_s, bytes_per_day=settings.bytes_per_day, monotonic_s=time.monotonic
    )
    limits = wire.Limits(
        max_inflight=settings.max_inflight,
        max_body_bytes=settings.max_body_bytes,
        max_message_bytes=settings.max_message_bytes,
        codecs=[pb.CODEC_NONE, pb.CODEC_ZSTD, pb.CODEC_ZSTD_DICT],
    )
    pace = wire.Pace(batch_interval_ms=round(settings.batch_interval_s * 1000))
    service = LinkService(
        journal=journal,
        writer=writer,
        clock=clock,
        limits=limits,
        pace=pace,
        admit=admission.why_not,
        released=released,
        turn=turnstile.wait_s,
        take=quota.take,
    )
    pusher = Pusher(offers=offers, sessions=lambda: service.sessions, clock=clock) if offers is not None else None
    if pusher is not None:
        service.moved = pusher.greeted
    courier = Courier(dictionaries=dictionaries, sessions=lambda: service.sessions) if dictionaries else None
    if courier is not None:
        service.greeted = courier.greeted
    commander = Commander(dispatch=dispatch, sessions=lambda: service.sessions, clock=clock) if dispatch else None
    if commander is not None:
        service.answered = commander.answered
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.http2.bdp_probe", 0),
            # Above every limit of ours, so that what is over a limit is rejected in words, not by a broken stream.
            ("grpc.max_receive_message_length", 2 * MAX_BODY_BYTES),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 60_000),
        ]
    )
    server.add_generic_rpc_handlers((service.handlers(),))
    serving = _describe(server)
    server.add_secure_port(address, door.credentials())
    await asyncio.to_thread(admission.refresh)
    await asyncio.to_thread(alive)
    writer.start()
    await server.start()
    await serving(health_pb2.HealthCheckResponse.SERVING)
    ready()
    beside = [
        asyncio.create_task(_watch(admission, service), name="revocations"),
        asyncio.create_task(_look(door), name="certificate"),
        asyncio.create_task(_say(alive), name="alive"),
    ]
    if pusher is not None:
        beside.append(asyncio.create_task(pusher.run(), name="configuration"))
    if courier is not None:
        beside.append(asyncio.create_task(courier.run(), name="dictionaries"))
    if commander is not None:
        beside.append(asyncio.create_task(commander.run(), name="commands"))
    try:
        while not stop.is_set():
            await asyncio.sleep(0.1)
    finally:
        await serving(health_pb2.HealthCheckResponse.NOT_SERVING)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        service.drain()
        await server.stop(STOP_WITHIN_S)
        await writer.stop()


def _describe(server: grpc.aio.Server) -> Callable[[int], Awaitable[None]]:
    """Standard health and reflection services; returns how to say the state."""
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((METHOD_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    async def say(state: int) -> None:
        for name in ("", METHOD_SERVICE):
            await checks.set(name, state)

    return say


async def _watch(admission: Admission, service: LinkService) -> None:
    while True:
        await asyncio.sleep(REVOCATIONS_EVERY_S)
        try:
            await asyncio.to_thread(admission.refresh)
        except Exception as error:
            log.warning("revocations.unreadable", error=str(error).splitlines()[0])
        service.recheck()


async def _look(door: Door) -> None:
    while True:
        await asyncio.sleep(CERTIFICATE_EVERY_S)
        try:
            await asyncio.to_thread(door.look)
        except Exception as error:
            log.error("certificate.unreadable", error=str(error).splitlines()[0], serving="the one before")


async def _say(alive: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(ALIVE_EVERY_S)
        try:
            await asyncio.to_thread(alive)
        except Exception as error:
            log.warning("alive.unsaid", error=str(error).splitlines()[0])
