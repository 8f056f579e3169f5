from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.fleet.accounts import Accounts
from control_plane.fleet.authority import Authority
from control_plane.fleet.enrolment import Enrolment
from control_plane.store.engine import Stores

START_MS = 1_763_805_600_000


class TurnedClock:
    def __init__(self, now_ms: int = START_MS) -> None:
        self.at_ms = now_ms

    def now_ms(self) -> int:
        return self.at_ms

    def forward(self, *, days: float = 0, seconds: float = 0) -> None:
        self.at_ms += int(days * 86_400_000 + seconds * 1000)


@pytest.fixture
def last_look(stores: Stores) -> Iterator[None]:
    """The broadcaster's last look ends before the stores are closed."""
    yield
    for thread in threading.enumerate():
        if thread.name == "live":
            thread.join(5)


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "control")


@pytest.fixture
def enrolment(stores: Stores, authority: Authority, clock: TurnedClock) -> Enrolment:
    return Enrolment(stores=stores, authority=authority, clock=clock)


@pytest.fixture
def accounts(stores: Stores, clock: TurnedClock) -> Accounts:
    return Accounts(store=stores.business, clock=clock)
