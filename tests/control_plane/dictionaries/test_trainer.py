"""When a gateway's dictionary is trained, and when it is not."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from control_plane.dictionaries.candidate import carried, train
from control_plane.dictionaries.trainer import AGAIN, ENOUGH, MOST_A_DAY, REST, SOON, Trainer, Watch
from control_plane.journal.dictionaries import Issue, Issued
from control_plane.journal.journal import BatchEntry, DeclareEntry, LaneMark
from control_plane.journal.sql import SqlJournal
from control_plane.store.engine import Stores
from control_plane.store.tables import batch as batches
from protos.columns import Dictionary
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.sealing import EPOCH, GATEWAY, OTHER, batch, declare, hello, packed

NOISE = random.Random(3)
HABITS = [[NOISE.randrange(30_000) for _ in range(10)] for _ in range(60)]
"""What the sensors of one gateway do again and again,"""
OTHER_HABITS = [[NOISE.randrange(30_000) for _ in range(10)] for _ in range(60)]
"""and what they do from some day on."""
Habits = list[list[int]]


class Fleet:
    """Journalled batches and a trainer that is told of them."""

    def __init__(self, stores: Stores, clock: TurnedClock) -> None:
        self.stores = stores
        self.clock = clock
        self.journal = SqlJournal(stores.journal)
        self.issued = Issued(stores.journal)
        self.now_s = 1000.0
        self.trainer = self.new_trainer()
        self.sessions: dict[str, int] = {}
        self.seqs: dict[str, int] = {}
        self.told = 0

    def new_trainer(self) -> Trainer:
        """As a restarted worker has it."""
        return Trainer(journal=self.stores.journal, clock=self.clock, monotonic_s=lambda: self.now_s)

    def sends(
        self,
        count: int,
        habits: Habits | None = None,
        *,
        gateway: str = GATEWAY,
        every_ms: int = 10_000,
        schema: int = 1,
        dictionary: Dictionary | None = None,
    ) -> None:
        """So many batches, projected one by one; the trainer looks after each."""
        session = self.sessions.get(gateway)
        if session is None:
            session = self.sessions[gateway] = self.journal.open_session(gateway, hello(), now_ms=1).session
        entries: list[BatchEntry | DeclareEntry] = [DeclareEntry(gateway, session, declare(schema), 1)]
        for _ in range(count):
            seq = self.seqs[gateway] = self.seqs.get(gateway, 0) + 1
            made = body(seq, habits or HABITS, every_ms, schema)
            made = packed(made, dictionary) if dictionary else made
            entries.append(BatchEntry(gateway, session, made, 1, LaneMark(gateway, EPOCH, 0, seq, (), seq)))
        self.journal.commit(entries)
        self.project()

    def project(self) -> None:
        with self.stores.journal.read() as connection:
            rows = connection.execute(batches.select().where(batches.c.id > self.told).order_by(batches.c.id)).all()
        for row in rows:
            self.told = row.id
            self.trainer.seen([row])
            self.look()

    def look(self) -> None:
        while self.trainer.step():
            pass

    def newest(self, gateway: str = GATEWAY) -> Issue | None:
        return self.issued.latest(gateway)

    def made(self, gateway: str = GATEWAY) -> int:
        return self.issued.counts(gateway, since_ms=0)[0]


def body(seq: int, habits: Habits, every_ms: int = 10_000, schema: int = 1) -> pb.Batch:
    chosen = random.Random(seq)
    tenths = [value for _ in range(12) for value in chosen.choice(habits)]
    return batch(seq, *tenths, at_ms=seq * every_ms, step_ms=10, schema=schema)


def bodies(seqs: Iterable[int], habits: Habits) -> list[bytes]:
    return [body(seq, habits).body for seq in seqs]


@pytest.fixture
def fleet(stores: Stores, clock: TurnedClock) -> Fleet:
    return Fleet(stores, clock)


def test_a_gateway_gets_its_own_once_there_is_enough_to_learn_from(fleet: Fleet) -> None:
    fleet.sends(ENOUGH - 1)
    assert fleet.newest() is None
    fleet.sends(1)
    issue = fleet.newest()
    assert issue is not None
    assert (issue.schema, issue.batches, issue.made_ms) == (1, 40, fleet.clock.now_ms())
    later = bodies(range(1000, 1020), HABITS)
    assert carried(later, issue.dictionary) < (1 - issue.saving / 2) * carried(later, None)
    assert issue.saving > 0.1


def test_a_restarted_worker_finds_what_was_journalled_before(fleet: Fleet) -> None:
    fleet.sends(ENOUGH - SOON)
    fleet.trainer = fleet.new_trainer()
    fleet.sends(SOON)
    assert fleet.made() == 1


def test_batches_that_are_too_rare_to_pay_for_it_get_none(fleet: Fleet) -> None:
    fleet.sends(3 * ENOUGH, every_ms=6 * 3_600_000)
    assert fleet.made() == 0


def test_what_hardly_repeats_gets_none_where_the_little_it_saves_does_not_pay(fleet: Fleet) -> None:
    noise = random.Random(5)
    fleet.sends(3 * ENOUGH, [[noise.randrange(1 << 40) for _ in range(10)] for _ in range(20_000)], every_ms=600_000)
    assert fleet.made() == 0


def test_another_declaration_is_followed_by_another_dictionary(fleet: Fleet) -> None:
    fleet.sends(ENOUGH)
    first = fleet.newest()
    fleet.sends(ENOUGH, OTHER_HABITS, schema=2)
    second = fleet.newest()
    assert first is not None
    assert second is not None
    assert (second.schema, fleet.made()) == (2, 2)
    assert second.dictionary.id != first.dictionary.id


def test_a_saving_that_has_decayed_is_followed_by_another(fleet: Fleet) -> None:
    fleet.sends(ENOUGH)
    first = fleet.newest()
    assert first is not None
    fleet.sends(2 * AGAIN, OTHER_HABITS, dictionary=first.dictionary)
    second = fleet.newest()
    assert second is not None
    later = bodies(range(2000, 2020), OTHER_HABITS)
    assert carried(later, second.dictionary) < 0.9 * carried(later, first.dictionary)


def test_one_that_serves_well_stays(fleet: Fleet) -> None:
    fleet.sends(AGAIN)
    fleet.sends(4 * AGAIN)
    assert fleet.made() <= 2  # the second has learnt from far more than the first


def test_there_are_only_so_many_a_day(fleet: Fleet) -> None:
    for schema in range(1, MOST_A_DAY + 3):
        fleet.sends(ENOUGH, HABITS if schema % 2 else OTHER_HABITS, schema=schema)
    assert fleet.made() == MOST_A_DAY
    fleet.clock.forward(days=1, seconds=1)
    fleet.sends(ENOUGH, schema=MOST_A_DAY + 3)
    assert fleet.made() == MOST_A_DAY + 1


def test_a_name_that_is_taken_is_refused_and_another_is_trained(fleet: Fleet) -> None:
    samples = bodies(range(1, ENOUGH + 1), HABITS)
    first = train(samples[:40], number=2)  # the next of a gateway that has one
    assert first is not None
    twin = Dictionary(b"the first four bytes of two hashes can agree")
    twin.id = first.id
    assert fleet.issued.issue(GATEWAY, Issue(twin, schema=9, batches=1, saving=0.0, made_ms=0))
    assert not fleet.issued.issue(GATEWAY, Issue(first, schema=1, batches=40, saving=0.2, made_ms=5))
    fleet.sends(ENOUGH)
    third = train(samples[:40], number=3)
    newest = fleet.newest()
    assert third is not None
    assert newest is not None
    assert newest.dictionary.sha256 == third.sha256


def test_training_takes_a_small_share_of_the_machine(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    look = fleet.trainer._look

    def takes_a_second(watch: Watch) -> int:
        fleet.now_s += 1
        return look(watch)

    for gateway in (GATEWAY, OTHER):
        fleet.sends(ENOUGH - 1, gateway=gateway)
    monkeypatch.setattr(fleet.trainer, "_look", takes_a_second)
    for gateway in (GATEWAY, OTHER):
        fleet.sends(1, gateway=gateway)
    assert (fleet.made(), fleet.made(OTHER)) == (1, 0)
    fleet.now_s += REST - 1
    fleet.look()
    assert fleet.made(OTHER) == 0
    fleet.now_s += 1
    fleet.look()
    assert fleet.made(OTHER) == 1


def test_urgent_and_large_bodies_are_not_counted(fleet: Fleet) -> None:
    fleet.sends(ENOUGH - 1)
    with fleet.stores.journal.write() as connection:
        connection.execute(batches.update().values(lane=pb.URGENT))
    fleet.sends(ENOUGH - 1)
    assert fleet.made() == 0
