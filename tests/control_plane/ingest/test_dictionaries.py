"""Dictionaries on the stream: brought once, asked for when they are missing, never acknowledged without."""

from __future__ import annotations

import asyncio
import random

import pytest

from control_plane.journal.dictionaries import Issue, Issued
from control_plane.store.tables import batch as batches
from control_plane.store.tables import dictionary as dictionaries
from protos.columns import Dictionary
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.ingest.conftest import Box, Plane, hello
from tests.control_plane.sealing import GATEWAY, OTHER, batch, packed

FIRST, SECOND = Dictionary(b"what the first bodies were like"), Dictionary(b"what they are like now")


def issue(plane: Plane, dictionary: Dictionary, gateway: str = GATEWAY) -> None:
    issued = Issued(plane.stores.journal)
    assert issued.issue(gateway, Issue(dictionary, schema=1, batches=60, saving=0.2, made_ms=5))


def on_the_wire(dictionary: Dictionary) -> wire.Dictionary:
    return wire.Dictionary(sha256=dictionary.sha256, data=dictionary.data, schema=1)


async def told(box: Box) -> wire.Dictionary:
    """The next dictionary, whatever acks come before it."""
    while (answer := await box.hear()).WhichOneof("msg") != "dictionary":
        assert answer.WhichOneof("msg") == "ack", answer
    return answer.dictionary


async def asked(box: Box) -> list[int]:
    while not (answer := await box.hear()).ack.need_dictionaries:
        assert answer.WhichOneof("msg") == "ack", answer
    return list(answer.ack.need_dictionaries)


async def nothing_more(box: Box, seq: int) -> None:
    """Several looks later the next that comes is the ack of another batch."""
    await asyncio.sleep(0.3)
    await box.send(batch(seq, 10))
    await box.acked(seq)


async def test_a_gateway_that_lacks_its_dictionary_gets_it_after_welcome(plane: Plane) -> None:
    issue(plane, FIRST)
    issue(plane, SECOND, OTHER)
    async with plane.ready_box() as box:
        assert await told(box) == on_the_wire(FIRST)
        await box.send(packed(batch(1, 10, 20), FIRST))
        await box.acked(1)
    async with plane.ready_box() as box:  # it was lost on the way: the next Hello lacks it
        assert await told(box) == on_the_wire(FIRST)


async def test_one_that_hello_names_is_not_sent_nor_one_to_a_gateway_that_takes_none(plane: Plane) -> None:
    issue(plane, FIRST)
    async with plane.ready_box(hello(dictionaries=[FIRST.id])) as box:
        await nothing_more(box, 1)
    older = hello()
    older.ClearField("codecs")
    async with plane.ready_box(older) as box:
        await nothing_more(box, 2)


async def test_a_new_one_reaches_a_connected_gateway_once(plane: Plane) -> None:
    issue(plane, FIRST)
    async with plane.ready_box(hello(dictionaries=[FIRST.id])) as box:
        await box.send(packed(batch(1, 10), FIRST))
        await box.acked(1)
        issue(plane, SECOND)
        assert await told(box) == on_the_wire(SECOND)
        await box.send(packed(batch(2, 20), FIRST), packed(batch(3, 30), SECOND))
        await box.acked(3)
        await nothing_more(box, 4)
    retired = {row.id: row.retired_ms for row in plane.rows(dictionaries)}
    assert retired == {FIRST.id: 5, SECOND.id: None}


async def test_a_batch_of_an_unknown_dictionary_is_asked_about_and_acknowledged_only_with_it(plane: Plane) -> None:
    async with plane.ready_box(hello(dictionaries=[FIRST.id])) as box:
        await box.send(packed(batch(1, 10, 20), FIRST), packed(batch(2, 30), FIRST), batch(3, 40))
        assert await asked(box) == [FIRST.id]
        await box.acked(0, (3, 3))
        assert [row.seq for row in plane.rows(batches)] == [3]
        await box.say(dictionary=on_the_wire(FIRST))
        await box.send(packed(batch(1, 10, 20), FIRST), packed(batch(2, 30), FIRST))
        await box.acked(3)
    (held,) = plane.rows(dictionaries)
    assert (held.gateway, held.id, bytes(held.data)) == (GATEWAY, FIRST.id, FIRST.data)
    async with plane.ready_box(hello(dictionaries=[FIRST.id])) as box:  # known again in the next session
        await box.send(packed(batch(4, 50), FIRST))
        await box.acked(4)


async def test_a_dictionary_the_disk_refuses_acknowledges_nothing(plane: Plane) -> None:
    large = Dictionary(random.Random(1).randbytes(60_000))
    async with plane.ready_box() as box:
        await box.send(packed(batch(1, 10), large))
        assert await asked(box) == [large.id]
        with plane.full_disk():
            await box.say(dictionary=on_the_wire(large))
            await box.send(packed(batch(1, 10), large))
            assert (await box.goodbye()).reason == wire.GOODBYE_STORAGE
    assert not plane.rows(batches)
    known = bool(plane.rows(dictionaries))  # it may have been committed before the batch was refused
    async with plane.ready_box(hello(dictionaries=[large.id])) as box:  # else it might be sent one that is known
        await box.send(packed(batch(1, 10), large))
        if not known:
            assert await asked(box) == [large.id]
            await box.say(dictionary=on_the_wire(large))
            await box.send(packed(batch(1, 10), large))
        await box.acked(1)
    assert [row.id for row in plane.rows(dictionaries)] == [large.id]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (on_the_wire(SECOND), "was not asked for"),
        (wire.Dictionary(sha256=FIRST.sha256, data=SECOND.data), "is damaged"),
        (wire.Dictionary(sha256=FIRST.sha256), "a dictionary of 0 bytes"),
    ],
)
async def test_what_was_not_asked_for_ends_the_stream(plane: Plane, said: wire.Dictionary, why: str) -> None:
    async with plane.ready_box() as box:
        await box.send(packed(batch(1, 10), FIRST))
        assert await asked(box) == [FIRST.id]
        await box.say(dictionary=said)
        goodbye = await box.goodbye()
    assert goodbye.reason == wire.GOODBYE_PROTOCOL
    assert why in goodbye.text
    assert not plane.rows(dictionaries)
