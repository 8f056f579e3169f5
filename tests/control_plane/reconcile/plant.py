"""A gateway that exists only as batches of the shipped encoder, and the road from the journal to business events."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, select

from control_plane.ingest.accept import Lane
from control_plane.journal.journal import BatchEntry, DeclareEntry, DuplicateEntry, Entry, HeartbeatEntry
from control_plane.journal.sql import SqlJournal
from control_plane.projections.boots import BootsProjection
from control_plane.projections.completeness import CompletenessProjection
from control_plane.projections.history import HistoryProjection
from control_plane.projections.ledger import LedgerProjection
from control_plane.projections.projector import Projector
from control_plane.projections.reading import HistoryReader
from control_plane.projections.state import StateProjection
from control_plane.reconcile.reconciler import Reconciler
from control_plane.relay.connectors.webhook import WebhookDestination
from control_plane.settings import ColdChainRule, Destination
from control_plane.store.engine import Stores
from control_plane.store.tables import event, outbox
from protos import columns
from protos.columns import Block
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

EPOCH = 7
GROUP = 1
WALL0_MS = 1_763_805_600_000
RULE = ColdChainRule(open_after_s=2.0, close_after_s=2.0, gap_s=3.0, hold_max_s=3600.0)
ERP = WebhookDestination(name="erp", url="http://127.0.0.1:1/", secret_file="none", coalesce=False)
DISPATCH = WebhookDestination(
    name="dispatch", url="http://127.0.0.1:1/", secret_file="none", finality="provisional_ok", coalesce=False
)
Reading = tuple[int, float]  # mono_ms, °C with two decimals


@dataclass
class TurnedClock:
    at_ms: int = WALL0_MS

    def now_ms(self) -> int:
        return self.at_ms


@dataclass
class Gateway:
    """Makes batches; numbers them per lane in the order they are made."""

    id: str
    attrs: dict[str, str] = field(default_factory=lambda: {"role": "cargo_temperature", "asset": "truck-17/box"})
    seqs: dict[int, int] = field(default_factory=lambda: {pb.URGENT: 0, pb.TELEMETRY: 0})

    @property
    def subject(self) -> str:
        return f"{self.id}/cargo/temperature"

    def declare(self, *, schema: int = 1, period_ms: int = 1000) -> pb.Declare:
        series = pb.Series(id=1, name="temperature", type=pb.VT_FLOAT64, unit="Cel", exp=2, attrs=self.attrs)
        group = pb.Group(id=GROUP, sensor="cargo", period_ms=period_ms, series=[series])
        return pb.Declare(epoch=EPOCH, schema=schema, groups=[group])

    def readings(
        self,
        some: Sequence[Reading],
        *,
        boot: int = 1,
        complete_ms: int | None = None,
        events: Sequence[tuple[int, pb.Event]] = (),
    ) -> pb.Batch:
        """One TELEMETRY batch, complete up to its last reading or as told."""
        values = [round(value * 100) if math.isfinite(value) else value for _, value in some]
        block = Block(group=GROUP, times=[at for at, _ in some], columns=[values])
        complete = (boot, some[-1][0] if complete_ms is None else complete_ms)
        return self._batch(pb.TELEMETRY, [block], events, complete)

    def anchors(self, *some: tuple[int, int, int], complete: tuple[int, int]) -> pb.Batch:
        """One URGENT batch of (boot, mono_ms, wall_ms)."""
        facts = [pb.Anchor(boot=boot, mono_ms=mono, wall_ms=wall, err_ms=1) for boot, mono, wall in some]
        events = [(0, pb.Event(kind=pb.EVENT_ANCHOR, detail=fact.SerializeToString())) for fact in facts]
        return self._batch(pb.URGENT, [], events, complete)

    def events(self, *some: tuple[int, pb.Event], complete: tuple[int, int], boot: int = 1) -> pb.Batch:
        """One URGENT batch of (mono_ms, event)."""
        return self._batch(pb.URGENT, [], some, complete, boot=boot)

    def _batch(
        self,
        lane: pb.Lane.ValueType,
        blocks: Sequence[Block],
        events: Sequence[tuple[int, pb.Event]],
        complete: tuple[int, int],
        *,
        boot: int | None = None,
    ) -> pb.Batch:
        self.seqs[lane] += 1
        schema = columns.Schema.from_declare(self.declare())
        body, count = columns.encode(schema, boot=complete[0] if boot is None else boot, blocks=blocks, events=events)
        codec, packed = columns.pack(body)
        return pb.Batch(
            epoch=EPOCH,
            lane=lane,
            seq=self.seqs[lane],
            schema=1,
            codec=codec,
            count=count,
            body_len=len(body),
            body=packed,
            crc32=zlib.crc32(packed),
            complete_boot=complete[0],
            complete_mono_ms=complete[1],
        )


class Road:
    """Journal → projector → reconciler on real stores. `restart` is what a kill of the worker leaves."""

    def __init__(
        self,
        stores: Stores,
        *,
        rules: Sequence[ColdChainRule] = (RULE,),
        destinations: Sequence[Destination] = (ERP, DISPATCH),
    ) -> None:
        self.stores = stores
        self.clock = TurnedClock()
        self._rules = rules
        self._destinations = destinations
        self._journal = SqlJournal(stores.journal)
        self._sessions: dict[str, int] = {}
        self._lanes: dict[tuple[str, int], Lane] = {}
        self.restart()

    def restart(self) -> None:
        self.projector = Projector(
            journal=self.stores.journal,
            telemetry=self.stores.telemetry,
            clock=self.clock,
            completeness=CompletenessProjection(),
            others=(BootsProjection(), StateProjection(), HistoryProjection(), LedgerProjection()),
        )
        self.reconciler = Reconciler(
            stores=self.stores,
            reader=HistoryReader(journal=self.stores.journal, telemetry=self.stores.telemetry),
            rules=self._rules,
            destinations=self._destinations,
            clock=self.clock,
        )

    def deliver(self, gateway: Gateway, batches: Iterable[pb.Batch]) -> None:
        """As ingest does: what is new is journalled, what is not is compared."""
        session = self._session(gateway)
        entries: list[Entry] = []
        for batch in batches:
            lane = self._lanes.setdefault((gateway.id, batch.lane), Lane(gateway.id, EPOCH, batch.lane))
            kind = BatchEntry if lane.accept(batch.seq) else DuplicateEntry
            entries.append(kind(gateway.id, session, batch, self.clock.now_ms(), lane.mark()))
        self._journal.commit(entries)

    def heartbeat(self, gateway: Gateway, *, boot: int, mono_ms: int) -> None:
        lanes = [
            wire.LaneComplete(lane=lane, seq=seq, complete_to=wire.CompleteTo(boot=boot, mono_ms=mono_ms))  # type: ignore[arg-type]
            for lane, seq in gateway.seqs.items()
        ]
        self._journal.commit([HeartbeatEntry(gateway.id, self._session(gateway), EPOCH, lanes, self.clock.now_ms())])

    def project(self) -> None:
        while self.projector.step():
            pass

    def reconcile(self) -> int:
        """Returns how many versions were made."""
        before = self.reconciler.versions
        while self.reconciler.step():
            pass
        return self.reconciler.versions - before

    def settle(self) -> int:
        self.project()
        return self.reconcile()

    def versions(self, gateway: Gateway | None = None) -> list[Row[Any]]:
        """Every version, oldest first."""
        query = select(event).order_by(event.c.time_ms, event.c.type, event.c.version)
        if gateway is not None:
            query = query.where(event.c.subject == gateway.subject)
        with self.stores.business.read() as connection:
            return list(connection.execute(query))

    def current(self, gateway: Gateway) -> list[Row[Any]]:
        return [row for row in self.versions(gateway) if row.current]

    def posted(self, dest: str) -> list[dict[str, Any]]:
        """What a destination is to be told, in the order of each key."""
        query = select(outbox.c.body).where(outbox.c.dest == dest).order_by(outbox.c.key, outbox.c.seq)
        with self.stores.business.read() as connection:
            return [json.loads(body) for body in connection.execute(query).scalars()]

    def _session(self, gateway: Gateway) -> int:
        if gateway.id not in self._sessions:
            hello = wire.Hello(protocol=1, epoch=EPOCH, opens=1, boot=1, boot_id=b"b" * 16, run_id=b"r" * 16)
            start = self._journal.open_session(gateway.id, hello, now_ms=self.clock.now_ms())
            self._sessions[gateway.id] = start.session
            declared = DeclareEntry(gateway.id, start.session, gateway.declare(), self.clock.now_ms())
            self._journal.commit([declared])
        return self._sessions[gateway.id]


def steady(start_s: int, *values: float) -> list[Reading]:
    """One reading a second."""
    return [((start_s + offset) * 1000, value) for offset, value in enumerate(values)]
