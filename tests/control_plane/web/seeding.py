"""A small fleet with everything the pages show, put in through journal, projector and the events' own settling.

The hostile gateway carries markup wherever a stranger can put text.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

from sqlalchemy import insert, update

from control_plane.clock import Clock
from control_plane.journal.journal import BatchEntry, DeclareEntry, LaneMark, PresenceEntry
from control_plane.journal.sql import SqlJournal
from control_plane.projections.boots import BootsProjection
from control_plane.projections.completeness import CompletenessProjection
from control_plane.projections.history import HistoryProjection
from control_plane.projections.ledger import LedgerProjection
from control_plane.projections.projector import Projector
from control_plane.projections.state import StateProjection
from control_plane.reconcile.versions import Wanted, rfc3339, settle
from control_plane.relay.connectors.webhook import WebhookDestination
from control_plane.store.engine import Stores
from control_plane.store.tables import attempt, certificate, event, gateway, outbox
from protos.columns import Block, Schema, encode
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

TRUCK, HALL, AWAY, NEVER, RETIRED, HOSTILE = (
    "gw-truck17aaaa",
    "gw-hall2bbbbbb",
    "gw-awaycccccc",
    "gw-neverddddd",
    "gw-retiredeee",
    "gw-hostilefff",
)
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
EPOCH, HOUR_MS, DAY_MS = 7, 3_600_000, 86_400_000
CLOSED = "comboio.cold_chain.excursion.closed.v1"
ENTITY, EVIL_ENTITY = "11111111-2222-5333-8444-555555555555", "66666666-7777-5888-8999-aaaaaaaaaaaa"
STEP_MS = 10_000
POINTS = 720  # two hours


class Box:
    """One gateway's voice: what it says goes through the journal as ingest writes it."""

    def __init__(self, stores: Stores, clock: Clock, gateway_id: str, *, boot_ms: int) -> None:
        self._journal = SqlJournal(stores.journal)
        self._clock = clock
        self.id = gateway_id
        self.boot_ms = boot_ms
        self.session = 0
        self._declared = pb.Declare()
        self._seqs = {pb.URGENT: 0, pb.TELEMETRY: 0}

    def resume(self, other: Box) -> None:
        self._declared, self._seqs = other._declared, dict(other._seqs)

    def connect(self, *, version: str = "0.1.0") -> None:
        hello = wire.Hello(
            protocol=1, epoch=EPOCH, opens=1, run_id=b"r" * 16, boot=1, boot_id=b"b" * 16, version=version
        )
        self.session = self._journal.open_session(self.id, hello, now_ms=self._clock.now_ms()).session

    def declare(self, *groups: pb.Group) -> None:
        self._declared = pb.Declare(epoch=EPOCH, schema=1, groups=groups)
        self._commit(DeclareEntry(self.id, self.session, self._declared, self._clock.now_ms()))

    def anchor(self, *, err_ms: int = 12) -> None:
        said = pb.Anchor(boot=1, mono_ms=0, wall_ms=self.boot_ms, err_ms=err_ms, source=pb.CLOCK_NTP)
        self.urgent(pb.Event(kind=pb.EVENT_ANCHOR, detail=said.SerializeToString()))

    def lose(self, from_ms: int, to_ms: int, *, group: int, count: int, reason: pb.GapReason.ValueType) -> None:
        said = pb.Gap(
            lane=pb.TELEMETRY, group=group, from_boot=1, from_mono_ms=from_ms - self.boot_ms, to_boot=1,
            to_mono_ms=to_ms - self.boot_ms, count=count, count_exact=True, reason=reason,
        )  # fmt: skip
        self.urgent(pb.Event(kind=pb.EVENT_GAP, detail=said.SerializeToString()))

    def urgent(self, said: pb.Event) -> None:
        self._batch(pb.URGENT, blocks=[], events=[(0, said)])

    def read(self, group: int, times_ms: Sequence[int], *columns: Sequence[int | None], quality: int = 0) -> None:
        """Readings at wall times; integers as the device's, None with `quality`."""
        codes = [[quality if value is None else 0 for value in column] for column in columns] if quality else None
        times = [at - self.boot_ms for at in times_ms]
        for first in range(0, len(times), 100):
            part = slice(first, first + 100)
            block = Block(
                group, times[part], [list(column[part]) for column in columns],
                quality=None if codes is None else [one[part] for one in codes],
            )  # fmt: skip
            self._batch(pb.TELEMETRY, blocks=[block], events=[])

    def say(self, beat: wire.Heartbeat | None = None, *, running: wire.RunningConfig | None = None,
            heard_ms: int | None = None, left_ms: int | None = None, why: str | None = None,
            paced: str | None = None) -> None:  # fmt: skip
        heard_ms = self._clock.now_ms() if heard_ms is None else heard_ms
        said = None if beat is None else beat.SerializeToString()
        runs = None if running is None else running.SerializeToString()
        self._commit(PresenceEntry(self.id, self.session, heard_ms, said, runs, left_ms, why, paced))

    def _batch(self, lane: pb.Lane.ValueType, *, blocks: list[Block], events: list[tuple[int, pb.Event]]) -> None:
        body, count = encode(Schema.from_declare(self._declared), boot=1, blocks=blocks, events=events)
        self._seqs[lane] += 1
        mono_ms = self._clock.now_ms() - self.boot_ms
        made = pb.Batch(
            epoch=EPOCH, lane=lane, seq=self._seqs[lane], schema=1, count=count, body_len=len(body), body=body,
            crc32=zlib.crc32(body), complete_boot=1, complete_mono_ms=mono_ms,
        )  # fmt: skip
        self._commit(
            BatchEntry(self.id, self.session, made, self._clock.now_ms(), LaneMark(self.id, EPOCH, lane, 0, (), 0))
        )

    def _commit(self, *entries: BatchEntry | DeclareEntry | PresenceEntry) -> None:
        assert not self._journal.commit(entries).fenced


class At:
    """A clock that stands."""

    def __init__(self, at_ms: int) -> None:
        self._at_ms = at_ms

    def now_ms(self) -> int:
        return self._at_ms


def project(stores: Stores, clock: Clock) -> None:
    """Until nothing is left; as the worker does it."""
    projector = Projector(
        journal=stores.journal, telemetry=stores.telemetry, clock=clock, completeness=CompletenessProjection(),
        others=(BootsProjection(), StateProjection(), HistoryProjection(), LedgerProjection()),
    )  # fmt: skip
    while projector.step():
        pass


class Seeds:
    """`fill` puts in what lasts; `connect` what a restart of ingest would end: who is connected."""

    def __init__(self, stores: Stores, clock: Clock, *, hostile: bool = True) -> None:
        self.stores = stores
        self.clock = clock
        now = clock.now_ms()
        self.truck = Box(stores, clock, TRUCK, boot_ms=now - 9 * HOUR_MS)
        self.hall = Box(stores, clock, HALL, boot_ms=now - 30 * HOUR_MS)
        self.away = Box(stores, clock, AWAY, boot_ms=now - 20 * HOUR_MS)
        self.hostile = Box(stores, clock, HOSTILE, boot_ms=now - 5 * HOUR_MS)
        self.boxes = [self.truck, self.hall, self.away, *([self.hostile] if hostile else [])]

    def fill(self) -> None:
        self._register()
        for box in self.boxes:
            box.connect()
        now = self.clock.now_ms()
        self._away()
        project(self.stores, At(now - 3 * HOUR_MS))
        self._hall()
        project(self.stores, At(now - 4 * 60_000))
        self._truck()
        if self.hostile in self.boxes:
            self._hostile()
        project(self.stores, self.clock)
        self._events()

    def resume(self, other: Seeds) -> None:
        """Go on where `other` stopped, over a copy of its stores."""
        for mine, theirs in zip(self.boxes, other.boxes, strict=True):
            mine.resume(theirs)

    def connect(self) -> None:
        now = self.clock.now_ms()
        for box in self.boxes:
            box.connect(version=EVIL if box is self.hostile else "0.1.0")
        runs = wire.RunningConfig(local_management=True, local_hash=bytes.fromhex("9f86d081884c7d659a2feaa0c55ad015"))
        self.truck.say(beat(batches=1, size=48_300, err_ms=12), running=runs)
        self.hall.say(beat(batches=41, size=2_400_000, oldest_ms=now - 34 * 60_000, err_ms=850), running=runs)
        self.away.say(heard_ms=now - 3 * HOUR_MS, left_ms=now - 3 * HOUR_MS, why="the connection broke")
        if self.hostile in self.boxes:
            self.hostile.say(beat(), left_ms=now - HOUR_MS, why=EVIL)

    def connect_hall(self, *, batches: int) -> None:
        """The hall says how much it still holds."""
        oldest_ms = self.clock.now_ms() - 34 * 60_000
        self.hall.say(beat(batches=batches, size=2_400_000, oldest_ms=oldest_ms, err_ms=850))

    def _register(self) -> None:
        now = self.clock.now_ms()
        rows = [
            (TRUCK, "truck 17", "truck-17", None, 171, "Raspberry Pi CM4"),
            (HALL, "warehouse 2", "warehouse-2", None, 88, "Advantech UNO-220"),
            (AWAY, "truck 21", "truck-21", None, 12, "Raspberry Pi CM4"),
            (NEVER, "truck 30", "truck-30", None, 180, ""),
            (RETIRED, "old test box", None, now - 40 * DAY_MS, None, "Raspberry Pi 3"),
            (HOSTILE, EVIL, EVIL, None, 90, EVIL),
        ]
        with self.stores.business.write() as connection:
            for gateway_id, name, asset, retired_ms, days, hardware in rows[: len(self.boxes) + 2]:
                connection.execute(
                    insert(gateway).values(
                        id=gateway_id, name=name, asset=asset, hardware=hardware, serial="100000" if hardware else "",
                        signing_key=b"", created_ms=now - 60 * DAY_MS, retired_ms=retired_ms,
                    )
                )  # fmt: skip
                if days is not None:
                    connection.execute(
                        insert(certificate).values(
                            serial=gateway_id, gateway=gateway_id, not_after_ms=now + days * DAY_MS + HOUR_MS,
                            issued_ms=now - (180 - days) * DAY_MS, revoked_ms=None,
                        )
                    )  # fmt: skip

    def _truck(self) -> None:
        box, now = self.truck, self.clock.now_ms()
        box.declare(
            group(
                1,
                "cooling",
                STEP_MS,
                ("supply_temperature", "Cel", 1),
                ("return_temperature", "Cel", 1),
                ("compressor_power", "W", 0),
            ),
            group(2, "door", STEP_MS, ("open", "", 0), kind=pb.VT_BOOL),
            group(3, "probe-rear", 60_000, ("temperature", "Cel", 2), ("relative_humidity", "%", 1), simulated=True),
            group(4, "meter", STEP_MS, ("active_energy_import", "kW.h", 2), ("voltage", "V", 1)),
        )
        box.anchor()
        times = [now - (POINTS - i) * STEP_MS for i in range(POINTS)]
        lost = range(430, 460)
        kept = [i for i in range(POINTS) if i not in lost]
        supply = [round(42 + 14 * math.sin(i / 60) + 4 * math.sin(i / 7)) for i in kept]
        back = [round(61 + 10 * math.sin(i / 60 + 0.4) + 2 * math.sin(i / 5)) for i in kept]
        power = [round(1450 + 300 * math.sin(i / 20)) if (i // 60) % 2 else 35 for i in kept]
        box.read(1, [times[i] for i in kept], supply, back, power)
        box.lose(times[lost.start - 1], times[lost.stop], group=1, count=len(lost), reason=pb.GAP_UNREADABLE)
        box.read(2, times[-20:], [int(i < 4) for i in range(20)])
        minutes = [now - (120 - i) * 60_000 for i in range(100)]
        box.read(
            3, minutes, [round(480 + 90 * math.sin(i / 15)) for i in range(100)], [round(720 + i) for i in range(100)]
        )
        box.read(4, times[-30:], [184_220 + i for i in range(30)], [2301] * 30)
        box.read(4, [now - 4_000], [None], [None], quality=pb.QUALITY_BAD_COMM)

    def _hall(self) -> None:
        box, now = self.hall, self.clock.now_ms()
        box.declare(group(1, "hall", 60_000, ("temperature", "Cel", 1), ("relative_humidity", "%", 1)))
        box.anchor(err_ms=850)
        times = [now - 40 * 60_000 - (60 - i) * 60_000 for i in range(60)]
        box.read(1, times, [180 + i % 7 for i in range(60)], [520 + i % 5 for i in range(60)])

    def _away(self) -> None:
        box, now = self.away, self.clock.now_ms()
        box.declare(group(1, "cooling", STEP_MS, ("supply_temperature", "Cel", 1)))
        box.anchor()
        box.read(1, [now - 4 * HOUR_MS + i * STEP_MS for i in range(300)], [40 + i % 9 for i in range(300)])

    def _hostile(self) -> None:
        box, now = self.hostile, self.clock.now_ms()
        box.declare(group(1, EVIL[:60], STEP_MS, ("<b onmouseover=alert(3)>", "<i>", 1), (EVIL, "Cel", 1)))
        box.anchor()
        times = [now - (60 - i) * STEP_MS for i in range(60)]
        box.read(1, times, [40 + i % 9 for i in range(60)], [50] * 60)

    def _events(self) -> None:
        now, subject = self.clock.now_ms(), f"{TRUCK}/cooling/supply_temperature"
        opened_ms, first_ms, second_ms = now - 50 * 60_000, now - 40 * 60_000, now - 32 * 60_000
        self._settle(excursion(ENTITY, subject, opened_ms, peak=10.9, seen=82, final=False), first_ms)
        self._settle(excursion(ENTITY, subject, opened_ms, peak=11.4, seen=120, final=True), second_ms)
        self._tried(ENTITY, 1, (first_ms + 300, "OK", 200, None))
        sorry = "the ERP is being updated; come back at 03:00"
        self._tried(ENTITY, 2, (second_ms + 300, "TRANSIENT", 503, sorry), (second_ms + 5_600, "OK", 200, None))
        self._became(ENTITY, 1, state="delivered", delivered_ms=first_ms + 338, erp_id="SM-2026-00411")
        self._became(ENTITY, 2, state="delivered", delivered_ms=second_ms + 5_638, erp_id="SM-2026-00412")
        if self.hostile in self.boxes:
            evil = excursion(EVIL_ENTITY, f"{HOSTILE}/{EVIL[:60]}/x", now - HOUR_MS, peak=9.0, seen=3, final=True)
            self._settle(evil._replace(data={**evil.data, EVIL: EVIL, "rule": EVIL}), now)
            self._tried(EVIL_ENTITY, 1, (now, "PERMANENT", 422, EVIL))
            self._became(EVIL_ENTITY, 1, state="parked", erp_id=EVIL, last_error=EVIL)

    def _settle(self, wanted: Wanted, now_ms: int) -> None:
        erp = WebhookDestination(name="erp", url="http://127.0.0.1:9", secret_file="none", finality="provisional_ok")
        with self.stores.business.write() as connection:
            mine = event.select().where(event.c.entity_id == wanted.entity_id, event.c.current)
            standing = connection.execute(mine).all()
            assert settle(connection, wanted=[wanted], standing=standing, destinations=[erp], now_ms=now_ms)

    def _tried(self, entity: str, version: int, *attempts: tuple[int, str, int, str | None]) -> None:
        with self.stores.business.write() as connection:
            for number, (at_ms, class_, status, error) in enumerate(attempts, start=1):
                row = {"number": number, "started_ms": at_ms, "outcome": class_, "status": status, "error": error}
                facts = {"dest": "erp", "event_id": event_id(entity, version), "took_ms": 38, "bytes": 512}
                connection.execute(insert(attempt).values(**row, **facts))

    def _became(self, entity: str, version: int, **facts: object) -> None:
        with self.stores.business.write() as connection:
            mine = update(outbox).where(outbox.c.event_id == event_id(entity, version))
            assert connection.execute(mine.values(**facts)).rowcount == 1


def event_id(entity: str, version: int) -> str:
    return f"evt_{entity}_cold-chain-excursion-closed_v{version}"


def group(
    number: int, sensor: str, period_ms: int, *series: tuple[str, str, int],
    kind: pb.ValueType.ValueType = pb.VT_FLOAT64, simulated: bool = False,
) -> pb.Group:  # fmt: skip
    return pb.Group(
        id=number,
        sensor=sensor,
        period_ms=period_ms,
        series=[
            pb.Series(
                id=10 * number + i,
                name=name,
                unit=unit,
                exp=exp,
                type=kind,
                attrs={"simulated": "true"} if simulated else {},
            )
            for i, (name, unit, exp) in enumerate(series)
        ],
    )


def beat(*, batches: int = 0, size: int = 0, oldest_ms: int = 0, err_ms: int = 5) -> wire.Heartbeat:
    return wire.Heartbeat(
        backlog=wire.Backlog(batches=batches, bytes=size, oldest_wall_ms=oldest_ms),
        clock=wire.ClockState(source=pb.CLOCK_NTP, err_ms=err_ms),
    )


def excursion(entity: str, subject: str, opened_ms: int, *, peak: float, seen: int, final: bool) -> Wanted:
    closed_ms = opened_ms + 10 * 60_000
    data = {
        "rule": "cold-chain", "side": "high", "low": 2.0, "high": 8.0, "unit": "Cel", "opened_at": rfc3339(opened_ms),
        "closed_at": rfc3339(closed_ms), "duration_s": 600.0, "peak": peak, "degree_minutes": 16.25,
        "observations": seen, "coverage_pct": 99.2, "max_gap_s": 20.0,
    }  # fmt: skip
    return Wanted(entity, CLOSED, subject, closed_ms, closed_ms, data, final=final)
