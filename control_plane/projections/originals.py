"""Originals win: what a gateway thinned and sent, and then or before sent whole as well, counts and shows once.

A gateway thins only what it did not send, as far as it knows. A power cut or a restored box may make it thin what is
here already. Rows are never changed by thinning, so a row of a thinned batch and the same row of an original are told
by their group, boot and instant.

Invariants
1. `state.readings` counts each row once: for every thinned batch `held` of its readings are taken off, those whose rows
   a received batch of its ranges holds.
2. A thinned batch's gap says what went and did not arrive otherwise: said, less what its originals brought beside the
   rows that stayed, less what a thinned one among them says itself. At none left the gap is withdrawn.
3. Both are computed anew from the journal whenever a batch of the ranges arrives, so that any order gives the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row, or_, select, update

from control_plane.journal.dictionaries import Dictionaries
from control_plane.projections.decode import Table, decode_many
from control_plane.projections.projection import Envelope, Portion
from control_plane.store.engine import Store
from control_plane.store.tables import batch, declare, gap, thinned
from control_plane.store.upsert import keep_first
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges

RANGES_AT_ONCE = 100
WITHDRAWN = ""
"""Stands in `gap.joined_to` for a record that holds nothing any more."""
Key = tuple[int, int]  # (group, mono ms)
Source = tuple[str, int]  # (gateway, epoch)


@dataclass(slots=True)
class _Contents:
    """A batch's rows, and the gap records of thinning inside: group → (number of the event, rows)."""

    rows: Counter[Key] = field(default_factory=Counter)
    width: dict[int, int] = field(default_factory=dict)
    said: dict[int, tuple[int, int]] = field(default_factory=dict)


class Originals:
    """Called around the projections, in their transaction."""

    def __init__(self, *, journal: Store) -> None:
        self._journal = journal
        self._dictionaries = Dictionaries(journal)
        self.forget()

    def forget(self) -> None:
        self._sources: set[Source] | None = None
        self._corrections: dict[str, int] = {}

    def weigh(self, connection: Connection, portion: Portion) -> Portion:
        """Note what is thinned in the portion; the same portion, with the readings in it that count elsewhere."""
        envelopes = [e for one in portion.decoded for e in one.envelopes if e.lane == pb.TELEMETRY]
        self._note(connection, [one for one in envelopes if one.replaces])
        touched = self._touched(connection, envelopes)
        newest = max((one.id for one in envelopes), default=0)
        doubled: Counter[str] = Counter()
        for row in touched:
            doubled[row.gateway] += self._weighed(connection, row, newest)
        return replace(portion, doubled=dict(doubled)) if doubled else portion

    def correct(self, connection: Connection, now_ms: int) -> None:
        """After the gap records of the portion were written."""
        for id_, count in self._corrections.items():
            values: dict[str, Any] = {"count": count, "recorded_ms": now_ms}
            if not count:
                values["joined_to"] = WITHDRAWN
            connection.execute(update(gap).where(gap.c.id == id_, gap.c.count != count).values(**values))
        self._corrections.clear()

    # --- which are concerned ---------------------------------------------------------------------------

    def _note(self, connection: Connection, envelopes: Iterable[Envelope]) -> None:
        for one in envelopes:
            named = Ranges(one.replaces)
            first, last = next(iter(named))[0], named.highest
            row = {"batch_id": one.id, "gateway": one.gateway, "epoch": one.epoch, "seq": one.seq, "held": 0}
            keep_first(connection, thinned, row | {"first_seq": first, "last_seq": last, "replaces": named.pack()})
            self._known(connection).add((one.gateway, one.epoch))

    def _known(self, connection: Connection) -> set[Source]:
        """Whose batches have ever been thinned: few, so that nothing is asked for the others."""
        if self._sources is None:
            found = connection.execute(select(thinned.c.gateway, thinned.c.epoch).distinct())
            self._sources = {(gateway, epoch) for gateway, epoch in found}
        return self._sources

    def _touched(self, connection: Connection, envelopes: Sequence[Envelope]) -> list[Row[Any]]:
        """Thinned batches that are new, or of which an original is."""
        known = self._known(connection)
        arrived: dict[Source, list[int]] = {}
        for one in envelopes:
            if (one.gateway, one.epoch) in known:
                arrived.setdefault((one.gateway, one.epoch), []).append(one.seq)
        found: list[Row[Any]] = []
        for (gateway, epoch), seqs in arrived.items():
            mine = (thinned.c.gateway == gateway, thinned.c.epoch == epoch)
            near = (thinned.c.first_seq <= max(seqs), thinned.c.seq >= min(seqs))
            for row in connection.execute(select(thinned).where(*mine, *near)):
                named = Ranges.unpack(row.replaces)
                if row.seq in seqs or any(seq in named for seq in seqs):
                    found.append(row)
        return found

    # --- one thinned batch -----------------------------------------------------------------------------

    def _weighed(self, connection: Connection, row: Row[Any], newest: int) -> int:
        """Corrections of its gap records; returns how many readings more than before count elsewhere."""
        named = Ranges.unpack(row.replaces)
        others = self._received(row, named, newest)
        if not others and not row.held:
            return 0
        mine = self._contents(row.gateway, row.epoch, self._batch(row.batch_id))
        covered = Ranges()
        for one in self._thinned_among(connection, row, named):
            covered.update(Ranges.unpack(one.replaces))
        held: Counter[Key] = Counter()
        left = {group: count for group, (_, count) in mine.said.items()}
        for seq, other in others:
            held |= other.rows
            if seq not in covered:
                for (group, _), count in (other.rows - mine.rows).items():
                    left[group] = left.get(group, 0) - count
                for group, (_, count) in other.said.items():
                    left[group] = left.get(group, 0) - count
        for group, (number, _) in mine.said.items():
            self._corrections[f"{row.batch_id}-{number}"] = max(0, left[group])
        readings = sum(count * mine.width[group] for (group, _), count in (mine.rows & held).items())
        connection.execute(update(thinned).where(thinned.c.batch_id == row.batch_id).values(held=readings))
        return int(readings - row.held)

    def _thinned_among(self, connection: Connection, row: Row[Any], named: Ranges) -> list[Row[Any]]:
        mine = (thinned.c.gateway == row.gateway, thinned.c.epoch == row.epoch)
        query = select(thinned).where(*mine, thinned.c.seq.between(row.first_seq, row.last_seq))
        return [one for one in connection.execute(query) if one.seq in named]

    def _received(self, row: Row[Any], named: Ranges, newest: int) -> list[tuple[int, _Contents]]:
        """(seq, contents) of the journalled batches of its ranges, up to what is projected now."""
        found: list[tuple[int, _Contents]] = []
        pairs = list(named)
        for start in range(0, len(pairs), RANGES_AT_ONCE):
            some = or_(*(batch.c.seq.between(first, last) for first, last in pairs[start : start + RANGES_AT_ONCE]))
            mine = (batch.c.gateway == row.gateway, batch.c.epoch == row.epoch, batch.c.lane == pb.TELEMETRY)
            with self._journal.read() as connection:
                rows = connection.execute(select(batch).where(*mine, some, batch.c.id <= newest)).fetchall()
            for one in rows:
                try:
                    found.append((one.seq, self._contents(row.gateway, row.epoch, one)))
                except columns.BodyError:
                    continue  # in quarantine: it shows nothing
        return found

    def _batch(self, id_: int) -> Row[Any]:
        with self._journal.read() as connection:
            return connection.execute(select(batch).where(batch.c.id == id_)).one()

    def _contents(self, gateway: str, epoch: int, row: Row[Any]) -> _Contents:
        """Raises BodyError."""
        table = self._table(gateway, epoch, row.schema)
        named = {(gateway, row.dictionary)} if row.codec == pb.CODEC_ZSTD_DICT else set()
        body = self._dictionaries.find(named).unpack(gateway, row)
        bulk = decode_many(table, [body], [row._mapping["count"]])  # noqa: SLF001 - a row is also a tuple
        found = _Contents(width=_widths(table))
        for group, rows, first in zip(bulk.group.tolist(), bulk.rows.tolist(), bulk.row0.tolist(), strict=True):
            found.rows.update((group, at) for at in bulk.times[first : first + rows].tolist())
        for number, (_, _, event) in enumerate(bulk.events):
            record = pb.Gap.FromString(event.detail) if event.kind == pb.EVENT_GAP else pb.Gap()
            if record.reason == pb.GAP_THINNED:
                found.said[record.group] = (number, record.count)
        return found

    def _table(self, gateway: str, epoch: int, schema: int) -> Table:
        named = (declare.c.gateway == gateway, declare.c.epoch == epoch, declare.c.schema == schema)
        with self._journal.read() as connection:
            body = connection.execute(select(declare.c.body).where(*named)).scalar_one()
        return Table.from_declare(pb.Declare.FromString(body))


def _widths(table: Table) -> dict[int, int]:
    widths: Mapping[int, int] = dict(zip(table.group_ids.tolist(), table.columns.tolist(), strict=True))
    return dict(widths)
