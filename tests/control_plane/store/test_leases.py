"""Leases: one holder at a time, and nothing is written under an old one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import func, select, update

from control_plane.errors import Fenced
from control_plane.lifeline import process_name, surely_ended
from control_plane.store.engine import Stores
from control_plane.store.leases import Alive, Lease, Leases, leases_of
from control_plane.store.tables import cursor, lease
from control_plane.store.upsert import upsert

PATIENCE_S = 30.0


def write(stores: Stores, position: int) -> None:
    with stores.telemetry.write() as connection:
        upsert(connection, cursor, [{"name": "test", "position": position}])


def position(stores: Stores) -> int:
    with stores.telemetry.read() as connection:
        return int(connection.execute(select(func.max(cursor.c.position))).scalar_one() or 0)


def run_out(stores: Stores, name: str = "work") -> None:
    """As if its holder had said nothing for a long time."""
    with stores.business.write() as connection:
        connection.execute(update(lease).where(lease.c.name == name).values(until_ms=0))


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def taken(leases: Leases) -> Lease:
    found = leases.take("work")
    assert isinstance(found, Lease)
    return found


@pytest.fixture
def shared(stores: Stores) -> Stores:
    if stores.business.sqlite:
        pytest.skip("several machines share PostgreSQL only")
    return stores


def test_one_has_it_and_the_next_one_gets_it_when_it_is_given_back(stores: Stores) -> None:
    one, other = leases_of(stores, holder="one"), leases_of(stores, holder="other")
    first = taken(one)
    assert other.take("work") is None
    assert one.renew(first)
    more = other.take("other work")
    assert more is not None
    other.release(more)
    one.release(first)
    second = taken(other)
    assert one.take("work") is None
    other.release(second)


def test_a_holder_that_fell_silent_is_replaced_and_can_not_write_any_more(shared: Stores) -> None:
    one, other = leases_of(shared, holder="one"), leases_of(shared, holder="other")
    first = taken(one)
    write(one.under(first), 1)
    assert other.take("work") is None
    run_out(shared)
    second = taken(other)
    assert second.fence > first.fence
    assert not one.renew(first)
    with pytest.raises(Fenced):
        write(one.under(first), 2)
    write(other.under(second), 3)
    one.release(first)  # of no effect
    assert one.take("work") is None
    assert position(shared) == 3


def test_taking_over_waits_for_what_the_one_before_has_begun_to_write(shared: Stores) -> None:
    """So whoever took over reads everything that the one before will ever have written."""
    one, other = leases_of(shared, holder="one"), leases_of(shared, holder="other")
    first = taken(one)
    found: list[tuple[Lease | None, int]] = []
    thread = threading.Thread(target=lambda: found.append((other.take("work"), position(shared))))
    with one.under(first).telemetry.write() as connection:
        upsert(connection, cursor, [{"name": "test", "position": 7}])
        assert one.renew(first)  # its own renewal is not held up by that
        run_out(shared)
        thread.start()
        until(lambda: _waits(shared))
        assert not found
    thread.join()
    assert found == [(Lease("work", first.fence + 1), 7)]


def _waits(stores: Stores) -> bool:
    with stores.business.read() as connection:
        query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return connection.exec_driver_sql(query).first() is not None


def test_a_holder_that_stands_still_in_a_transaction_is_ended_by_the_server(
    shared: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    from control_plane.store import leases as module

    monkeypatch.setattr(module, "_HOLD", text(module._HOLD.text.replace(f"{module.FROZEN_S}s", "200ms")))
    one, other = leases_of(shared, holder="one"), leases_of(shared, holder="other")
    first = taken(one)

    def stand_still() -> None:
        with one.under(first).telemetry.write() as connection:
            upsert(connection, cursor, [{"name": "test", "position": 9}])
            run_out(shared)
            assert taken(other).fence == first.fence + 1  # did not wait for this one to wake up
            connection.execute(select(1))

    with pytest.raises(DBAPIError):
        stand_still()
    assert position(shared) == 0


def test_a_lease_lives_by_the_databases_clock_alone(shared: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine's clock is an hour behind, the other's an hour ahead."""
    hour_ns = 3_600_000_000_000
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - hour_ns)
    one = leases_of(shared, holder="one")
    first = taken(one)
    monkeypatch.setattr(time, "time_ns", lambda: real() + hour_ns)
    assert leases_of(shared, holder="other").take("work") is None
    assert one.renew(first)


def test_nobody_waits_for_a_holder_that_was_killed_on_the_same_machine(shared: Stores) -> None:
    holder = process_name("worker")
    assert not surely_ended(holder)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    name = holder.replace(f"/{os.getpid()}/", f"/{child.pid}/")
    taken(leases_of(shared, holder=name))
    other = leases_of(shared, holder=holder)
    assert other.take("work") is None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # still a zombie
    assert surely_ended(name)
    child.wait()
    assert taken(other)


def test_of_other_machines_nothing_is_assumed() -> None:
    assert not surely_ended("worker/elsewhere/999999999/00000000-abcdef01")
    assert not surely_ended("one")


def test_who_fell_silent_is_told_until_the_matter_is_ended(shared: Stores) -> None:
    alive = Alive(shared.business)
    alive.say("ingest/a")
    alive.say("ingest/b")
    assert alive.lapsed("ingest/") == {}
    run_out(shared, "ingest/a")
    assert set(alive.lapsed("ingest/")) == {"ingest/a"}
    alive.forget("ingest/a")
    alive.forget("ingest/b")  # it lives
    assert alive.lapsed("ingest/") == {}
    run_out(shared, "ingest/b")
    alive.say("ingest/b")
    assert alive.lapsed("ingest/") == {}
