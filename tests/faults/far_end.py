"""A real ingest behind a link that can be broken, in the test's own loop, and what its journal holds, decoded."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import select

from control_plane.clock import SystemClock
from control_plane.fleet.authority import Authority
from control_plane.ingest.door import Door
from control_plane.ingest.server import Admission, serve
from control_plane.journal.journal import Committed, DuplicateEntry, Entry
from control_plane.journal.sql import SqlJournal
from control_plane.listen import bound, reserved
from control_plane.settings import Address, IngestSection
from control_plane.store import tables
from control_plane.store.engine import Stores
from gateway.simulators.link import LinkProxy
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb

GATEWAY = "gw-aaaaaaaaaa"
PATIENCE_S = 10.0


class CountingJournal(SqlJournal):
    """The real one, which also counts commits, and what came again."""

    duplicates = commits = 0

    def commit(self, entries: Sequence[Entry]) -> Committed:
        self.duplicates += sum(isinstance(entry, DuplicateEntry) for entry in entries)
        done = super().commit(entries)
        self.commits += 1
        return done


class FarEnd:
    """The uplink's endpoint: by the link, with a certificate of the fleet."""

    def __init__(
        self,
        stores: Stores,
        authority: Authority,
        journal: CountingJournal,
        link: LinkProxy,
        released: list[Callable[[str], int | None]],
        gateway: str = GATEWAY,
    ) -> None:
        self.stores = stores
        self.journal = journal
        self.link = link
        self.released = released
        """Who knows which suspicions of clones are settled; the last one is asked."""
        self._authority = authority
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = authority.sign_gateway(key.public_key(), gateway, now_ms=SystemClock().now_ms())
        self._credentials = grpc.ssl_channel_credentials(
            root_certificates=authority.ca_pem,
            private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            certificate_chain=certificate.public_bytes(Encoding.PEM),
        )

    def of(self, gateway: str) -> FarEnd:
        """The same for another gateway."""
        return FarEnd(self.stores, self._authority, self.journal, self.link, self.released, gateway)

    async def before_connecting(self) -> tuple[str, grpc.ChannelCredentials]:
        return f"127.0.0.1:{self.link.port}", self._credentials

    def connected(self) -> None:
        pass

    def failed(self) -> None:
        pass

    def arrived(self) -> tuple[Counter[int], Counter[bytes]]:
        """How often each value of the first telemetry column came, and each detail of a field act."""
        with self.stores.journal.read() as run:
            declares = run.execute(select(tables.declare.c.schema, tables.declare.c.body)).all()
            rows = run.execute(select(tables.batch)).all()
        schemas = {number: columns.Schema.from_declare(pb.Declare.FromString(body)) for number, body in declares}
        values: Counter[int] = Counter()
        acts: Counter[bytes] = Counter()
        for row in rows:
            body = columns.unpack(row.codec, row.body, body_len=row.body_len)
            decoded = columns.decode(schemas[row.schema], body, count=row._mapping["count"])
            for block in decoded.blocks:
                values.update(int(value) for value in block.columns[0] if isinstance(value, int | float))
            acts.update(event.detail for _, event in decoded.events if event.kind == pb.EVENT_FIELD_ACT)
        return values, acts


@asynccontextmanager
async def far_end(stores: Stores, folder: Path) -> AsyncIterator[FarEnd]:
    authority = Authority.open(folder / "authority")
    door = Door(authority=authority, names=tuple, clock=SystemClock())
    released: list[Callable[[str], int | None]] = [lambda _: None]
    journal, stop, ready = CountingJournal(stores.journal), threading.Event(), asyncio.Event()
    with reserved("grpc", Address("127.0.0.1", 0)) as holder:
        address = bound(Address("127.0.0.1", 0), holder)
        serving = asyncio.create_task(
            serve(
                address=str(address),
                door=door,
                journal=journal,
                clock=SystemClock(),
                settings=IngestSection(batch_interval_s=0.1),
                admission=Admission(frozenset),
                ready=ready.set,
                stop=stop,
                released=lambda gateway: released[-1](gateway),  # noqa: PLW0108 - the list grows later
            )
        )
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        link = LinkProxy(to=(address.host, address.port))
        await link.start()
        try:
            yield FarEnd(stores, authority, journal, link, released)
        finally:
            await link.close()
            stop.set()
            await asyncio.wait_for(serving, PATIENCE_S)
