"""What the subjects answer, from rows as the other roles write them."""

from __future__ import annotations

import struct
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import insert

from control_plane.fleet.authority import Authority
from control_plane.fleet.enrolment import Enrolment
from control_plane.fleet.index import FleetIndex
from control_plane.store.engine import Stores
from control_plane.store.tables import attempt, event, gap, outbox, presence
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from tests.box import Box
from tests.control_plane.conftest import START_MS, TurnedClock

Bearer = dict[str, dict[str, str]]


def get(client: FlaskClient, bearer: Bearer, path: str) -> Any:
    answer = client.get(f"/api/v1{path}", headers=bearer["admin"])
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def walked(client: FlaskClient, bearer: Bearer, path: str, *, limit: int) -> list[Any]:
    """Every item, page by page."""
    items: list[Any] = []
    cursor, join = "", "&" if "?" in path else "?"
    while True:
        page = get(client, bearer, f"{path}{join}limit={limit}{cursor}")
        assert len(page["items"]) <= limit
        items += page["items"]
        if page["next"] is None:
            return items
        cursor = f"&cursor={page['next']}"


def keep_event(stores: Stores, number: int, **changed: Any) -> None:
    row = {
        "id": f"evt_{number:03}_v1",
        "entity_id": f"entity-{number}",
        "type": "comboio.cold_chain.excursion.opened.v1",
        "version": 1,
        "subject": "truck-17/box",
        "change": "create",
        "finality": "final",
        "time_ms": START_MS,
        "decided_ms": START_MS,
        "recorded_ms": START_MS + number // 2,
        "data_sha256": "",
        "data": '{"peak":9.5}',
        "current": True,
    }
    with stores.business.write() as connection:
        connection.execute(insert(event).values(row | changed))


def test_enrolment_is_told_to_anybody(client: FlaskClient, authority: Authority) -> None:
    assert client.get("/api/v1/enrolment").get_json() == {
        "ca_pem": authority.ca_pem.decode(),
        "ca_sha256": authority.fingerprint,
        "grpc": "127.0.0.1:8444",
        "identity": "127.0.0.1:8445",
    }


def test_liveness_needs_nobody_and_detail_names_the_stores(client: FlaskClient, bearer: Bearer) -> None:
    assert client.get("/api/v1/health").get_json() == {"status": "ok"}
    detail = get(client, bearer, "/health/detail")
    assert detail["status"] == "ok"
    assert {name: store["ok"] for name, store in detail["stores"].items()} == {
        "journal": True,
        "telemetry": True,
        "business": True,
    }


def test_a_join_token_is_shown_once_and_then_only_its_state(
    client: FlaskClient, bearer: Bearer, enrolment: Enrolment
) -> None:
    made = client.post("/api/v1/join-tokens", json={"gateway_name": "truck 17"}, headers=bearer["admin"])
    assert made.status_code == 201
    signed = enrolment.enrol(Box().enrol_request(made.get_json()["token"]))
    (item,) = get(client, bearer, "/join-tokens")["items"]
    assert (item["state"], item["used_by"]) == ("used", signed.gateway_id)
    assert made.get_json()["token"].split(".")[1] not in str(item)


def test_the_registry_shows_gateways_until_they_retire(
    client: FlaskClient, bearer: Bearer, enrolment: Enrolment
) -> None:
    ids = []
    for number in range(5):
        token = enrolment.join_tokens.create(gateway_name=f"truck {number}").token
        ids.append(enrolment.enrol(Box().enrol_request(token)).gateway_id)
    listed = walked(client, bearer, "/gateways", limit=2)
    assert [item["id"] for item in listed] == sorted(ids)
    one = get(client, bearer, f"/gateways/{ids[0]}")
    assert (one["name"], one["retired"]) == ("truck 0", None)
    assert one["certificate_expires"] == "2026-05-21T10:00:00Z"
    seen = bearer["admin"] | {"If-Match": one["etag"]}
    assert client.delete(f"/api/v1/gateways/{ids[0]}", headers=seen).status_code == 204
    retired = get(client, bearer, f"/gateways/{ids[0]}")
    assert (retired["retired"], retired["certificate_expires"]) == ("2025-11-22T10:00:00Z", None)


def test_events_page_without_missing_or_repeating_one(client: FlaskClient, bearer: Bearer, stores: Stores) -> None:
    for number in range(7):
        keep_event(stores, number)
    ids = [f"evt_{number:03}_v1" for number in range(7)]
    assert [item["id"] for item in walked(client, bearer, "/events?order=oldest", limit=2)] == ids
    assert [item["id"] for item in walked(client, bearer, "/events", limit=3)] == ids[::-1]


def test_events_are_chosen_by_type_subject_and_currency(client: FlaskClient, bearer: Bearer, stores: Stores) -> None:
    keep_event(stores, 1)
    keep_event(stores, 2, subject="truck-18", finality="provisional")
    keep_event(stores, 3, entity_id="entity-1", version=2, id="evt_001_v2", supersedes="evt_001_v1")
    keep_event(stores, 4, type="comboio.data.gap.recorded.v1", current=False)

    def ids(query: str) -> list[str]:
        return [item["id"] for item in get(client, bearer, f"/events?order=oldest&{query}")["items"]]

    assert ids("subject=truck-18") == ["evt_002_v1"]
    assert ids("type=comboio.data.gap.recorded.v1") == ["evt_004_v1"]
    assert ids("current=false") == ["evt_004_v1"]
    assert ids("finality=provisional&current=true") == ["evt_002_v1"]
    versions = get(client, bearer, "/events/evt_001_v2/versions")["items"]
    assert [item["id"] for item in versions] == ["evt_001_v1", "evt_001_v2"]
    one = get(client, bearer, "/events/evt_001_v2")
    assert one["data"] == {"peak": 9.5}
    assert one["time"] == "2025-11-22T10:00:00Z"


def test_deliveries_carry_their_attempts(client: FlaskClient, bearer: Bearer, stores: Stores) -> None:
    with stores.business.write() as connection:
        for number in range(5):
            row = {
                "dest": "erp" if number < 3 else "crm",
                "key": "truck-17",
                "seq": number,
                "event_id": f"evt_{number}",
                "ext_ref": f"ref-{number}",
                "body": b"",
                "body_sha256": "",
                "state": "retry" if number == 2 else "delivered",
                "next_at_ms": START_MS,
                "created_ms": START_MS,
            }
            connection.execute(insert(outbox).values(row))
        for number in (1, 2):
            tried = {"dest": "erp", "event_id": "evt_2", "number": number, "started_ms": START_MS, "bytes": 10}
            connection.execute(insert(attempt).values(tried))
    everything = walked(client, bearer, "/deliveries", limit=2)
    assert [(item["dest"], item["seq"]) for item in everything] == [
        ("crm", 3), ("crm", 4), ("erp", 0), ("erp", 1), ("erp", 2)
    ]  # fmt: skip
    (waiting,) = get(client, bearer, "/deliveries?state=retry&dest=erp")["items"]
    assert [tried["number"] for tried in waiting["attempts"]] == [1, 2]
    assert get(client, bearer, "/deliveries?event_id=evt_0")["items"][0]["attempts"] == []


def test_gaps_say_what_is_missing_and_why(client: FlaskClient, bearer: Bearer, stores: Stores) -> None:
    row = {
        "gateway": "gw-a",
        "epoch": 1,
        "lane": pb.TELEMETRY,
        "group_id": 0,
        "sensor": "cooling",
        "from_boot": 1,
        "from_mono_ms": 10,
        "to_boot": 2,
        "to_mono_ms": 20,
        "seqs": struct.pack("<QQQQ", 1, 4, 9, 9),
        "count": 5,
        "count_exact": False,
        "recorded_ms": START_MS,
    }
    with stores.telemetry.write() as connection:
        connection.execute(insert(gap).values(row | {"id": "1", "reason": pb.GAP_RESTART}))
        connection.execute(insert(gap).values(row | {"id": "2", "reason": 999, "sensor": "door"}))
    first, second = walked(client, bearer, "/gaps?gateway=gw-a", limit=1)
    assert (first["lane"], first["reason"], second["reason"]) == ("telemetry", "restart", "999")
    assert first["seqs"] == [{"first": 1, "last": 4}, {"first": 9, "last": 9}]
    assert (first["from"], first["to"]) == ({"boot": 1, "mono_ms": 10}, {"boot": 2, "mono_ms": 20})
    assert [item["sensor"] for item in get(client, bearer, "/gaps?sensor=door")["items"]] == ["door"]


def test_events_are_chosen_by_gateway_and_by_when_they_were_true(
    client: FlaskClient, bearer: Bearer, stores: Stores
) -> None:
    keep_event(stores, 1, subject="gw-aaaaaaaaaa/cooling/temperature")
    keep_event(stores, 2, subject="gw-aaaaaaaaaa", time_ms=START_MS + 3_600_000)
    keep_event(stores, 3, subject="gw-aaaaaaaaab/cooling/temperature")

    def chosen(query: str) -> list[str]:
        return [item["id"] for item in get(client, bearer, f"/events?order=oldest&{query}")["items"]]

    assert chosen("gateway=gw-aaaaaaaaaa") == ["evt_001_v1", "evt_002_v1"]
    assert chosen("from=2025-11-22T10:30:00Z") == ["evt_002_v1"]
    assert chosen("to=2025-11-22T10:30:00Z") == ["evt_001_v1", "evt_003_v1"]
    without_offset = client.get("/api/v1/events?from=2025-11-22T10:30:00", headers=bearer["viewer"])
    assert without_offset.status_code == 422
    assert without_offset.get_json()["errors"][0]["pointer"] == "?from"


def test_an_open_join_token_can_be_ended_and_a_used_one_not(
    client: FlaskClient, bearer: Bearer, enrolment: Enrolment
) -> None:
    made = enrolment.join_tokens.create(gateway_name="truck 17")
    used = enrolment.join_tokens.create(gateway_name="truck 18")
    enrolment.enrol(Box().enrol_request(used.token))
    headers = bearer["admin"]
    for _ in range(2):
        assert client.delete(f"/api/v1/join-tokens/{made.id}", headers=headers).status_code == 204
    states = {item["id"]: item["state"] for item in get(client, bearer, "/join-tokens")["items"]}
    assert states == {made.id: "expired", used.id: "used"}
    assert client.delete(f"/api/v1/join-tokens/{used.id}", headers=headers).status_code == 409
    assert client.delete("/api/v1/join-tokens/none", headers=headers).status_code == 404


def test_the_fleet_is_found_by_how_it_stands(
    client: FlaskClient, bearer: Bearer, enrolment: Enrolment, stores: Stores, clock: TurnedClock
) -> None:
    ids = []
    for number in range(5):
        token = enrolment.join_tokens.create(gateway_name=f"truck {number}", asset=None).token
        ids.append(enrolment.enrol(Box().enrol_request(token)).gateway_id)
    assert get(client, bearer, f"/gateways/{ids[0]}")["standing"] is None
    beats = [wire.Heartbeat(backlog=wire.Backlog(batches=3 * n), clock=wire.ClockState(err_ms=n)) for n in range(3)]
    said = {"session": 1, "connected_ms": START_MS, "heard_ms": START_MS, "version": "0.1.0"}
    rows = [{"gateway": one, "heartbeat": beats[n].SerializeToString(), **said} for n, one in enumerate(ids[:3])]
    with stores.journal.write() as connection:
        connection.execute(insert(presence), rows)
    FleetIndex(stores=stores, clock=clock).step()

    def found(query: str) -> list[str]:
        return [item["id"] for item in walked(client, bearer, f"/gateways?{query}", limit=2)]

    assert found("sort=name") == ids
    assert found("sort=backlog&falling=true") == [ids[2], ids[1], ids[0], *sorted(ids[3:])]
    assert found("status=never&sort=name&falling=true") == [ids[4], ids[3]]
    assert found("status=online&status=never&q=TRUCK 1") == [ids[1]]
    assert found("backlog=3&sort=clock_error") == [ids[1], ids[2]]
    assert found("certificate_days=30") == []
    assert sorted(found("certificate_days=181")) == sorted(ids)
    one = get(client, bearer, f"/gateways/{ids[2]}")["standing"]
    assert (one["status"], one["why"], one["backlog_batches"]) == ("online", "fine", 6)
    cursor = get(client, bearer, "/gateways?sort=backlog&limit=1")["next"]
    for other in ("sort=name", "sort=backlog&falling=true", ""):
        answer = client.get(f"/api/v1/gateways?{other}&cursor={cursor}", headers=bearer["admin"])
        assert answer.status_code == 422
        assert answer.get_json()["errors"][0]["pointer"] == "?cursor"
