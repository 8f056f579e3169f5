"""Gap records as they are kept: those that touch, of one group and reason, are one.

A dead sensor is said every minute, for months. Each such record begins where the last one ended, and the row that is
there grows instead of another one coming. Only records without seqs: the others name batches, which don't touch. And
none of thinning: those belong to their batch, and change with what becomes of its originals.

Invariant: whatever the order in which the records of a chain come, the rows that are not joined to another cover the
same stretches with the same counts. Records of one group and reason never overlap (a gateway's ledger makes none that
do); one that lies within a row changes nothing, so a repeat is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select, tuple_, update

from control_plane.store.tables import gap
from control_plane.store.upsert import keep_first
from protos.comboio.v1 import batch_pb2 as pb

FROM, TO = ("from_boot", "from_mono_ms"), ("to_boot", "to_mono_ms")


def keep(connection: Connection, row: Mapping[str, Any]) -> bool:
    """Write one record, or let the rows it touches grow over it; False if it is a repeat."""
    if row["seqs"] or row["from_boot"] == 0 or row["reason"] == pb.GAP_THINNED:
        return keep_first(connection, gap, row)
    before, after, within = _neighbours(connection, row)
    if within:
        return False
    if before is None and after is None:
        return keep_first(connection, gap, row)
    grown = before if before is not None else after
    assert grown is not None
    ends: dict[str, Any] = {name: row[name] for name in (TO if before is not None else FROM)}
    count, exact = grown._mapping["count"] + row["count"], grown.count_exact and row["count_exact"]  # noqa: SLF001
    if before is not None and after is not None:
        ends = {name: getattr(after, name) for name in TO}
        count, exact = count + after._mapping["count"], exact and after.count_exact  # noqa: SLF001
        _change(connection, after.id, {"joined_to": before.id, "recorded_ms": row["recorded_ms"]})
    changed = {"count": count, "count_exact": exact, "recorded_ms": row["recorded_ms"]}
    _change(connection, grown.id, ends | changed)
    return True


def _neighbours(connection: Connection, row: Mapping[str, Any]) -> tuple[Row[Any] | None, Row[Any] | None, bool]:
    """(the row it follows, the row that follows it, whether one holds all of it)."""
    begin, end = (tuple(row[name] for name in names) for names in (FROM, TO))
    from_, to = (tuple_(*(gap.c[name] for name in names)) for names in (FROM, TO))
    same = [gap.c[name] == row[name] for name in ("gateway", "epoch", "group_id", "reason", "lane")]
    touching = or_(to == begin, from_ == end, and_(from_ <= begin, to >= end))
    query = select(gap).where(*same, gap.c.joined_to.is_(None), gap.c.seqs == b"", touching)
    before = after = None
    within = False
    for found in connection.execute(query):
        found_from, found_to = (tuple(getattr(found, name) for name in names) for names in (FROM, TO))
        if found_from <= begin and found_to >= end and begin != end:
            within = True
        elif found_to == begin:
            before = found
        elif found_from == end:
            after = found
    return before, after, within


def _change(connection: Connection, id_: str, values: Mapping[str, Any]) -> None:
    connection.execute(update(gap).where(gap.c.id == id_).values(**values))
