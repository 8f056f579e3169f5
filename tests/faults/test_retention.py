"""Retention beside a reader that never ends, a kill, and a machine whose clock is wrong."""

from __future__ import annotations

import contextlib
import time

import pytest
from sqlalchemy import func, select

from control_plane.clock import SystemClock
from control_plane.store import units
from control_plane.store.engine import Stores
from control_plane.store.shared_clock import clock_of
from control_plane.store.tables import batch, chunk
from control_plane.store.tables import kept as kept_table
from tests.control_plane.reconcile.plant import WALL0_MS, Gateway, steady
from tests.control_plane.retention.conftest import DAY_MS, Kept

FAR = (1, 1 << 40)
YEAR_NS = 365 * 86_400 * 1_000_000_000


@pytest.fixture
def box() -> Gateway:
    return Gateway("gw-aaaaaaaaaa")


@pytest.fixture
def aged(stores: Stores, box: Gateway) -> Kept:
    """Raw batches and readings that are over, in units of their own; nothing is dropped yet."""
    made = Kept(stores, raw_days=2.0, readings_days=2.0)
    made.drop()
    made.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=FAR), box.readings(steady(1, 4, 4, 4))])
    made.settle()
    made.seal()
    made.forward(days=1)
    made.drop()  # divides
    made.deliver(box, [box.readings(steady(86_400, 5, 5))])
    made.settle()
    made.seal()
    made.forward(days=1.5)
    made.deliver(box, [box.readings(steady(2 * 86_400, 6))])
    made.settle()
    made.seal()
    made.drop()
    made.forward(days=4)
    return made


def test_a_reader_with_an_open_transaction_puts_a_drop_off_and_ingest_goes_on(aged: Kept, box: Gateway) -> None:
    with contextlib.ExitStack() as forgotten:
        counted = {}
        readers = {}
        for table in (batch, chunk):
            connection = forgotten.enter_context(aged.store_of(table).read(snapshot=True))
            counted[table.name] = connection.execute(select(func.count()).select_from(table)).scalar_one()
            readers[table.name] = connection
        dropped = aged.drop()
        if not aged.stores.journal.sqlite:
            assert dropped == 0
        aged.deliver(box, [box.readings(steady(3 * 86_400, 7))])  # nothing waits for the reader
        aged.settle()
        assert aged.read(box).values[-1] == 7
        for table in (batch, chunk):
            query = select(func.count()).select_from(table)
            assert readers[table.name].execute(query).scalar_one() == counted[table.name]  # nor is it disturbed
    aged.forward(seconds=120)  # it is tried again
    assert dropped + aged.drop() >= 2
    assert aged.read(box).values[-1] == 7
    assert 4 not in aged.read(box).values


def test_a_kill_before_the_commit_of_a_drop_leaves_everything(
    aged: Kept, box: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, before = units.drop, (aged.rows(batch), aged.rows(chunk), aged.rows(kept_table))

    class Killed(BaseException):
        pass

    def killed(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        raise Killed

    monkeypatch.setattr(units, "drop", killed)
    with pytest.raises(Killed):
        aged.drop()
    assert (aged.rows(batch), aged.rows(chunk), aged.rows(kept_table)) == before
    monkeypatch.setattr(units, "drop", real)
    assert aged.drop() >= 2
    assert 4 not in aged.read(box).values


def test_a_machine_whose_clock_is_a_year_ahead_drops_nothing_early(
    stores: Stores, box: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replicas live by the database's clock; on SQLite there is one machine and no other clock."""
    if stores.journal.sqlite:
        pytest.skip("one machine has one clock")
    now_ms = time.time_ns() // 1_000_000
    made = Kept(stores, raw_days=2.0)
    made.clock.at_ms = now_ms - 5 * DAY_MS // 2
    made.drop()
    made.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=FAR), box.readings(steady(1, 4, 4, 4))])
    made.settle()
    made.seal()
    made.forward(days=1)
    made.drop()
    made.forward(days=1)
    made.deliver(box, [box.readings(steady(9, 5))])
    made.drop()  # what came first is closed since a day and a half
    made.settle()
    before = made.rows(batch)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + YEAR_NS)
    with clock_of(stores) as clock:
        made.retention.clock = clock
        assert made.drop() == 0
    assert made.rows(batch) == before
    made.retention.clock = SystemClock()  # as it would be by the machine's own
    assert made.drop() > 0
