"""At each Hello: whether this store goes on, must begin a new epoch, or is one of two that live.

Rules
1. A new epoch is ordered when the store shows that it does not know what was sent under its numbers: it was opened
   fewer times than it showed before, or as often under another name; its next number was seen already, or is
   below what it once was; it does not know a session in which batches came; or another store took over from it.
2. Two boxes live when a run that another one had displaced says Hello again, or when two boots show the same opening.
   Then nothing is taken of either until an administrator decided; Hellos before that prove nothing afterwards.
3. A batch of the predecessor that came under another name too is stored once; only equal bytes count as the same.

Everything runs inside the transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, Connection, Row, bindparam, func, select, tuple_, update

from control_plane.journal.journal import BatchEntry, LaneMark
from control_plane.journal.lineage import Lineage, Place
from control_plane.store.bulk import Prepared
from control_plane.store.tables import batch, clone, epoch, hello, known, presence
from control_plane.store.upsert import keep_first, prepared_upsert, upsert
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

SUSPECTED = "two boxes use this gateway's identity"
AT_ONCE = 200


class Pause(NamedTuple):
    """Nothing is taken of a gateway; `fresh`: since this Hello."""

    since_ms: int
    why: str
    fresh: bool


class Epochs:
    """What is asked at each Hello, prepared: ten thousand may come in a minute."""

    def __init__(self) -> None:
        of: BindParameter[str] = bindparam("gateway")
        self._clone = Prepared(select(clone).where(clone.c.gateway == of))
        ours = (hello.c.gateway == of, hello.c.id > bindparam("after"))
        self._last_run = Prepared(select(hello.c.run_id).where(*ours).order_by(hello.c.id.desc()).limit(1))
        self._run_before = Prepared(select(hello.c.id).where(*ours, hello.c.run_id == bindparam("run_id")).limit(1))
        self._epoch = Prepared(select(epoch).where(epoch.c.gateway == of, epoch.c.epoch == bindparam("number")))
        self._said = Prepared(select(hello.c.body).where(hello.c.id == bindparam("hello_id")))
        self._accept = prepared_upsert(epoch, ("gateway", "epoch", "opens", "run_id", "boot_id", "hello_id"))

    def pause(
        self, connection: Connection, gateway: str, now: wire.Hello, *, now_ms: int, released_ms: int | None
    ) -> Pause | None:
        """Whether two boxes are suspected; `released_ms`: the suspicion (by its `since_ms`) that was settled."""
        row = self._clone.one(connection, gateway=gateway)
        if row is not None and row.released_ms is None:
            if row.since_ms != released_ms:
                return Pause(row.since_ms, row.why, fresh=False)
            connection.execute(update(clone).where(clone.c.gateway == gateway).values(released_ms=now_ms))
        why = self._two_boxes(connection, gateway, now, after=0 if row is None else row.hello_id)
        if not why:
            return None
        since_ms = now_ms if row is None else max(now_ms, row.since_ms + 1)
        newest = select(func.max(hello.c.id)).where(hello.c.gateway == gateway)
        hello_id = connection.execute(newest).scalar_one()
        facts = {"gateway": gateway, "since_ms": since_ms, "why": why, "hello_id": hello_id, "released_ms": None}
        upsert(connection, clone, [facts])
        gone = update(presence).where(presence.c.gateway == gateway)
        connection.execute(gone.values(left_ms=now_ms, why=SUSPECTED))
        return Pause(since_ms, why, fresh=True)

    def _two_boxes(self, connection: Connection, gateway: str, now: wire.Hello, *, after: int) -> str:
        """Why two boxes are proven to live, by the Hellos after that one; empty if they aren't."""
        last = self._last_run.one(connection, gateway=gateway, after=after)
        if last is None:
            return ""
        other = bytes(last.run_id) != now.run_id
        if other and self._run_before(connection, gateway=gateway, after=after, run_id=now.run_id):
            return "a run of the store that another one had displaced came back"
        row = self._accepted(connection, gateway, now.epoch)
        if row is None or row.hello_id <= after or row.superseded_by is not None:
            return ""
        if row.opens == now.opens and bytes(row.boot_id) != now.boot_id:
            return f"two machines both say that they are the store's opening number {now.opens}"
        return ""

    def why_new(
        self, connection: Connection, gateway: str, now: wire.Hello, lanes: Mapping[int, LaneMark], brought: int
    ) -> str:
        """Why the store must begin a new epoch; empty: it goes on.

        `brought`: the newest session in which batches of this epoch came.
        """
        row = self._accepted(connection, gateway, now.epoch)
        if row is not None and row.superseded_by is not None:
            went_on = f"{row.superseded_by:08x}"
            return f"the store went on as {went_on}, now it says {now.epoch:08x} again: restored or cloned"
        if row is not None and now.opens < row.opens:
            return f"the store was opened {row.opens} times before, now it says {now.opens}: restored or cloned"
        if row is not None and now.opens == row.opens and now.run_id != bytes(row.run_id):
            return f"two openings of the store both say {now.opens}: restored or cloned"
        spoken = self._spoken(connection, row)
        for state in now.lanes:
            if state.next_seq < spoken.get(state.lane, 0):
                return f"lane {state.lane} continues at {state.next_seq} but had come to {spoken[state.lane]}"
            held = lanes.get(state.lane)
            if held and state.next_seq <= held.max_seen:
                return f"lane {state.lane} continues at {state.next_seq} but {held.max_seen} was already seen"
        if 0 < now.last_session < brought:
            return f"the store knows of session {now.last_session}, but sent in session {brought}: restored or cloned"
        return ""

    def _accepted(self, connection: Connection, gateway: str, number: int) -> Any:
        """A row of `epoch`; None for one that is new."""
        return self._epoch.one(connection, gateway=gateway, number=number)

    def _spoken(self, connection: Connection, row: Any) -> dict[int, int]:
        """Lane → the next seq by the newest Hello that was accepted."""
        said = None if row is None else self._said.one(connection, hello_id=row.hello_id)
        return {} if said is None else {state.lane: state.next_seq for state in wire.Hello.FromString(said.body).lanes}

    def accepted(self, connection: Connection, gateway: str, now: wire.Hello, hello_id: int) -> None:
        """Go on with this opening."""
        self._accept(
            connection,
            gateway=gateway,
            epoch=now.epoch,
            opens=now.opens,
            run_id=now.run_id,
            boot_id=now.boot_id,
            hello_id=hello_id,
        )
        if now.predecessor_epoch:
            left = (epoch.c.gateway == gateway, epoch.c.epoch == now.predecessor_epoch)
            connection.execute(update(epoch).where(*left).values(superseded_by=now.epoch))


def lineage_of(connection: Connection, gateway: str) -> Lineage:
    """What the accepted Hellos of a gateway say of its epochs."""
    found = Lineage()
    newest = select(epoch.c.hello_id).where(epoch.c.gateway == gateway)
    for body in connection.execute(select(hello.c.body).where(hello.c.id.in_(newest)).order_by(hello.c.id)).scalars():
        found.add(wire.Hello.FromString(body))
    return found


def settle_known(
    connection: Connection, lineages: Mapping[str, Lineage], entries: Sequence[BatchEntry]
) -> list[BatchEntry]:
    """Of these the ones whose bytes are not here yet; the others are noted as known."""
    fresh: list[BatchEntry] = []
    for entry in entries:
        said = entry.batch
        of = lineages.get(entry.gateway)
        places = of.elsewhere(said.epoch, said.lane, said.seq) if of is not None else []
        place = _same(connection, entry, places) if places else None
        if place is None:
            fresh.append(entry)
            continue
        row = {"gateway": entry.gateway, "epoch": said.epoch, "lane": said.lane, "seq": said.seq}
        row |= {"of_epoch": place[0], "of_seq": place[1], "received_ms": entry.received_ms}
        keep_first(connection, known, row)
    return fresh


def _same(connection: Connection, entry: BatchEntry, places: Sequence[Place]) -> Place | None:
    """Under which of these names the same bytes are here."""
    said = entry.batch
    for start in range(0, len(places), AT_ONCE):
        some = tuple_(batch.c.epoch, batch.c.seq).in_(places[start : start + AT_ONCE])
        query = select(batch).where(batch.c.gateway == entry.gateway, batch.c.lane == said.lane, some)
        found = next((row for row in connection.execute(query) if _equal(row, said)), None)
        if found is not None:
            return found.epoch, found.seq
    return None


def _equal(row: Row[Any], said: pb.Batch) -> bool:
    """All that stays when a batch gets another number."""
    facts: Iterable[tuple[object, object]] = (
        (row.crc32, said.crc32),
        (row.body_len, said.body_len),
        (row.schema, said.schema),
        (row.codec, said.codec),
        (row.dictionary, said.dictionary),
        (row._mapping["count"], said.count),  # noqa: SLF001 - a row is also a tuple, with a count of its own
        (row.complete_boot, said.complete_boot),
        (row.complete_mono_ms, said.complete_mono_ms),
        (bytes(row.body), said.body),
    )
    return all(here == there for here, there in facts)
