from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import Row, Table, event, select, text

from control_plane.clock import SystemClock
from control_plane.fleet.authority import Authority
from control_plane.fleet.dispatch import Dispatch
from control_plane.fleet.offers import Offers
from control_plane.ingest import commands, configuration, dictionaries
from control_plane.ingest import server as server_module
from control_plane.ingest.door import Door
from control_plane.ingest.server import Admission, serve
from control_plane.ingest.service import LinkService
from control_plane.journal.dictionaries import Issued
from control_plane.journal.sql import SqlJournal
from control_plane.listen import bound, reserved
from control_plane.settings import Address, IngestSection
from control_plane.store.engine import Stores
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane import sealing
from tests.control_plane.sealing import GATEWAY, declare

METHOD = "/comboio.v1.Link/Connect"
PATIENCE_S = 10.0
PROBATION_S = 7
LIMITS = IngestSection(linger_ms=1, max_body_bytes=4096)


def hello(**facts: Any) -> wire.Hello:
    """Of a store that has sealed more than any test here sends."""
    return sealing.hello(**{"telemetry": 1000, "urgent": 1000, **facts})


class Box:
    """A gateway's end of one stream, bare."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def say(self, **message: Any) -> None:
        await self.call.write(wire.Uplink(**message).SerializeToString())

    async def hear(self) -> wire.Downlink:
        async with asyncio.timeout(PATIENCE_S):
            raw = await self.call.read()
        assert isinstance(raw, bytes), "the stream ended"
        return wire.Downlink.FromString(raw)

    async def greet(self, said: wire.Hello | None = None) -> wire.Welcome:
        await self.say(hello=said or hello())
        answer = await self.hear()
        assert answer.WhichOneof("msg") == "welcome", answer
        return answer.welcome

    async def goodbye(self) -> wire.Goodbye:
        """Whatever acks come before it."""
        while (answer := await self.hear()).WhichOneof("msg") != "goodbye":
            assert answer.WhichOneof("msg") == "ack", answer
        return answer.goodbye

    async def send(self, *batches: pb.Batch, said: pb.Declare | None = None) -> None:
        if said is not None:
            await self.say(declare=said)
        for one in batches:
            await self.say(batch=one)

    async def acked(self, cum: int, *above: tuple[int, int], lane: int = pb.TELEMETRY) -> None:
        """Wait for an ack that says exactly this of the lane; none before it may say more."""
        while True:
            answer = await self.hear()
            assert answer.WhichOneof("msg") == "ack", answer
            for said in answer.ack.lanes:
                if said.lane == lane:
                    assert said.acked <= cum
                    if (said.acked, [(r.first, r.last) for r in said.above]) == (cum, list(above)):
                        return

    async def status(self) -> grpc.StatusCode:
        async with asyncio.timeout(PATIENCE_S):
            code: grpc.StatusCode = await self.call.code()
        return code


class Plane:
    """A running server over real stores; everything a test may turn."""

    def __init__(self, stores: Stores, authority: Authority, address: str, door: Door) -> None:
        self.door = door
        self.link: LinkService
        self.stores = stores
        self.authority = authority
        self.address = address
        self.revoked: set[str] = set()
        self.serials: dict[str, str] = {}
        self.stop = threading.Event()

    def credentials(self, gateway: str, authority: Authority | None = None) -> grpc.ChannelCredentials:
        key = ec.generate_private_key(ec.SECP256R1())
        signer = authority or self.authority
        certificate = signer.sign_gateway(key.public_key(), gateway, now_ms=SystemClock().now_ms())
        self.serials[gateway] = f"{certificate.serial_number:x}"
        return grpc.ssl_channel_credentials(
            root_certificates=self.authority.ca_pem,
            private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            certificate_chain=certificate.public_bytes(Encoding.PEM),
        )

    @asynccontextmanager
    async def box(
        self, gateway: str = GATEWAY, *, credentials: grpc.ChannelCredentials | None = None
    ) -> AsyncIterator[Box]:
        options = [("grpc.use_local_subchannel_pool", 1)]
        chosen = credentials or self.credentials(gateway)
        async with grpc.aio.secure_channel(self.address, chosen, options=options) as channel:
            call: Any = channel.stream_stream(METHOD)()
            try:
                yield Box(call)
            finally:
                call.cancel()

    @asynccontextmanager
    async def ready_box(self, said: wire.Hello | None = None, gateway: str = GATEWAY) -> AsyncIterator[Box]:
        """After Welcome, with schema 1 declared."""
        async with self.box(gateway) as box:
            await box.greet(said)
            await box.say(declare=declare())
            yield box

    def rows(self, table: Table) -> list[Row[Any]]:
        with self.stores.journal.read() as connection:
            return list(connection.execute(select(table)).all())

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """SQLite may not grow by a page; on PostgreSQL every insert meets "No space left on device"."""
        if self.stores.journal.sqlite:
            with _no_more_pages(self.stores):
                yield
            return
        self._run("""CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
                  $$BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END$$""")
        self._run("CREATE TRIGGER full_disk BEFORE INSERT ON batch FOR EACH ROW EXECUTE FUNCTION full_disk()")
        yield
        self._run("DROP TRIGGER full_disk ON batch")

    def _run(self, statement: str) -> None:
        with self.stores.journal.write() as connection:
            connection.execute(text(statement))


@contextmanager
def _no_more_pages(stores: Stores) -> Iterator[None]:
    engine = stores.journal.engine

    def limit(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA max_page_count=1").close()  # SQLite raises it to what is there

    event.listen(engine, "connect", limit)
    engine.dispose()
    try:
        yield
    finally:
        event.remove(engine, "connect", limit)
        engine.dispose()


@pytest.fixture
async def plane(stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
    monkeypatch.setattr(server_module, "REVOCATIONS_EVERY_S", 0.02)
    monkeypatch.setattr(commands, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(configuration, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(dictionaries, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(configuration, "RETRIES_EVERY_S", 0.1)
    authority = Authority.open(tmp_path / "control")
    door = Door(authority=authority, names=tuple, clock=SystemClock())
    with reserved("grpc", Address("127.0.0.1", 0)) as holder:
        address = str(bound(Address("127.0.0.1", 0), holder))
        made = Plane(stores, authority, address, door)

        class Kept(LinkService):
            def __init__(self, **parts: Any) -> None:
                super().__init__(**parts)
                made.link = self

        monkeypatch.setattr(server_module, "LinkService", Kept)
        ready = asyncio.Event()
        serving = asyncio.create_task(
            serve(
                address=address,
                door=door,
                journal=SqlJournal(stores.journal),
                clock=SystemClock(),
                settings=LIMITS,
                admission=Admission(lambda: frozenset(made.revoked)),
                ready=ready.set,
                stop=made.stop,
                offers=Offers(stores, authority.config_key, PROBATION_S),
                dictionaries=Issued(stores.journal),
                dispatch=Dispatch(stores, authority.config_key, SystemClock()),
            )
        )
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        yield made
        made.stop.set()
        await asyncio.wait_for(serving, PATIENCE_S)
