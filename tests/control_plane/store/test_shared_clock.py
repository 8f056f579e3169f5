from __future__ import annotations

import time

import pytest

from control_plane.clock import SystemClock
from control_plane.store.engine import Stores
from control_plane.store.shared_clock import SharedClock, clock_of


def test_machines_whose_clocks_differ_agree(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    if stores.business.sqlite:
        pytest.skip("several machines share PostgreSQL only")
    before_ms = time.time_ns() // 1_000_000  # of the database's machine: this one
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3_600_000_000_000)
    with clock_of(stores) as slow:
        monkeypatch.setattr(time, "time_ns", lambda: real() + 3_600_000_000_000)
        with clock_of(stores) as fast:
            seen = [slow.now_ms(), fast.now_ms(), slow.now_ms()]
    after_ms = real() // 1_000_000
    assert before_ms - 1000 <= min(seen) <= max(seen) <= after_ms + 1000


def test_it_follows_the_database_when_that_moves(stores: Stores) -> None:
    if stores.business.sqlite:
        pytest.skip("several machines share PostgreSQL only")
    boot = [0.0]
    clock = SharedClock(stores.business, boot_ms=lambda: boot[0])
    clock.refresh()
    first_ms = clock.now_ms()
    boot[0] += 90_000_000  # a day in which this machine's boot clock ran, and the database's did not
    assert clock.now_ms() - first_ms == 90_000_000
    clock.refresh()
    assert clock.now_ms() - first_ms < 80_000_000


def test_one_machine_needs_no_other_clock(stores: Stores) -> None:
    if not stores.business.sqlite:
        pytest.skip("of SQLite")
    with clock_of(stores) as clock:
        assert isinstance(clock, SystemClock)
