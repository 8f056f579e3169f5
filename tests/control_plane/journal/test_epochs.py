"""Which store goes on, which begins a new epoch, and when two boxes are suspected."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Row, Table, select

from control_plane.journal.journal import BatchEntry, LaneMark, SessionStart
from control_plane.journal.sql import SqlJournal
from control_plane.store.engine import Stores
from control_plane.store.tables import batch as batches
from control_plane.store.tables import hello, known, presence
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane import sealing
from tests.control_plane.sealing import EPOCH, GATEWAY, OTHER, ranges

NEXT = 0x1234


class Desk:
    """A journal, and Hellos as short as can be."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._journal = SqlJournal(stores.journal)
        self.now_ms = 0

    def hello(
        self,
        opens: int,
        run: str = "r",
        *,
        boot: str = "b",
        epoch: int = EPOCH,
        telemetry: int = 100,
        last_session: int = 0,
        of: int = 0,
        moved: tuple[int, int] | None = None,
        released_ms: int | None = None,
        gateway: str = GATEWAY,
    ) -> SessionStart:
        said = sealing.hello(epoch=epoch, opens=opens, run_id=run.encode() * 16, telemetry=telemetry, urgent=100)
        said.boot_id = boot.encode() * 16
        said.last_session, said.predecessor_epoch = last_session, of
        if moved is not None:
            said.moved.add(lane=pb.TELEMETRY, seqs=ranges([moved]), agreed=100)
        self.now_ms += 1000
        return self._journal.open_session(gateway, said, now_ms=self.now_ms, released_ms=released_ms)

    def bring(self, start: SessionStart, seq: int, *tenths: int, epoch: int = EPOCH) -> None:
        mark = LaneMark(GATEWAY, epoch, 0, seq, (), seq)
        made = sealing.batch(seq, *tenths, epoch=epoch)
        assert not self._journal.commit([BatchEntry(GATEWAY, start.session, made, self.now_ms, mark)]).fenced

    def rows(self, table: Table) -> list[Row[Any]]:
        with self._stores.journal.read() as connection:
            return list(connection.execute(select(table)).all())


@pytest.fixture
def desk(stores: Stores) -> Desk:
    return Desk(stores)


def test_a_reconnect_and_a_restart_go_on(desk: Desk) -> None:
    assert [desk.hello(opens, run).new_epoch for opens, run in ((1, "r"), (1, "r"), (2, "s"), (5, "t"))] == [False] * 4


def test_a_store_that_was_opened_less_often_than_it_said_begins_anew(desk: Desk) -> None:
    desk.hello(5)
    start = desk.hello(4, "s")
    assert (start.new_epoch, "restored or cloned" in start.note) == (True, True)
    assert [row.why for row in desk.rows(hello)] == [None, start.note]
    assert desk.rows(presence)[0].left_ms is not None


def test_numbers_that_were_seen_already_begin_anew(desk: Desk) -> None:
    start = desk.hello(1, telemetry=7)
    desk.bring(start, 7, 70)
    assert desk.hello(2, "s", telemetry=7).new_epoch
    assert not desk.hello(2, "s", telemetry=8).new_epoch


def test_numbers_that_went_back_begin_anew(desk: Desk) -> None:
    """What it had sealed and not sent yet is gone, and its numbers would mean something else."""
    desk.hello(1, telemetry=9)
    start = desk.hello(2, "s", telemetry=8)
    assert (start.new_epoch, "had come to 9" in start.note) == (True, True)


def test_a_store_that_does_not_know_a_session_in_which_it_sent_begins_anew(desk: Desk) -> None:
    first = desk.hello(1)
    second = desk.hello(1, last_session=first.session)
    desk.bring(second, 1, 10)
    silent = desk.hello(1, last_session=second.session)  # its Welcome may have got lost: nothing came in it
    assert not desk.hello(2, "s", last_session=second.session).new_epoch
    assert desk.hello(9, "t", last_session=first.session).new_epoch
    assert silent.session > second.session


def test_an_epoch_that_another_one_took_over_from_is_over(desk: Desk) -> None:
    desk.hello(1)
    assert desk.hello(1, "s").new_epoch
    assert not desk.hello(1, "s", epoch=NEXT, of=EPOCH).new_epoch
    start = desk.hello(50, "z")
    assert (start.new_epoch, f"{NEXT:08x}" in start.note) == (True, True)
    assert not desk.hello(1, epoch=EPOCH, gateway=OTHER).new_epoch


def test_a_run_that_was_displaced_and_comes_back_is_a_second_box(desk: Desk) -> None:
    desk.hello(1, "r")
    desk.hello(2, "s")
    start = desk.hello(1, "r")
    assert start.paused_ms == desk.now_ms
    assert "displaced" in start.note
    assert desk.hello(2, "s").paused_ms == start.paused_ms
    assert len(desk.rows(hello)) == 2  # what a paused box says is not even remembered
    assert desk.rows(presence)[0].left_ms is not None


def test_two_machines_with_one_opening_are_two_boxes(desk: Desk) -> None:
    desk.hello(3, "r", boot="b")
    assert desk.hello(3, "s", boot="c").paused_ms is not None


def test_a_paused_gateway_fences_the_stream_that_is_open(desk: Desk) -> None:
    live = desk.hello(3, "r", boot="b")
    desk.hello(3, "s", boot="c")
    entry = BatchEntry(GATEWAY, live.session, sealing.batch(1, 10), 5, LaneMark(GATEWAY, EPOCH, 0, 1, (), 1))
    assert desk._journal.commit([entry]).fenced


def test_after_a_release_the_next_goes_on_and_the_other_one_is_found_again(desk: Desk) -> None:
    desk.hello(1, "r", boot="b")
    desk.hello(2, "s", boot="c")
    since_ms = desk.hello(1, "r", boot="b").paused_ms
    assert desk.hello(1, "r", boot="b", released_ms=12345).paused_ms == since_ms
    start = desk.hello(2, "s", boot="c", released_ms=since_ms)
    assert (start.paused_ms, start.new_epoch) == (None, False)
    assert desk.hello(1, "r", boot="b").new_epoch  # fewer openings than the one that goes on
    again = desk.hello(2, "s", boot="c", released_ms=since_ms)
    assert again.paused_ms is not None
    assert again.paused_ms > (since_ms or 0)


def test_the_same_bytes_under_another_name_are_stored_once(desk: Desk) -> None:
    start = desk.hello(1)
    desk.bring(start, 4, 40)
    desk.bring(start, 6, 60)
    start = desk.hello(2, "s", epoch=NEXT, of=EPOCH, moved=(4, 6))
    desk.bring(start, 1, 40, epoch=NEXT)  # was 4
    desk.bring(start, 2, 50, epoch=NEXT)  # was 5, which never came
    desk.bring(start, 3, 61, epoch=NEXT)  # was 6, but the server knows another one by that number
    desk.bring(start, 4, 60, epoch=NEXT)  # like the old 6, but sealed later: chance
    assert [(row.epoch, row.seq) for row in desk.rows(batches)] == [
        (EPOCH, 4),
        (EPOCH, 6),
        (NEXT, 2),
        (NEXT, 3),
        (NEXT, 4),
    ]
    assert [(row.epoch, row.seq, row.of_epoch, row.of_seq) for row in desk.rows(known)] == [(NEXT, 1, EPOCH, 4)]
    (held,) = desk.hello(3, "t", epoch=NEXT, of=EPOCH, moved=(4, 6)).lanes.values()
    assert held.max_seen == 4


def test_an_ordered_hello_of_an_unknown_predecessor_is_taken(desk: Desk) -> None:
    """A server that was restored from before both."""
    assert not desk.hello(9, epoch=NEXT, of=EPOCH, moved=(1, 5), last_session=77).new_epoch
