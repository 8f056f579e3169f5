"""What an event rests on outlives everything else, byte for byte, and can still be decoded."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from sqlalchemy import Row, select

from control_plane.api.evidence import EvidenceAnswer, EvidenceQuery, EvidenceRoutes
from control_plane.store import units
from control_plane.store.tables import batch, chunk, event
from control_plane.store.units import EVIDENCE
from protos import columns
from protos.columns import Schema
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.reconcile.plant import WALL0_MS, Gateway, steady
from tests.control_plane.retention.conftest import Kept

FAR = (1, 1 << 40)
WARM = (4.0, 4.0, 12.0, 12.5, 13.0, 12.0, 4.0, 4.0, 4.0, 4.0)


@pytest.fixture
def excursion(kept: Kept, box: Gateway) -> list[Row[Any]]:
    """Ten seconds of which some are too warm, in batches of two, among hours of nothing to speak of."""
    kept.drop()
    kept.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=FAR)])
    readings = steady(1, *WARM)
    kept.deliver(box, [box.readings(readings[start : start + 2]) for start in range(0, 10, 2)])
    for number in range(10):
        kept.deliver(box, [box.readings(steady(3600 * (number + 1), 4.0, 4.0))])
    kept.settle()
    kept.seal()
    found = [row for row in kept.versions(box) if row.finality == "final"]
    assert [row.type.split(".")[3] for row in found] == ["opened", "closed"]
    return found


def evidence(kept: Kept, event_id: str, **query: Any) -> EvidenceAnswer:
    return EvidenceRoutes(stores=kept.stores, evidence=kept.evidence).get(event_id, EvidenceQuery(**query))


def test_it_is_the_same_before_and_after_the_raw_batches_went(kept: Kept, excursion: list[Row[Any]]) -> None:
    before = [evidence(kept, row.id) for row in excursion]
    assert [len(one.batches) for one in before] == [2, 4]  # from when it began until it was decided
    for _ in range(6):
        kept.day()
    assert [evidence(kept, row.id) for row in excursion] == before
    assert all(one.missing == 0 for one in before)
    left = kept.rows(batch)
    assert {(row.seq, row.lane) for row in left} == {(seq, pb.TELEMETRY) for seq in range(2, 6)}
    with kept.stores.journal.read() as connection:
        (kept_unit,) = [unit for unit in units.all_of(connection, batch.name) if unit.number == EVIDENCE]
        assert len(connection.execute(select(units.table_of(connection, kept_unit))).all()) == len(left)


def test_readings_behind_an_event_are_decoded_again_when_everything_else_is_gone(
    kept: Kept, box: Gateway, excursion: list[Row[Any]]
) -> None:
    kept.set(raw_days=1, readings_days=1, minutes_days=1, hours_days=1, days_days=1)
    for _ in range(8):
        kept.day()
    assert kept.rows(chunk) == []
    assert kept.read(box).values == []
    found = evidence(kept, excursion[1].id)
    (said,) = found.declares
    declared = base64.b64decode(said.body)
    assert declared == kept_declare(box)
    schema = Schema.from_declare(pb.Declare.FromString(declared))
    values: list[Any] = []
    for one in found.batches:
        carried = base64.b64decode(one.body)
        assert hashlib.sha256(carried).hexdigest() == one.sha256
        body = columns.unpack(pb.Codec.Value(one.codec), carried, body_len=one.body_len)
        values += [
            value for block in columns.decode(schema, body, count=one.count).blocks for value in block.columns[0]
        ]
    assert values == list(WARM[2:])
    assert max(values) == json.loads(excursion[1].data)["peak"]


def kept_declare(box: Gateway) -> bytes:
    return box.declare().SerializeToString(deterministic=True)


def test_pages_of_evidence_are_the_whole(kept: Kept, excursion: list[Row[Any]]) -> None:
    whole, found, cursor = evidence(kept, excursion[1].id), [], None
    while True:
        part = evidence(kept, excursion[1].id, limit=2, cursor=cursor)
        found += part.batches
        if (cursor := part.next) is None:
            break
    assert found == whole.batches


def test_what_a_gateway_said_of_itself_is_evidence_too(kept: Kept, box: Gateway) -> None:
    kept.drop()
    lost = pb.Gap(reason=pb.GAP_UNREADABLE, group=1, from_boot=1, from_mono_ms=5_000, to_boot=1, to_mono_ms=9_000)
    told = [(9_000, pb.Event(kind=pb.EVENT_GAP, detail=lost.SerializeToString()))]
    kept.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=FAR), box.events(*told, complete=FAR)])
    kept.deliver(box, [box.readings(steady(1, 4, 4)), box.readings(steady(3600, 4, 4))])
    kept.settle()
    with kept.stores.business.read() as connection:
        rows = connection.execute(select(event).where(event.c.type.contains("data.gap"))).all()
    assert rows
    for _ in range(6):
        kept.day()
    assert [(row.lane, row.seq) for row in kept.rows(batch)] == [(pb.URGENT, 2)]
    (one,) = evidence(kept, rows[0].id).batches
    assert (one.lane, one.seq) == ("urgent", 2)


class Killed(BaseException):
    """Where a process was killed."""


@pytest.mark.parametrize("where", ["move", "drop"])
def test_a_kill_between_copy_and_drop_loses_and_doubles_nothing(
    kept: Kept, excursion: list[Row[Any]], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [evidence(kept, row.id) for row in excursion]
    real = getattr(units, where)
    kills = iter(range(2))

    def killed(*arguments: Any) -> Any:
        done = real(*arguments)
        if next(kills, None) is not None:
            raise Killed  # after it was done, before the commit
        return done

    monkeypatch.setattr(units, where, killed)
    for _ in range(8):
        try:
            kept.day()
        except Killed:
            assert [evidence(kept, row.id) for row in excursion] == before
    assert next(kills, None) is None
    assert [evidence(kept, row.id) for row in excursion] == before
    assert len(kept.rows(batch)) == 4


def test_dictionaries_and_declarations_that_evidence_names_are_there(kept: Kept, excursion: list[Row[Any]]) -> None:
    found = evidence(kept, excursion[0].id)
    assert {one.schema for one in found.batches} == {one.number for one in found.declares}
