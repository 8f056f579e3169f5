"""From the journal to state, history and quarantine, on both databases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import zstandard
from sqlalchemy import select

from control_plane.projections import projector as module
from control_plane.projections.completeness import CompletenessProjection
from control_plane.projections.decode import decode_all
from control_plane.store.tables import batch as batches
from control_plane.store.tables import cursor, history, integrity, quarantine, series, state
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import GATEWAY, OTHER, batch, declare, hello, ranges, urgent

GAP_ID_BATCHES = 3


def broken(seq: int) -> pb.Batch:
    made = batch(seq, 1, 2, 3)
    made.count = 99
    return made


def bomb(seq: int) -> pb.Batch:
    """A small frame that would become 64 MiB."""
    made = batch(seq)
    made.codec = pb.CODEC_ZSTD
    made.body = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))
    made.body_len = 1000
    return made


def test_latest_is_by_event_time_not_by_arrival(road: Road) -> None:
    road.declare()
    road.arrive(batch(2, 70, 71, at_ms=10_000), batch(1, 40, 41, at_ms=1000))
    road.project()
    assert road.state() == {1: (1, 11_000, 7.1)}
    road.arrive(batch(3, 50, at_ms=9000), batch(4, 1, at_ms=9500, group=2))
    road.project()
    assert road.state() == {1: (1, 11_000, 7.1), 2: (1, 9500, 1.0)}
    road.arrive(batch(5, 60, at_ms=0, boot=2))  # a later boot is later, whatever its clock
    road.project()
    assert road.state()[1] == (2, 0, 6.0)
    (row,) = road.rows(state)
    assert row.readings == 7


def test_a_restarted_worker_goes_on_where_the_last_one_was(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10, 20))
    road.project()
    road.projector = road.new_projector()
    road.arrive(batch(2, 30, at_ms=3000))
    road.project()
    (row,) = road.rows(state)
    assert (row.readings, road.state()[1]) == (3, (1, 3000, 3.0))
    assert len(road.rows(history)) == 2


def test_history_says_which_batch_holds_which_minutes(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10, 20, 30, at_ms=5000), batch(2, 1, at_ms=7000, group=2, boot=3), urgent(1))
    road.project()
    found = [(row.boot, row.first_mono_ms, row.last_mono_ms, row.groups[0]) for row in road.rows(history)]
    assert found == [(1, 5000, 7000, 1), (3, 7000, 7000, 2)]


def test_series_are_registered_with_unit_and_attributes(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10))
    road.project()
    door, probe = road.rows(series)
    assert (door.key, door.sensor, door.name) == (f"{GATEWAY}/door/open", "door", "open")
    assert (probe.key, probe.unit, json.loads(probe.attrs)) == (
        f"{GATEWAY}/probe/temperature",
        "Cel",
        {"role": "cargo_temperature"},
    )


def test_a_late_batch_of_an_older_schema_leaves_the_newer_declaration(road: Road) -> None:
    road.declare(declare(1, unit="Cel"))
    road.declare(declare(2, unit="K"))
    road.arrive(batch(2, 10, schema=2))
    road.project()
    road.arrive(batch(1, 10, schema=1))
    road.project()
    assert {row.unit for row in road.rows(series) if row.sensor == "probe"} == {"K"}


@pytest.mark.parametrize("make", [broken, bomb])
def test_an_undecodable_batch_is_quarantined_and_the_rest_goes_on(road: Road, make: Any) -> None:
    road.declare()
    bad = make(2)
    road.arrive(batch(1, 10), bad, batch(3, 30, at_ms=3000))
    road.project()
    assert [(row.gateway, bool(row.error)) for row in road.rows(quarantine)] == [(GATEWAY, True)]
    assert road.gaps() == [("GAP_UNDECODABLE", [(2, 2)])]
    assert road.state()[1] == (1, 3000, 3.0)
    assert road.lane() == (3, (1, 3000))
    with road.stores.journal.read() as connection:
        kept = connection.execute(select(batches.c.body).where(batches.c.seq == 2)).scalar_one()
    assert kept == bad.body


def test_a_decoder_that_breaks_costs_only_what_meets_it(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(table: Any, bodies: Sequence[bytes], counts: Sequence[int], parts: Sequence[int]) -> Any:
        if 3 in counts:
            raise IndexError("a bug")
        return decode_all(table, bodies, counts, parts)

    monkeypatch.setattr(module, "decode_all", breaking)
    road.declare()
    road.arrive(batch(1, 10), batch(2, 1, 2, 3), batch(3, 30, at_ms=3000))
    road.project()
    assert [row.error for row in road.rows(quarantine)] == ["IndexError: a bug"]
    assert road.state()[1] == (1, 3000, 3.0)


@pytest.mark.parametrize(
    "said",
    [
        declare(sensor="x" * 65),
        declare(sensor="nul\0"),
        declare(unit="u" * 41),
        pb.Declare(epoch=declare().epoch, schema=1, groups=[declare().groups[0], declare().groups[0]]),
    ],
)
def test_a_declaration_that_can_not_be_kept_sets_its_batches_aside(road: Road, said: pb.Declare) -> None:
    road.declare(said)
    road.declare(gateway=OTHER)
    road.arrive(batch(1, 10))
    road.arrive(batch(1, 20), gateway=OTHER)
    road.project()
    assert [row.gateway for row in road.rows(quarantine)] == [GATEWAY]
    assert road.state(OTHER)[1] == (1, 1000, 2.0)


def test_an_event_that_can_not_be_kept_is_noted_and_passed_over(road: Road) -> None:
    huge = (1 << 64) - 1
    road.declare()
    road.arrive(
        urgent(
            1,
            pb.Gap(seqs=ranges([(1, huge)]), reason=pb.GAP_DROPPED),
            pb.Gap(count=huge, from_mono_ms=huge),
            pb.Anchor(boot=1, mono_ms=huge, wall_ms=1),
        ),
        batch(2, lane=pb.URGENT, events=[(0, pb.Event(kind=pb.EVENT_INTEGRITY, detail=b"nul\0"))]),
    )
    road.project()
    assert road.gaps() == []
    assert sorted(row.kind for row in road.rows(integrity)) == ["event", "event", "event", "gateway"]
    assert road.lane(pb.URGENT)[0] == 2


def test_gap_ids_do_not_depend_on_what_was_decoded_together(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    road.declare()
    for seq in range(1, GAP_ID_BATCHES + 1):
        gaps = [pb.Gap(seqs=ranges([(seq * 10 + at, seq * 10 + at)]), reason=pb.GAP_DROPPED) for at in range(2)]
        road.arrive(urgent(seq, *gaps))
    road.project()
    together = road.everything()
    road.wipe()
    monkeypatch.setattr(module, "MAX_BATCHES", 1)
    road.projector = road.new_projector()
    road.project()
    assert road.everything() == together


def test_a_portion_that_fails_leaves_nothing_and_its_repeat_gives_the_same(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    road.hello(hello(telemetry=9, urgent=2, held=[(5, 8)], urgent_held=[(1, 1)]))
    road.declare()
    road.arrive(batch(1, 10, 20))
    road.project()
    before = road.everything()
    road.arrive(batch(2, 40, at_ms=4000), broken(3), urgent(1, pb.Gap(seqs=ranges([(4, 4)]), reason=pb.GAP_DROPPED)))
    road.reject(5)
    road.heartbeat(2, 90_000)
    save = CompletenessProjection.save

    def failing(self: CompletenessProjection, *arguments: Any) -> None:
        save(self, *arguments)
        raise OSError("the disk went away")

    with monkeypatch.context() as patch:
        patch.setattr(CompletenessProjection, "save", failing)
        with pytest.raises(OSError, match="went away"):
            road.project()
    assert road.everything() == before
    road.project()
    repeated = road.everything()
    assert [row[1] for row in repeated["cursor"]] == [4]
    road.wipe()
    road.projector = road.new_projector()
    road.project()
    assert road.everything() == repeated


def test_a_portion_cut_by_its_readings_is_not_the_end(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_READINGS", 5)
    road.declare()
    road.arrive(*[batch(seq, 1, 2, 3) for seq in range(1, 5)])
    assert road.projector.step()
    assert road.lane()[0] == 1
    road.project()
    assert road.lane()[0] == 4


def test_the_cursor_starts_at_nothing(road: Road) -> None:
    assert not road.projector.step()
    assert road.rows(cursor) == []
