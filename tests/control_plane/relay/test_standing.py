"""A destination that is away, in maintenance, in shadow mode or paused; and versions that need not be sent any more."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from control_plane.errors import Conflict
from control_plane.reconcile.versions import Wanted, settle
from control_plane.relay import acts
from control_plane.relay.acts import Act
from control_plane.simulators.erp import ErpServer
from control_plane.store.tables import event, outbox, relay_act, relay_health
from tests.control_plane.relay.conftest import Relay, drain
from tests.control_plane.relay.far_side import Answer, Sink


def changed(relay: Relay, **settings: Any) -> None:
    relay.destination = msgspec.structs.replace(relay.destination, **settings)


def health(relay: Relay) -> tuple[str, int | None, str]:
    with relay.store.read() as connection:
        row = connection.execute(select(relay_health)).one()
    return row.state, row.until_ms, row.why


def act(relay: Relay, reason: str = "the master data is mended") -> Act:
    return Act("erp", "ana", reason, relay.clock.now_ms())


def told(relay: Relay, number: int, *, entity: str = "trip-1", type_: str = "comboio.test.happened.v1") -> None:
    """One more version of an entity; a negative number takes it back."""
    wanted = Wanted(entity, type_, "truck", 1, 1, {"number": number}, final=True)
    with relay.store.write() as connection:
        standing = connection.execute(select(event).where(event.c.entity_id == entity, event.c.current)).all()
        some = [] if number < 0 else [wanted]
        settle(
            connection, wanted=some, standing=standing, destinations=[relay.destination], now_ms=relay.clock.now_ms()
        )


# --- away ----------------------------------------------------------------------------------------------


async def test_a_destination_that_is_away_is_left_alone_and_costs_no_attempts(to_sink: Relay, sink: Sink) -> None:
    sink.respond = lambda _: Answer(502)
    changed(to_sink, breaker_failures=4)
    to_sink.post(**{f"truck-{number}": 1 for number in range(40)})
    deliverer = to_sink.start()
    await drain(deliverer)
    assert 4 <= len(sink.requests) <= 8  # as many as were under way together
    assert health(to_sink)[0] == "open"
    before = len(sink.requests)
    for hours in range(30):
        to_sink.clock.forward(seconds=3600)
        await drain(deliverer)
        assert len(sink.requests) == before + hours + 1  # one tries
    assert "parked" not in to_sink.states()
    assert max(row.attempt for row in to_sink.rows()) <= 2
    sink.respond = lambda _: Answer()
    to_sink.clock.forward(seconds=3600)
    await drain(deliverer)
    to_sink.clock.forward(seconds=3600)
    await drain(deliverer)
    assert set(to_sink.states()) == {"delivered"}
    assert health(to_sink) == ("running", None, "")


async def test_nothing_is_begun_in_maintenance(to_sink: Relay, sink: Sink) -> None:
    changed(to_sink, maintenance=("daily 00:00-00:00",))
    to_sink.post(truck=2)
    await drain(to_sink.start())
    assert (sink.requests, health(to_sink)[0]) == ([], "maintenance")


async def test_paused_deliveries_gather_and_go_when_it_is_live_again(to_sink: Relay, sink: Sink) -> None:
    changed(to_sink, mode="paused")
    to_sink.post(truck=3)
    await drain(to_sink.start())
    assert (sink.requests, health(to_sink)[0]) == ([], "paused")
    changed(to_sink, mode="live")
    await drain(to_sink.start())
    assert to_sink.states() == ["delivered"] * 3


async def test_no_more_begin_a_second_than_the_rate_allows(to_sink: Relay, sink: Sink) -> None:
    changed(to_sink, per_s=5.0)
    to_sink.post(truck=20, van=20)
    deliverer = to_sink.start()
    for second in range(4):
        await drain(deliverer)
        assert 5 * (second + 1) <= len(sink.requests) <= 5 * (second + 2)
        to_sink.clock.forward(seconds=1)


# --- shadow --------------------------------------------------------------------------------------------


async def test_in_shadow_mode_nothing_is_sent_until_a_key_is_cut_over(relay: Relay, erp: ErpServer) -> None:
    changed(relay, mode="shadow")
    relay.post(truck=2, van=2)
    await drain(relay.start())
    assert erp.ledger.report()["effects"] == []
    assert {(row.state, row.last_class) for row in relay.rows()} == {("shadowed", "SHADOW_UNKNOWN")}
    acts.cut_over(relay.store, act(relay, "the truck first"), ["truck"])
    relay.post(truck=1, van=1, start=3)
    await drain(relay.start())
    assert [effect["subject"] for effect in erp.ledger.report()["effects"]] == ["truck"]
    acts.cut_over(relay.store, act(relay, "all goes well"), ["*"])
    relay.post(van=1, start=4)
    await drain(relay.start())
    assert [effect["subject"] for effect in erp.ledger.report()["effects"]] == ["truck", "van"]


# --- versions that need not be sent any more -----------------------------------------------------------


async def test_a_version_not_sent_yet_is_left_out_when_a_newer_one_comes(relay: Relay, erp: ErpServer) -> None:
    for number in (1, 2, 3):
        told(relay, number)
    await drain(relay.start())
    assert relay.states() == ["superseded", "superseded", "delivered"]
    (effect,) = erp.ledger.report()["effects"]
    assert (effect["data"], effect["change"], "supersedes" in effect) == ({"number": 3}, "create", False)
    told(relay, 4)
    await drain(relay.start())
    last = erp.ledger.report()["effects"][-1]
    assert (last["change"], last["supersedes"][-3:], last["entityversion"]) == ("supersede", "_v3", 4)


async def test_what_was_taken_back_before_it_was_sent_is_never_mentioned(relay: Relay, erp: ErpServer) -> None:
    told(relay, 1)
    told(relay, -1)
    await drain(relay.start())
    assert (relay.states(), erp.ledger.report()["effects"]) == (["superseded"], [])


@pytest.mark.parametrize("state", ["inflight", "unknown", "parked", "delivered"])
async def test_what_may_have_arrived_or_waits_for_a_person_is_not_left_out(relay: Relay, state: str) -> None:
    told(relay, 1)
    with relay.store.write() as connection:
        connection.execute(outbox.update().values(state=state, sent_ms=relay.clock.now_ms()))
    told(relay, 2)
    assert relay.states() == [state, "pending"]


async def test_stock_moves_are_all_told(relay: Relay, erp: ErpServer) -> None:
    for number in (1, 2):
        told(relay, number, type_="comboio.stock.moved.v1")
    await drain(relay.start())
    assert [effect["data"]["number"] for effect in erp.ledger.report()["effects"]] == [1, 2]


# --- people --------------------------------------------------------------------------------------------


async def test_a_skipped_delivery_lets_its_key_go_on_and_is_written_down(to_sink: Relay, sink: Sink) -> None:
    sink.respond = lambda request: Answer(422 if request.event["data"]["number"] == 1 else 200)
    to_sink.post(truck=2)
    await drain(to_sink.start())
    assert to_sink.states() == ["parked", "pending"]
    first, _ = to_sink.rows()
    acts.skip(to_sink.store, act(to_sink, "entered by hand"), first.event_id)
    await drain(to_sink.start())
    assert to_sink.states() == ["skipped", "delivered"]
    with to_sink.store.read() as connection:
        said = connection.execute(select(relay_act)).one()
    assert (said.actor, said.act, said.event_id, said.reason) == ("ana", "skip", first.event_id, "entered by hand")
    with pytest.raises(Conflict, match="is skipped"):
        acts.skip(to_sink.store, act(to_sink), first.event_id)


async def test_a_fixed_delivery_goes_with_the_persons_data_and_what_it_said_is_kept(to_sink: Relay, sink: Sink) -> None:
    sink.respond = lambda request: Answer(422 if request.event["data"] == {"number": 1} else 200)
    to_sink.post(truck=2)
    await drain(to_sink.start())
    first, _ = to_sink.rows()
    acts.fix(to_sink.store, act(to_sink, "wrong unit"), first.event_id, {"number": 1, "unit": "kg"})
    await drain(to_sink.start())
    assert to_sink.states() == ["delivered", "delivered"]
    fixed = sink.requests[1].event
    assert (fixed["id"], fixed["data"], fixed["fixedby"]) == (first.event_id, {"number": 1, "unit": "kg"}, "ana")
    with to_sink.store.read() as connection:
        assert connection.execute(select(relay_act.c.body)).scalar_one() == first.body


async def test_a_replay_since_a_moment_keeps_ids_and_has_no_second_effect(relay: Relay, erp: ErpServer) -> None:
    relay.post(truck=3, van=2)
    await drain(relay.start())
    everything = act(relay, "the ERP was restored from yesterday")
    assert acts.replay_since(relay.store, everything, since_ms=0, types=["comboio.other.v1"]) == 0
    assert acts.replay_since(relay.store, everything, since_ms=0, dry_run=True) == 5
    assert set(relay.states()) == {"delivered"}
    assert acts.replay_since(relay.store, everything, since_ms=0) == 5
    await drain(relay.start())
    report = erp.ledger.report()
    assert (len(report["effects"]), len(report["repeated"]), report["conflicts"]) == (5, 5, [])
    assert set(relay.states()) == {"delivered"}
