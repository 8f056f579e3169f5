"""GET /live: what happens is told as it happens, to whom it may be told, and nothing is passed over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import delete, insert, update

from control_plane.api.broadcast import Broadcaster, Lifetime
from control_plane.api.feed import Mark
from control_plane.fleet.accounts import Accounts, Role
from control_plane.store.engine import Stores
from control_plane.store.tables import attempt, gateway_group_member, outbox, state
from tests.control_plane.api.editing import Api, gateway, group
from tests.control_plane.api.test_subjects import keep_event
from tests.control_plane.conftest import START_MS
from tests.control_plane.web.seeding import Box, project
from tests.control_plane.web.seeding import group as sensor

HOSTILE = 'a"\r\n\r\nid: 9\u2028\x85<b>'


class Message:
    """One that was dispatched: a frame without data only moves the id."""

    def __init__(self, frame: str) -> None:
        fields = [line.partition(": ") for line in frame.split("\n") if line and not line.startswith(":")]
        self.id = next((text for name, _, text in fields if name == "id"), "")
        self.kind = next((text for name, _, text in fields if name == "event"), "")
        self.data: Any = json.loads("\n".join(text for name, _, text in fields if name == "data") or "null")


class Listener:
    """A client of the stream, that stops listening when it has heard what it waited for."""

    def __init__(self, frames: Iterator[bytes]) -> None:
        self._frames = frames
        self.last_id = ""
        assert next(frames).startswith(b"retry:")

    def hear(self) -> Message:
        heard = Message(next(self._frames).decode())
        self.last_id = heard.id or self.last_id
        return heard

    def standing(self) -> list[Message]:
        """What stands or was missed: up to the first id."""
        found: list[Message] = []
        while not (heard := self.hear()).id:
            found.append(heard)
        assert heard.data is None
        return found

    def ended(self) -> bool:
        return list(self._frames) == []


@pytest.fixture
def token(accounts: Accounts) -> str:
    return accounts.create_token(name="listener", role=Role.VIEWER).token


@pytest.fixture
def listening(client: FlaskClient, token: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("control_plane.api.feed.STANDINGS_EVERY_S", 0.0)
    monkeypatch.setattr("control_plane.api.feed.STANDINGS_ANYWAY_S", 0.0)

    @contextmanager
    def opened(query: str = "", *, last_id: str = "", token: str = token) -> Iterator[Listener]:
        headers = {"Authorization": f"Bearer {token}"} | ({"Last-Event-ID": last_id} if last_id else {})
        with client.get(f"/api/v1/live{query}", headers=headers, buffered=False) as answer:
            assert answer.status_code == 200
            assert answer.content_type == "text/event-stream"
            yield Listener(answer.iter_encoded())

    return opened


@pytest.fixture
def broadcaster(lifetime: Lifetime, last_look: None) -> Broadcaster:
    return Broadcaster(limit=2, lifetime=lifetime, every_s=0.02)


def deliver(stores: Stores, number: int, gw: str, *, outcome: str | None = None) -> None:
    """One attempt to send an event."""
    name = f"evt_{number:03}_v1"
    state_ = "delivered" if outcome == "OK" else "inflight"
    with stores.business.write() as connection:
        row = {"dest": "erp", "key": f"{gw}/cooling/temperature", "seq": number, "event_id": name, "ext_ref": ""}
        more = {"body": b"", "body_sha256": "", "next_at_ms": START_MS, "created_ms": START_MS, "state": state_}
        connection.execute(insert(outbox).values(**row, **more))
        tried = {"dest": "erp", "event_id": name, "number": 1, "started_ms": START_MS, "bytes": 1, "outcome": outcome}
        connection.execute(insert(attempt).values(**tried))


def answered(stores: Stores, number: int) -> None:
    name = f"evt_{number:03}_v1"
    with stores.business.write() as connection:
        connection.execute(update(attempt).where(attempt.c.event_id == name).values(outcome="OK", status=200))
        connection.execute(update(outbox).where(outbox.c.event_id == name).values(state="delivered"))


def test_a_gateways_states_are_told_as_they_stand_and_as_they_change(
    listening: Any, admin: Api, stores: Stores, clock: Any
) -> None:
    gw = gateway(admin, "truck")
    with listening("?kind=gateway") as listener:
        (first,) = listener.standing()
        assert (first.kind, first.data["gateway"], first.data["status"]) == ("gateway", gw, "never")
        box = Box(stores, clock, gw, boot_ms=START_MS)
        box.connect()
        assert listener.hear().data == {
            "gateway": gw,
            "name": "truck",
            "asset": None,
            "status": "online",
            "why": "fine",
            "configuration": None,
        }
        clock.forward(seconds=120)
        assert listener.hear().data["why"] == "quiet"


def test_the_newest_values_are_told_once_they_are_projected(
    listening: Any, admin: Api, stores: Stores, clock: Any
) -> None:
    gw = gateway(admin, "truck")
    box = Box(stores, clock, gw, boot_ms=START_MS - 60_000)
    box.connect()
    box.declare(sensor(1, "cooling", 1000, ("supply_temperature", "Cel", 1)))
    box.anchor()
    box.read(1, [START_MS - 2000], [41])
    project(stores, clock)
    with listening("?kind=values") as listener:
        (first,) = listener.standing()
        assert first.data["gateway"] == gw
        clock.forward(seconds=1)
        box.read(1, [START_MS - 1000], [42])
        project(stores, clock)
        heard = listener.hear()
        (value,) = heard.data["values"]
        assert (heard.kind, value["sensor"], value["value"]) == ("values", "cooling", 4.2)
        assert (value["unit"], value["quality"], value["time"]) == ("Cel", "good", "2025-11-22T09:59:59Z")


def test_events_and_deliveries_are_told_as_they_are_recorded(listening: Any, admin: Api, stores: Stores) -> None:
    gw = gateway(admin, "truck")
    keep_event(stores, 1, subject=f"{gw}/cooling/temperature")
    deliver(stores, 1, gw, outcome="OK")
    with listening("?kind=event&kind=delivery") as listener:
        assert listener.standing() == []  # what is there already is no news
        keep_event(stores, 2, subject=f"{gw}/cooling/temperature", data=json.dumps({HOSTILE: HOSTILE}))
        told = listener.hear()
        assert (told.kind, told.data["id"], told.data["data"]) == ("event", "evt_002_v1", {HOSTILE: HOSTILE})
        deliver(stores, 2, gw)
        told = listener.hear()
        assert (told.kind, told.data["id"], told.data["state"]) == ("delivery", "erp:evt_002_v1", "inflight")
        answered(stores, 2)
        told = listener.hear()
        assert (told.data["id"], told.data["state"], len(told.data["attempts"])) == ("erp:evt_002_v1", "delivered", 1)


def test_what_is_committed_late_under_an_earlier_time_is_told_all_the_same(listening: Any, stores: Stores) -> None:
    with listening("?kind=event") as listener:
        listener.standing()
        keep_event(stores, 9, subject="gw-x")
        assert listener.hear().data["id"] == "evt_009_v1"
        keep_event(stores, 3, subject="gw-x", recorded_ms=START_MS - 500)
        assert listener.hear().data["id"] == "evt_003_v1"


def test_who_comes_back_with_the_last_id_hears_everything_meanwhile(listening: Any, admin: Api, stores: Stores) -> None:
    gw = gateway(admin, "truck")
    with listening("?kind=event&kind=delivery") as listener:
        listener.standing()
        keep_event(stores, 1, subject=gw)
        deliver(stores, 1, gw)
        assert {listener.hear().kind, listener.hear().kind} == {"event", "delivery"}
        last = listener.last_id
    answered(stores, 1)
    for number in range(2, 1203):
        keep_event(stores, number, subject=gw, recorded_ms=START_MS + number * 1000)
    deliver(stores, 2, gw, outcome="OK")
    with listening("?kind=event&kind=delivery", last_id=last) as listener:
        missed = listener.standing()
        events = [one.data["id"] for one in missed if one.kind == "event"]
        assert events == [f"evt_{number:03}_v1" for number in range(1, 1203)]  # the first again, and in order
        sent = {one.data["id"]: one.data["state"] for one in missed if one.kind == "delivery"}
        assert sent == {"erp:evt_001_v1": "delivered", "erp:evt_002_v1": "delivered"}
        keep_event(stores, 5000, subject=gw, recorded_ms=START_MS + 5_000_000)
        assert listener.hear().data["id"] == "evt_5000_v1"


def test_who_breaks_off_while_catching_up_has_lost_nothing(listening: Any, admin: Api, stores: Stores) -> None:
    gw = gateway(admin, "truck")
    with listening("?kind=event") as listener:
        listener.standing()
        last = listener.last_id
    for number in range(1, 4):
        keep_event(stores, number, subject=gw)
    with listening("?kind=event", last_id=last) as listener:
        assert listener.hear().data["id"] == "evt_001_v1"
        assert listener.last_id == ""
    with listening("?kind=event", last_id=last) as listener:
        assert [one.data["id"] for one in listener.standing()] == ["evt_001_v1", "evt_002_v1", "evt_003_v1"]


def test_only_what_was_asked_for_is_told(listening: Any, admin: Api, stores: Stores) -> None:
    mine, other = gateway(admin, "mine"), gateway(admin, "other")
    with listening(f"?gateway={mine}") as listener:
        assert [one.data["gateway"] for one in listener.standing()] == [mine]
        for number, gw in enumerate((other, mine), start=1):
            keep_event(stores, number, subject=f"{gw}/cooling/temperature")
        assert listener.hear().data["subject"] == f"{mine}/cooling/temperature"


def test_who_was_given_a_part_of_the_fleet_hears_of_it_alone(
    listening: Any, admin: Api, accounts: Accounts, stores: Stores, client: FlaskClient
) -> None:
    group(admin, "mine")
    mine, other = gateway(admin, "mine", "mine"), gateway(admin, "other")
    with stores.telemetry.write() as connection:
        for gw in (mine, other):
            held = {"epoch": 1, "updated_ms": START_MS, "readings": 1, "body": b"\0\0\0\0"}
            connection.execute(insert(state).values(gateway=gw, **held))
    bound = accounts.create_token(name="bound", role=Role.ADMIN, groups=frozenset({"mine"})).token
    with listening(token=bound) as listener:
        assert {(one.kind, one.data["gateway"]) for one in listener.standing()} == {
            ("gateway", mine),
            ("values", mine),
        }
        for number, gw in enumerate((other, mine), start=1):
            keep_event(stores, number, subject=f"{gw}/cooling/temperature")
            deliver(stores, number, gw)
        told = {one.kind: one.data for one in (listener.hear(), listener.hear())}  # in either order
        assert [told["event"]["subject"], told["delivery"]["key"]] == [f"{mine}/cooling/temperature"] * 2
        last = listener.last_id
    with listening(token=bound, last_id=last) as listener:
        assert not [one for one in listener.standing() if other in json.dumps(one.data)]
    headers = {"Authorization": f"Bearer {bound}"}
    refused = client.get(f"/api/v1/live?gateway={other}", headers=headers)
    assert (refused.status_code, refused.get_json()["detail"]) == (404, f"There is no gateway {other}.")


def test_a_stream_ends_when_its_reader_may_hear_something_else(
    listening: Any, admin: Api, accounts: Accounts, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.broadcast.RIGHTS_S", 0.0)
    group(admin, "mine")
    gw = gateway(admin, "mine", "mine")
    made = accounts.create_token(name="bound", role=Role.VIEWER, groups=frozenset({"mine"}))
    with listening(token=made.token) as listener:
        assert listener.standing()
        with stores.business.write() as connection:
            connection.execute(delete(gateway_group_member).where(gateway_group_member.c.gateway == gw))
        assert listener.ended()
    with listening(token=made.token) as listener:
        assert listener.standing() == []
        accounts.revoke_token(made.id)
        assert listener.ended()


def test_each_kind_needs_its_own_right(listening: Any, accounts: Accounts, admin: Api, client: FlaskClient) -> None:
    gateway(admin, "truck")
    part = accounts.create_token(name="part", role=Role.VIEWER, permissions=frozenset({"events:read"})).token
    integrator = accounts.create_token(name="erp", role=Role.INTEGRATOR).token
    for token in (part, integrator):
        with listening(token=token) as listener:
            assert listener.standing() == []  # no word of the gateway
        refused = client.get("/api/v1/live?kind=values", headers={"Authorization": f"Bearer {token}"})
        assert refused.status_code == 403
    nothing = accounts.create_token(name="none", role=Role.VIEWER, permissions=frozenset({"administration:read"}))
    assert client.get("/api/v1/live", headers={"Authorization": f"Bearer {nothing.token}"}).status_code == 403


def test_beyond_the_limit_one_is_told_to_come_back(listening: Any, admin: Api) -> None:
    with listening(), listening():
        refused = admin.ask("GET", "/live")
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert admin.get("/gateways")["items"] == []
    with listening():
        pass


@pytest.mark.parametrize(
    ("query", "last_id", "pointer"),
    [
        ("?kind=weather", "", "?kind/0"),
        ("?since=now", "", "?since"),
        ("", "yesterday", "Last-Event-ID"),
        ("", "1.2", "Last-Event-ID"),
        ("", "1.2.9999999999999999999999", "Last-Event-ID"),
    ],
)
def test_a_strange_question_is_told_so(client: FlaskClient, token: str, query: str, last_id: str, pointer: str) -> None:
    headers = {"Authorization": f"Bearer {token}", "Last-Event-ID": last_id}
    answer = client.get(f"/api/v1/live{query}", headers=headers)
    assert answer.status_code == 422
    assert [one["pointer"] for one in answer.get_json()["errors"]] == [pointer]


def test_a_mark_reads_back() -> None:
    assert Mark.read(str(Mark(1, 2, 3))) == Mark(1, 2, 3)


def test_a_reader_that_is_too_slow_is_let_go_and_misses_nothing(
    listening: Any, admin: Api, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.feed.KEPT", 3)
    gw = gateway(admin, "truck")
    with listening("?kind=event") as slow, listening("?kind=event") as quick:
        slow.standing()
        quick.standing()
        for number in range(1, 9):
            keep_event(stores, number, subject=gw)
            quick.hear()
        last = slow.last_id
        assert slow.ended()
    with listening("?kind=event", last_id=last) as again:
        assert len(again.standing()) == 8


def test_silence_is_broken_by_a_comment_that_keeps_the_id(
    listening: Any, lifetime: Lifetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.broadcast.PING_S", -1.0)
    with listening() as listener:
        listener.standing()
        known = listener.last_id
        assert listener.hear().data is None
        assert listener.last_id == known
        lifetime.follow(lambda: False)
        assert listener.ended()


def test_the_document_tells_of_the_stream(client: FlaskClient) -> None:
    found = client.get("/api/v1/openapi.json").get_json()
    operation = found["paths"]["/live"]["get"]
    content = operation["responses"]["200"]["content"]["text/event-stream"]
    assert content["x-messages"]["event"] == {"$ref": "#/components/schemas/EventItem"}
    assert set(content["x-messages"]) == {"gateway", "values", "event", "delivery"}
    assert {"Last-Event-ID", "gateway", "kind"} == {one["name"] for one in operation["parameters"]}
    assert "503" in operation["responses"]
    assert {"GatewayState", "NewestValues"} <= set(found["components"]["schemas"])
