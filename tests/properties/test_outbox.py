"""The outbox against a ten-line model: whatever the far side answers and whenever the relay dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, select

from control_plane.reconcile.versions import Wanted, settle
from control_plane.relay.acts import Act, replay
from control_plane.relay.connector import Found, Outcome, Parcel
from control_plane.relay.connectors.webhook import WebhookDestination
from control_plane.relay.deliver import Deliverer
from control_plane.simulators.erp import Ledger
from control_plane.store.engine import Store, Stores
from control_plane.store.tables import outbox
from tests.effort import tries

KEYS = st.sampled_from(["truck", "van"])
ANSWERS = st.lists(
    st.sampled_from(["ok", "ok", "ok", "lost reply", "lost request", "busy", "refused", "auth"]), max_size=8
)
names = itertools.count()


class Killed(BaseException):
    """What no code of ours catches."""


class Clock:
    at_ms = 1_000_000

    def now_ms(self) -> int:
        return self.at_ms


class FarSide:
    """The ERP stand-in's ledger behind a wire that does what it is told; content when told nothing."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.answers: list[str] = []
        self.busy: set[str] = set()

    async def deliver(self, parcel: Parcel) -> Outcome:
        assert parcel.event_id not in self.busy
        self.busy.add(parcel.event_id)
        try:
            await asyncio.sleep(0)
            return self._answer(parcel, self.answers.pop(0) if self.answers else "ok")
        finally:
            self.busy.discard(parcel.event_id)

    def _answer(self, parcel: Parcel, told: str) -> Outcome:
        if told == "busy":
            return Outcome("TRANSIENT", 502)
        if told == "refused":
            return Outcome("PERMANENT", 422)
        if told == "auth":
            return Outcome("AUTH", 401)
        if told == "lost request":
            return Outcome("AMBIGUOUS")
        number = self.ledger.take(parcel.event_id, parcel.body)
        return Outcome("AMBIGUOUS") if told == "lost reply" else Outcome("OK", 200, erp_id=number)

    async def find(self, ext_ref: str) -> Found:
        del ext_ref
        return Found(None)

    async def close(self) -> None: ...

    def effects(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for effect in self.ledger.report()["effects"]:
            found.setdefault(effect["subject"], []).append(effect["data"]["number"])
        return found


class Outbox(RuleBasedStateMachine):
    """The model: per key, how many events were posted. What took effect is always a beginning of that, in order."""

    store: Store

    @initialize()
    def begin(self) -> None:
        self.posted: dict[str, int] = {}
        self.clock, self.far = Clock(), FarSide()
        self.runner = asyncio.Runner()
        self.destination = WebhookDestination(
            name=f"erp-{next(names)}",
            url="http://127.0.0.1:1/",
            secret_file="",
            timeout_s=1.0,
            retry=(1.0, 1.0, 1.0),
            grace_s=5.0,
            concurrency=2,
        )
        self.relay = self._new()

    def _new(self) -> Deliverer:
        return Deliverer(
            store=self.store,
            destination=self.destination,
            connector=self.far,
            clock=self.clock,
            rng=random.Random(1),
        )

    @rule(key=KEYS, count=st.integers(1, 3))
    def post(self, key: str, count: int) -> None:
        first = self.posted.get(key, 0) + 1
        self.posted[key] = first + count - 1
        at_ms = self.clock.now_ms()
        wanted = [
            Wanted(f"{self.destination.name}-{key}-{n}"[-36:], "comboio.test.v1", key, n, n, {"number": n}, final=True)
            for n in range(first, first + count)
        ]
        with self.store.write() as connection:
            settle(connection, wanted=wanted, standing=[], destinations=[self.destination], now_ms=at_ms)

    @rule(answers=ANSWERS, wait_s=st.sampled_from([0, 2, 7, 70]))
    def run(self, answers: list[str], wait_s: int) -> None:
        self.clock.at_ms += wait_s * 1000
        self.far.answers = answers
        self.runner.run(drain(self.relay))

    @rule(answers=ANSWERS, commit=st.integers(1, 6), committed=st.booleans())
    def die(self, answers: list[str], commit: int, committed: bool) -> None:
        self.clock.at_ms += 7_000
        self.far.answers = answers
        with killed_at(self.store, commit, committed=committed), contextlib.suppress(Killed):
            self.runner.run(drain(self.relay))
        self.runner.run(self.relay.close())
        self.relay = self._new()

    @rule()
    def a_person_replays_what_is_parked(self) -> None:
        for row in self._rows():
            if row.state == "parked":
                act = Act(self.destination.name, "ana", "mended", self.clock.now_ms())
                replay(self.store, act, row.event_id)

    @invariant()
    def per_key_in_order_and_one_effect_each(self) -> None:
        for key, numbers in self.far.effects().items():
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(numbers) <= self.posted[key]
        assert self.far.ledger.report()["conflicts"] == []

    @invariant()
    def only_the_first_open_row_of_a_key_is_ever_touched(self) -> None:
        by_key: dict[str, list[str]] = {}
        for row in self._rows():
            by_key.setdefault(row.key, []).append(row.state)
        for states in by_key.values():
            waiting = [state for state in states if state != "delivered"]
            assert all(state == "pending" for state in waiting[1:])
            assert states[len(states) - len(waiting) :] == waiting

    def teardown(self) -> None:
        """In the end nothing is missing."""
        self.far.answers = []
        for _ in range(4):
            self.a_person_replays_what_is_parked()
            self.clock.at_ms += 700_000
            self.runner.run(drain(self.relay))
        self.runner.run(self.relay.close())
        self.runner.close()
        assert self.far.effects() == {key: list(range(1, n + 1)) for key, n in self.posted.items()}
        assert {row.state for row in self._rows()} <= {"delivered"}

    def _rows(self) -> list[Any]:
        query = select(outbox.c.key, outbox.c.seq, outbox.c.state, outbox.c.event_id)
        with self.store.read() as connection:
            mine = query.where(outbox.c.dest == self.destination.name).order_by(outbox.c.key, outbox.c.seq)
            return list(connection.execute(mine))


async def drain(relay: Deliverer) -> None:
    while await relay.step():
        pass


@contextmanager
def killed_at(store: Store, number: int, *, committed: bool) -> Iterator[None]:
    """Die just before, or just after, the commit of the number-th write transaction."""
    count = itertools.count(1)
    write = Store.write

    @contextmanager
    def counted() -> Iterator[Connection]:
        mine = next(count)
        with write(store) as connection:
            yield connection
            if mine == number and not committed:
                raise Killed
        if mine == number:
            raise Killed

    store.write = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        del store.write


@pytest.fixture(scope="module")
def business(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("outbox") / "database"
    shutil.copytree(sqlite_template, folder)
    with Stores(f"sqlite:///{folder}") as stores:
        yield stores.business


def test_outbox_delivers_each_event_once_in_order_whatever_happens(business: Store) -> None:
    machine = type("OnThisStore", (Outbox,), {"store": business})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=tries(60),
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
