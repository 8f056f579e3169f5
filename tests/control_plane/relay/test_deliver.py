"""Order, retries and unknown outcomes, towards real HTTP on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter

import msgspec
import pytest

from control_plane.errors import Conflict, Fenced, NotFound
from control_plane.relay.acts import Act, replay
from control_plane.simulators.erp import ErpServer
from control_plane.store.engine import Store
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.relay.conftest import Killed, Relay, drain, eventually, killed_at
from tests.control_plane.relay.far_side import Answer, Request, Sink

CLAIMED = 2  # the first write says how the destination is found, the second takes keys
UNTIL_NEXT_LEASE_S = 11  # timeout 5 s + margin 5 s, and a little


def effects(erp: ErpServer) -> dict[str, list[int]]:
    """Key → numbers of its events, in the order they took effect."""
    found: dict[str, list[int]] = {}
    for effect in erp.ledger.report()["effects"]:
        found.setdefault(effect["subject"], []).append(effect["data"]["number"])
    return found


# --- the ordinary --------------------------------------------------------------------------------------


async def test_everything_is_delivered_once_and_in_order_per_key(relay: Relay, erp: ErpServer) -> None:
    relay.post(truck=5, van=3, depot=1)
    await drain(relay.start())
    assert effects(erp) == {"truck": [1, 2, 3, 4, 5], "van": [1, 2, 3], "depot": [1]}
    assert erp.ledger.report()["repeated"] == {}
    assert set(relay.states()) == {"delivered"}
    assert {row.erp_id for row in relay.rows()} == {e["document"] for e in erp.ledger.report()["effects"]}
    assert Counter(row.outcome for row in relay.attempts()) == {"OK": 9}
    relay.post(start=6, truck=1)
    await drain(relay.start())
    assert effects(erp)["truck"] == [1, 2, 3, 4, 5, 6]


async def test_inflight_and_the_attempt_are_durable_before_the_first_byte(to_sink: Relay, sink: Sink) -> None:
    seen: list[tuple[str, int, list[str | None]]] = []

    def look(_: Request) -> Answer:
        (row,) = to_sink.rows()
        seen.append((row.state, row.attempt, [one.outcome for one in to_sink.attempts()]))
        return Answer()

    sink.respond = look
    to_sink.post(truck=1)
    await drain(to_sink.start())
    assert seen == [("inflight", 1, [None])]


async def test_a_slow_key_holds_up_no_other(to_sink: Relay, sink: Sink) -> None:
    let_go = threading.Event()

    def slow_truck(request: Request) -> Answer:
        if request.event["subject"] == "truck":
            let_go.wait(10)
        return Answer()

    sink.respond = slow_truck
    to_sink.destination = msgspec.structs.replace(to_sink.destination, concurrency=2)
    to_sink.post(truck=2, **{f"van-{i}": 2 for i in range(5)})
    deliverer = to_sink.start()
    try:
        await eventually(lambda: to_sink.states().count("delivered") == 10, deliverer.step)
        assert [row.state for row in to_sink.rows() if row.key == "truck"] == ["inflight", "pending"]
    finally:
        let_go.set()
    await drain(deliverer)
    assert set(to_sink.states()) == {"delivered"}


# --- it did not arrive ---------------------------------------------------------------------------------


async def test_retries_follow_the_profile_with_jitter_then_the_row_is_parked(to_sink: Relay, sink: Sink) -> None:
    sink.respond = lambda _: Answer(502)
    to_sink.post(truck=2)
    deliverer = to_sink.start()
    for number, wait_s in ((1, 10), (2, 100)):
        await drain(deliverer)
        assert len(sink.requests) == number
        row = to_sink.rows()[0]
        assert row.state == "retry"
        assert wait_s / 2 <= (row.next_at_ms - to_sink.clock.now_ms()) / 1000 <= wait_s
        to_sink.clock.at_ms = row.next_at_ms - 1
        await drain(deliverer)
        assert len(sink.requests) == number
        to_sink.clock.at_ms = row.next_at_ms
    await drain(deliverer)
    assert to_sink.states() == ["parked", "pending"]
    assert {request.headers["webhook-id"] for request in sink.requests} == {to_sink.rows()[0].event_id}


async def test_retry_after_is_honoured_when_it_is_longer(to_sink: Relay, sink: Sink) -> None:
    sink.respond = lambda _: Answer(503, (("retry-after", "3600"),))
    to_sink.post(truck=1)
    await drain(to_sink.start())
    assert to_sink.rows()[0].next_at_ms == to_sink.clock.now_ms() + 3_600_000


async def test_retry_after_beyond_reason_is_not_believed(to_sink: Relay, sink: Sink) -> None:
    sink.respond = lambda _: Answer(429, (("retry-after", "999999999999"),))
    to_sink.post(truck=1)
    await drain(to_sink.start())
    assert to_sink.rows()[0].next_at_ms == to_sink.clock.now_ms() + 86_400_000


async def test_what_can_never_pass_is_parked_and_blocks_its_key_alone(relay: Relay, erp: ErpServer) -> None:
    relay.destination = msgspec.structs.replace(relay.destination, concurrency=1)
    relay.post(truck=2)
    erp.behaviour.set({"fail": "400", "for": 1})
    deliverer = relay.start()
    await drain(deliverer)
    relay.post(van=2)
    await drain(deliverer)
    assert [(row.key, row.state) for row in relay.rows()] == [
        ("truck", "parked"),
        ("truck", "pending"),
        ("van", "delivered"),
        ("van", "delivered"),
    ]
    relay.post(start=3, truck=1)
    await drain(deliverer)
    assert effects(erp) == {"van": [1, 2]}


async def test_a_replayed_event_goes_first_and_its_key_goes_on(relay: Relay, erp: ErpServer) -> None:
    relay.post(truck=2)
    erp.behaviour.set({"fail": "410", "for": 1})
    deliverer = relay.start()
    await drain(deliverer)
    parked = relay.rows()[0].event_id
    act = Act("erp", "ana", "mended", relay.clock.now_ms())
    replay(relay.store, act, parked)
    with pytest.raises(Conflict, match="on its way already"):
        replay(relay.store, act, parked)
    with pytest.raises(NotFound):
        replay(relay.store, act, "evt_nobody")
    await drain(deliverer)
    assert effects(erp) == {"truck": [1, 2]}


async def test_replaying_what_was_delivered_has_no_second_effect(relay: Relay, erp: ErpServer) -> None:
    relay.post(truck=2)
    deliverer = relay.start()
    await drain(deliverer)
    first = relay.rows()[0]
    replay(relay.store, Act("erp", "ana", "asked for", relay.clock.now_ms()), first.event_id)
    await drain(deliverer)
    assert effects(erp) == {"truck": [1, 2]}
    assert erp.ledger.report()["repeated"] == {first.event_id: 2}
    assert relay.rows()[0].erp_id == first.erp_id


async def test_a_wrong_secret_pauses_the_destination_and_burns_no_attempt(relay: Relay, erp: ErpServer) -> None:
    relay.destination = msgspec.structs.replace(relay.destination, concurrency=1)
    relay.post(truck=1, van=1)
    erp.behaviour.set({"fail": "401", "for": 1})
    deliverer = relay.start()
    await drain(deliverer)
    assert [row.attempt for row in relay.rows()] == [0, 0]
    assert len(relay.attempts()) == 1
    relay.clock.forward(seconds=59)
    await drain(deliverer)
    assert len(relay.attempts()) == 1
    relay.clock.forward(seconds=2)
    await drain(deliverer)
    assert effects(erp) == {"truck": [1], "van": [1]}


# --- it may have arrived -------------------------------------------------------------------------------


@pytest.mark.parametrize("fail", ["after_commit", "reset", "500", "timeout"])
async def test_an_unknown_outcome_rests_for_the_grace_and_is_sent_again_under_its_id(
    relay: Relay, erp: ErpServer, fail: str
) -> None:
    relay.destination = msgspec.structs.replace(relay.destination, timeout_s=0.3)
    relay.post(truck=2)
    erp.behaviour.set({"fail": fail, "for": 1})
    deliverer = relay.start()
    await drain(deliverer)
    assert [(row.state, row.last_class) for row in relay.rows()] == [("unknown", "AMBIGUOUS"), ("pending", None)]
    relay.clock.forward(seconds=59)
    await drain(deliverer)
    assert len(relay.attempts()) == 1
    relay.clock.forward(seconds=2)
    await drain(deliverer)
    assert relay.states() == ["delivered", "delivered"]
    report = erp.ledger.report()
    assert effects(erp) == {"truck": [1, 2]}
    assert report["repeated"] == ({relay.rows()[0].event_id: 2} if fail == "after_commit" else {})
    assert report["conflicts"] == []


# --- kills ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("committed", [False, True])
async def test_a_kill_at_any_commit_has_one_effect_per_event_in_order(
    relay: Relay, erp: ErpServer, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    async def play(key: str, number: int) -> int:
        relay.post(**{key: 3})
        with killed_at(monkeypatch, number, committed=committed) as count:
            victim = relay.start()
            with contextlib.suppress(Killed):
                await drain(victim)
        successor = relay.start()
        for _ in range(3):  # the lease, then the grace
            relay.clock.forward(seconds=max(UNTIL_NEXT_LEASE_S, relay.destination.grace_s))
            await drain(successor)
        return len(count)

    commits = await play("quiet", 0)
    assert commits >= 5
    for number in range(1, commits + 1):
        await play(f"killed-{number}", number)
    assert set(relay.states()) == {"delivered"}
    assert set(map(tuple, effects(erp).values())) == {(1, 2, 3)}
    assert len(effects(erp)) == commits + 1
    assert erp.ledger.report()["conflicts"] == []
    if committed:  # sent or not, nobody knew: the same ids came again
        assert len(relay.attempts()) > 3 * (commits + 1)


async def test_a_killed_relay_delays_its_keys_by_one_answers_time_and_a_margin(
    to_sink: Relay, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_sink.post(truck=1)
    with killed_at(monkeypatch, CLAIMED, committed=True), pytest.raises(Killed):  # claimed, and no more
        await drain(to_sink.start())
    successor = to_sink.start()
    to_sink.clock.forward(seconds=9)
    await drain(successor)
    assert sink.requests == []
    to_sink.clock.forward(seconds=2)
    await drain(successor)
    assert len(sink.requests) == 1


async def test_stopping_lets_the_row_under_way_end_and_begins_no_other(to_sink: Relay, sink: Sink) -> None:
    arrived, let_go = threading.Event(), threading.Event()

    def hold(_: Request) -> Answer:
        arrived.set()
        let_go.wait(10)
        return Answer()

    sink.respond = hold
    to_sink.post(truck=2)
    deliverer = to_sink.start()
    await eventually(arrived.is_set, deliverer.step)
    closing = asyncio.create_task(deliverer.close())
    await asyncio.sleep(0)
    let_go.set()
    await closing
    assert to_sink.states() == ["delivered", "pending"]
    await drain(to_sink.start())  # at once: the lease was given back
    assert to_sink.states() == ["delivered", "delivered"]


# --- several relays ------------------------------------------------------------------------------------


async def test_two_relays_never_have_one_key_at_once(to_sink: Relay, sink: Sink) -> None:
    busy: Counter[str] = Counter()
    worst: Counter[str] = Counter()
    lock = threading.Lock()

    def watch(request: Request) -> Answer:
        key = request.event["subject"]
        with lock:
            busy[key] += 1
            worst[key] = max(worst[key], busy[key])
        threading.Event().wait(0.002)
        with lock:
            busy[key] -= 1
        return Answer()

    sink.respond = watch
    to_sink.post(**{f"key-{i}": 4 for i in range(15)})
    relays = [to_sink.start(seed=seed) for seed in (1, 2)]
    await asyncio.gather(*(eventually(lambda: set(to_sink.states()) == {"delivered"}, one.step) for one in relays))
    assert max(worst.values()) == 1
    assert len(sink.requests) == len({request.headers["webhook-id"] for request in sink.requests}) == 60
    by_key: dict[str, list[int]] = {}
    for request in sink.requests:
        by_key.setdefault(request.event["subject"], []).append(request.event["data"]["number"])
    assert set(map(tuple, by_key.values())) == {(1, 2, 3, 4)}
    assert all(one.delivered > 0 for one in relays)


async def test_a_relay_that_lost_its_lease_writes_nothing_more(to_sink: Relay, sink: Sink) -> None:
    """It was slow: its successor finds the row in flight, rests it, and sends it again under the same id."""
    arrived, let_go = threading.Event(), threading.Event()

    def slow_once(_: Request) -> Answer:
        if not arrived.is_set():
            arrived.set()
            let_go.wait(10)
        return Answer()

    sink.respond = slow_once
    to_sink.post(truck=2)
    slow, successor = to_sink.start(), to_sink.start()
    await eventually(arrived.is_set, slow.step)
    to_sink.clock.forward(seconds=UNTIL_NEXT_LEASE_S)
    await drain(successor)
    assert to_sink.states() == ["unknown", "pending"]
    let_go.set()
    await drain(slow)
    assert slow.delivered == 1  # so it was told, and it could not write it down
    assert to_sink.states() == ["unknown", "pending"]
    to_sink.clock.forward(seconds=to_sink.destination.grace_s)
    await drain(successor)
    assert to_sink.states() == ["delivered", "delivered"]
    assert [request.event["data"]["number"] for request in sink.requests] == [1, 1, 2]
    assert sink.requests[0].body == sink.requests[1].body


async def test_a_relay_that_stood_still_sends_nothing_late(
    to_sink: Relay, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by the kernel between its commit and the first byte."""
    to_sink.post(truck=1)
    own = TurnedClock(to_sink.clock.now_ms())
    stalled = to_sink.start(clock=own)
    write = Store.write

    def writes_and_stalls(store: Store) -> object:
        if to_sink.states() == ["pending"] and own.now_ms() == to_sink.clock.now_ms() and len(calls) == CLAIMED:
            own.forward(seconds=10)
        calls.append(1)
        return write(store)

    calls: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", writes_and_stalls)
        with pytest.raises(Fenced, match="stopped for so long"):
            await drain(stalled)
    assert (sink.requests, to_sink.states()) == ([], ["inflight"])


async def test_an_event_posted_while_its_key_is_given_back_is_not_forgotten(relay: Relay, erp: ErpServer) -> None:
    relay.post(truck=1)
    deliverer = relay.start()
    posting, posted = threading.Event(), threading.Event()

    def post_slowly() -> None:
        from control_plane.reconcile.versions import Wanted, settle

        with relay.store.write() as connection:
            wanted = Wanted("late", "comboio.test.happened.v1", "truck", 5, 5, {"number": 2}, final=True)
            settle(connection, wanted=[wanted], standing=[], destinations=[relay.destination], now_ms=5)
            posting.set()
            posted.wait(0.3)

    erp.behaviour.set({"latency_ms": 100})
    thread = threading.Thread(target=post_slowly)
    first = asyncio.create_task(deliverer.step())
    await eventually(lambda: relay.states() == ["inflight"])
    thread.start()
    await asyncio.to_thread(posting.wait)
    await first
    await drain(deliverer)
    await asyncio.to_thread(thread.join)
    await drain(deliverer)
    assert effects(erp) == {"truck": [1, 2]}
