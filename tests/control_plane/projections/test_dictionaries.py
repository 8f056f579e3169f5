"""Batches packed with a dictionary, from the journal to readings; a missing or wrong one is an error, never garbage."""

from __future__ import annotations

from sqlalchemy import update

from control_plane.journal.dictionaries import Dictionaries, Issue, Issued
from control_plane.journal.journal import DictionaryEntry
from control_plane.store.tables import batch as batches
from control_plane.store.tables import dictionary as dictionaries
from control_plane.store.tables import quarantine
from protos.columns import Dictionary
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.conftest import START_MS
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import GATEWAY, OTHER, batch, packed, urgent

MINE, THEIRS = Dictionary(b"what one gateway sends"), Dictionary(b"what another one sends")
ANCHOR = pb.Anchor(boot=1, mono_ms=0, wall_ms=START_MS, err_ms=5, source=pb.CLOCK_NTP)


def issue(road: Road, dictionary: Dictionary, gateway: str = GATEWAY) -> None:
    issued = Issued(road.stores.journal)
    assert issued.issue(gateway, Issue(dictionary, schema=1, batches=60, saving=0.2, made_ms=5))


def test_readings_of_batches_with_and_without_a_dictionary_come_out_alike(road: Road) -> None:
    for gateway, dictionary in ((GATEWAY, MINE), (OTHER, THEIRS)):
        issue(road, dictionary, gateway)
        road.declare(gateway=gateway)
        road.arrive(urgent(1, ANCHOR), batch(1, 10, 20), gateway=gateway)
        road.arrive(packed(batch(2, 30, 40, at_ms=3000), dictionary), gateway=gateway)
    road.project()
    assert not road.rows(quarantine)
    found = road.temperatures(from_ms=START_MS, to_ms=START_MS + 60_000)
    assert found == [(START_MS + 1000 * n, float(n)) for n in (1, 2, 3, 4)]
    assert road.state(OTHER)[1] == (1, 4000, 4.0)


def test_a_batch_whose_dictionary_is_not_here_is_kept_raw_and_costs_nobody_else(road: Road) -> None:
    issue(road, MINE, OTHER)  # another gateway's does not count
    road.declare()
    road.arrive(batch(1, 10), packed(batch(2, 20, at_ms=2000), MINE), batch(3, 30, at_ms=3000))
    road.project()
    (row,) = road.rows(quarantine)
    assert f"dictionary {MINE.id:08x} is not in the journal" in row.error
    assert road.state()[1] == (1, 3000, 3.0)


def test_a_dictionary_damaged_at_rest_is_an_error_and_not_other_readings(road: Road) -> None:
    issue(road, MINE)
    road.declare()
    road.arrive(packed(batch(1, 10, 20), MINE))
    with road.stores.journal.write() as connection:  # the other's bytes under the name of this one
        connection.execute(update(dictionaries).values(data=THEIRS.data))
    road.project()
    (row,) = road.rows(quarantine)
    assert f"dictionary {MINE.id:08x} is damaged" in row.error


def test_only_so_many_stay_compiled_and_the_rest_is_read_again(road: Road) -> None:
    many = [Dictionary(b"number %d" % number) for number in range(10)]
    road.declare()
    for seq, one in enumerate(many, start=1):
        issue(road, one)
        road.arrive(packed(batch(seq, seq, seq + 1), one))
    shelf = Dictionaries(road.stores.journal, kept=4)
    with road.stores.journal.read() as connection:
        rows = connection.execute(batches.select().order_by(batches.c.seq)).all()
    for row in (*rows, *rows):
        body = shelf.find({(GATEWAY, row.dictionary)}).unpack(GATEWAY, row)
        assert body == batch(row.seq, row.seq, row.seq + 1).body
    assert len(shelf._compiled) == 4


def test_one_that_came_from_the_gateway_is_journalled_once_and_never_changed(road: Road) -> None:
    road.hello()
    for said in (MINE, THEIRS, MINE):
        sent = wire.Dictionary(sha256=said.sha256, data=said.data, schema=1)
        road._commit(DictionaryEntry(GATEWAY, road._session(GATEWAY), sent, 7))
    with road.stores.journal.read() as connection:
        rows = connection.execute(dictionaries.select().order_by(dictionaries.c.number)).all()
    assert [(row.id, row.batches, row.retired_ms) for row in rows] == [(MINE.id, 0, 7), (THEIRS.id, 0, None)]
    start = road.journal.open_session(GATEWAY, wire.Hello(run_id=b"r" * 16, boot_id=b"b" * 16), now_ms=1)
    assert start.dictionaries == {MINE.id, THEIRS.id}
