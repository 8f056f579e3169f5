"""Hours that are over become chunks: nothing changes for who reads, nothing is sealed twice."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, update

from control_plane.projections.sealer import Sealer
from control_plane.store.tables import batch as batches
from control_plane.store.tables import chunk, history
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS
from tests.control_plane.conftest import START_MS, TurnedClock
from tests.control_plane.projections.conftest import Road
from tests.control_plane.projections.test_readings import anchor
from tests.control_plane.sealing import GATEWAY, batch, declare, urgent

FAR_MS = START_MS + 10 * HOUR_MS


def sealer(road: Road) -> Sealer:
    return Sealer(telemetry=road.stores.telemetry, reader=road.reader(), clock=road.clock)


def chunks(road: Road) -> list[Any]:
    return road.rows(chunk)


def unsealed(road: Road) -> int:
    with road.stores.telemetry.read() as connection:
        query = select(func.count()).select_from(history).where(history.c.chunk.is_(None))
        return int(connection.execute(query).scalar_one())


@pytest.fixture
def hours(road: Road) -> Road:
    """Two batches of one hour, one of the next."""
    road.declare()
    road.arrive(urgent(1, anchor(0, START_MS)), batch(1, 10, 20), batch(2, 30, 40, at_ms=3000))
    road.arrive(batch(3, 50, at_ms=HOUR_MS))
    road.project()
    return road


def test_an_hour_is_sealed_once_a_later_one_has_begun_and_it_is_quiet(hours: Road, clock: TurnedClock) -> None:
    one = sealer(hours)
    assert not one.step()
    assert not chunks(hours)
    clock.forward(seconds=60)
    while one.step():
        pass
    (only,) = chunks(hours)
    assert (only.gateway, only.boot, only.first_mono_ms, only.last_mono_ms, only.readings) == (
        GATEWAY,
        1,
        1000,
        4000,
        4,
    )
    assert unsealed(hours) == 1, "the hour that goes on"
    clock.forward(seconds=3600)
    while one.step():
        pass
    assert len(chunks(hours)) == 2, "nothing came for an hour"


def test_what_is_sealed_reads_as_before(hours: Road) -> None:
    before = hours.temperatures(from_ms=START_MS, to_ms=FAR_MS)
    hours.seal()
    assert not unsealed(hours)
    assert (
        hours.temperatures(from_ms=START_MS, to_ms=FAR_MS)
        == before
        == [
            (START_MS + ms, value) for ms, value in ((1000, 1.0), (2000, 2.0), (3000, 3.0), (4000, 4.0), (HOUR_MS, 5.0))
        ]
    )
    assert hours.temperatures(from_ms=START_MS + 2000, to_ms=START_MS + 4000) == before[1:3]


def test_a_better_anchor_moves_what_is_sealed(hours: Road) -> None:
    hours.seal()
    hours.arrive(urgent(2, anchor(HOUR_MS, START_MS + HOUR_MS + 3600, err_ms=1)))
    hours.project()
    assert hours.temperatures(from_ms=START_MS, to_ms=FAR_MS)[-1] == (START_MS + HOUR_MS + 3600, 5.0)


def test_what_comes_late_has_a_chunk_of_its_own(hours: Road) -> None:
    hours.seal()
    first = chunks(hours)
    hours.arrive(batch(4, 25, at_ms=2500))
    hours.project()
    assert [value for _, value in hours.temperatures(from_ms=START_MS, to_ms=FAR_MS)] == [1.0, 2.0, 2.5, 3.0, 4.0, 5.0]
    hours.seal()
    assert chunks(hours)[: len(first)] == first
    assert len(chunks(hours)) == len(first) + 1
    assert [value for _, value in hours.temperatures(from_ms=START_MS, to_ms=FAR_MS)] == [1.0, 2.0, 2.5, 3.0, 4.0, 5.0]


def test_an_hour_of_two_declarations_is_one_chunk(road: Road) -> None:
    road.declare()
    road.declare(declare(2, unit="K"))
    road.arrive(urgent(1, anchor(0, START_MS)), batch(1, 10), batch(2, 20, at_ms=2000, schema=2))
    road.project()
    road.seal()
    assert len(chunks(road)) == 1
    assert [value for _, value in road.temperatures(from_ms=START_MS, to_ms=FAR_MS)] == [1.0, 2.0]


def test_two_workers_seal_nothing_twice(hours: Road, clock: TurnedClock) -> None:
    one, other = sealer(hours), sealer(hours)
    one.step(), other.step()
    clock.forward(seconds=60)
    while one.step():
        pass
    while other.step():
        pass
    assert len(chunks(hours)) == 1


def test_a_worker_that_was_overtaken_writes_nothing(hours: Road, clock: TurnedClock) -> None:
    one = sealer(hours)
    one.step()
    clock.forward(seconds=60)
    write = one._write

    def overtaken(connection: Any, *rest: Any) -> None:
        connection.execute(update(history).where(history.c.batch_id == 2).values(chunk=99))
        write(connection, *rest)

    one._write = overtaken  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="another worker"):
        one.step()
    assert not chunks(hours)
    assert unsealed(hours) == 3
    one._write = write  # type: ignore[method-assign]
    one.step()
    assert len(chunks(hours)) == 1


def test_a_new_worker_finds_what_is_open(hours: Road, clock: TurnedClock) -> None:
    sealer(hours).step()
    fresh = sealer(hours)
    fresh.step()
    clock.forward(seconds=60)
    fresh.step()
    assert len(chunks(hours)) == 1


def test_a_batch_that_rotted_in_the_journal_stops_no_other_hour(hours: Road, clock: TurnedClock) -> None:

    with hours.stores.journal.write() as connection:
        connection.execute(update(batches).where(batches.c.lane == pb.TELEMETRY, batches.c.seq == 1).values(body=b"?"))
    one = sealer(hours)
    one.step()
    clock.forward(seconds=7200)
    for _ in range(4):
        one.step()
    (only,) = chunks(hours)
    assert only.first_mono_ms == HOUR_MS
