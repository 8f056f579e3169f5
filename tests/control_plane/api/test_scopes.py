"""Who sees what: users and tokens bound to groups see what hangs on the gateways of these, and nothing else."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from sqlalchemy import insert

from control_plane.fleet.accounts import Accounts, Role
from control_plane.store.engine import Stores
from control_plane.store.tables import gap, outbox, state
from tests.control_plane.api.editing import NEW, SQUARE, Api, declare, gateway, group
from tests.control_plane.api.test_subjects import keep_event
from tests.control_plane.conftest import START_MS


@pytest.fixture
def two(admin: Api, stores: Stores) -> tuple[str, str]:
    """A gateway in group `mine` and one in `other`, each with an asset, a sensor, a gap, an event, a delivery."""
    found: list[str] = []
    for slug in ("mine", "other"):
        group(admin, slug)
        gw = gateway(admin, slug, slug)
        admin.do("PUT", f"/assets/{slug}", {"kind": "vehicle"}, etag=NEW)
        admin.do("PATCH", f"/gateways/{gw}", {"asset": slug}, etag='"1"')
        declare(stores, gw, "cooling")
        number = len(found) + 1
        keep_event(stores, number, subject=f"{gw}/cooling/temperature")
        with stores.telemetry.write() as connection:
            monos = {"from_boot": 1, "from_mono_ms": 1, "to_boot": 1, "to_mono_ms": 9, "recorded_ms": START_MS}
            lost = {"lane": 2, "seqs": b"", "count": 3, "count_exact": True, "reason": 1, "group_id": 0}
            connection.execute(insert(gap).values(id=slug, gateway=gw, epoch=1, sensor="", **monos, **lost))
            held = {"epoch": 1, "updated_ms": START_MS, "readings": 1, "body": b""}
            connection.execute(insert(state).values(gateway=gw, **held))
        with stores.business.write() as connection:
            row = {"dest": "erp", "key": f"{gw}/cooling/temperature", "seq": 1, "event_id": f"evt_{number:03}_v1"}
            more = {"ext_ref": "", "body": b"", "body_sha256": "", "next_at_ms": START_MS, "created_ms": START_MS}
            connection.execute(insert(outbox).values(**row, **more, state="parked"))
        found.append(gw)
    return found[0], found[1]


@pytest.fixture
def bound(client: FlaskClient, accounts: Accounts, two: tuple[str, str]) -> Api:
    token = accounts.create_token(name="bound", role=Role.ADMIN, groups=frozenset({"mine"})).token
    return Api(client, token)


def test_a_bound_caller_sees_what_hangs_on_its_gateways_and_nothing_else(
    admin: Api, bound: Api, two: tuple[str, str]
) -> None:
    lists = {
        "/gateways": ("id", two[0]),
        "/sensors": ("gateway", two[0]),
        "/assets": ("id", "mine"),
        "/groups": ("slug", "mine"),
        "/series": ("gateway", two[0]),
        "/gaps": ("gateway", two[0]),
        "/completeness": ("gateway", two[0]),
        "/events": ("id", "evt_001_v1"),
        "/deliveries": ("event_id", "evt_001_v1"),
        "/config/status": ("gateway", two[0]),
    }
    for path, (name, mine) in lists.items():
        assert (path, bound.ids(path, name)) == (path, [mine])
        assert len(admin.ids(path, name)) == 2
    assert bound.get("/destinations")["items"][0]["open"] == {"parked": 1}
    assert admin.get("/destinations")["items"][0]["open"] == {"parked": 2}


def test_what_a_bound_caller_was_not_given_is_not_there(bound: Api, two: tuple[str, str]) -> None:
    other = two[1]
    for path in (
        f"/gateways/{other}",
        f"/gateways/{other}/config",
        f"/gateways/{other}/sensors",
        f"/gateways/{other}/sensors/cooling",
        f"/config/gateways/{other}",
        "/config/groups/other",
        "/groups/other",
        "/assets/other",
        "/events/evt_002_v1",
        "/events/evt_002_v1/versions",
        "/deliveries/erp:evt_002_v1",
        f"/readings?series={other}/cooling/temperature",
    ):
        problem = bound.get(path, expect=404)
        assert "There is no" in problem["detail"]
    assert bound.ids(f"/sensors?gateway={other}", "sensor") == []
    bound.do("POST", "/deliveries/erp:evt_002_v1/replay", expect=404)
    bound.do("PATCH", f"/gateways/{other}", {"name": "x"}, etag='"2"', expect=404)
    bound.do("DELETE", f"/gateways/{other}", etag='"2"', expect=404)
    bound.do("POST", f"/gateways/{other}/join-token", {}, expect=404)
    bound.do("PUT", f"/gateways/{other}/config", {"document": {}}, etag=NEW, expect=404)


def test_a_bound_caller_can_not_reach_beyond_its_groups(bound: Api, two: tuple[str, str]) -> None:
    mine, other = two
    bound.do("PATCH", f"/gateways/{mine}", {"groups": ["mine", "other"]}, etag='"2"', expect=403)
    bound.do("PATCH", f"/gateways/{mine}", {"asset": "other"}, etag='"2"', expect=403)
    bound.do("PUT", "/groups/mine", {"members": [mine, other]}, etag='"2"', expect=404)
    bound.do("PUT", "/groups/fresh", {"members": [mine]}, etag=NEW, expect=403)
    bound.do("PUT", "/assets/other", {"kind": "other"}, etag='"1"', expect=403)
    bound.do("PUT", "/places/depot", {"polygon": SQUARE}, etag=NEW, expect=403)
    bound.do("PUT", "/config/fleet", {"document": {}}, etag=NEW, expect=403)
    bound.do("POST", "/gateways", {"name": "x"}, expect=422)
    bound.do("POST", "/gateways", {"name": "x", "groups": ["other"]}, expect=403)
    bound.do("POST", "/destinations/erp/resume", {}, expect=403)
    for path in ("/users", "/api-tokens", "/join-tokens"):
        bound.get(path, expect=403)
    bound.do("POST", "/api-tokens", {"groups": ["other"]}, expect=403)
    assert bound.do("POST", "/deliveries/erp:evt_001_v1/replay")["state"] == "pending"
    bound.do("PATCH", f"/gateways/{mine}", {"name": "Mine"}, etag='"2"')


# --- users, tokens -------------------------------------------------------------------------------------


def test_a_token_never_may_more_than_its_user_may_now(client: FlaskClient, admin: Api, two: tuple[str, str]) -> None:
    password = admin.do("POST", "/users", {"name": "ana", "role": "operator"}, expect=201)["password"]
    made = client.post("/api/v1/api-tokens", auth=("ana", password)).get_json()
    ana = Api(client, made["token"])
    assert len(ana.ids("/gateways")) == 2
    admin.do("PATCH", "/users/ana", {"role": "viewer", "groups": ["mine"]}, etag='"1"')
    assert ana.ids("/gateways") == [two[0]]
    assert ana.get("/me")["role"] == "viewer"
    ana.do("PATCH", f"/gateways/{two[0]}", {"name": "x"}, etag='"2"', expect=403)
    admin.do("DELETE", "/users/ana", etag='"2"', expect=204)
    ana.get("/gateways", expect=401)


def test_somebody_always_may_everything(admin: Api, accounts: Accounts) -> None:
    accounts.ensure_admin()
    admin.do("PATCH", "/users/admin", {"role": "viewer"}, etag='"1"', expect=409)
    admin.do("PATCH", "/users/admin", {"groups": []}, etag='"1"', expect=409)
    admin.do("DELETE", "/users/admin", etag='"1"', expect=409)
    admin.do("POST", "/users", {"name": "ana", "role": "admin"}, expect=201)
    admin.do("DELETE", "/users/admin", etag='"1"', expect=204)


def test_a_user_is_refused_twice_and_with_unknown_groups(admin: Api) -> None:
    admin.do("POST", "/users", {"name": "ana", "role": "viewer"}, expect=201)
    admin.do("POST", "/users", {"name": "ana", "role": "viewer"}, expect=409)
    admin.do("POST", "/users", {"name": "eva", "role": "viewer", "groups": ["nobody"]}, expect=422)
    admin.do("POST", "/users", {"name": "a b", "role": "viewer", "password": "short"}, expect=422)


def test_a_group_somebody_is_bound_to_stays(admin: Api) -> None:
    group(admin, "trucks")
    admin.do("POST", "/users", {"name": "ana", "role": "viewer", "groups": ["trucks"]}, expect=201)
    assert "ana" in admin.do("DELETE", "/groups/trucks", etag='"1"', expect=409)["detail"]


def test_a_viewer_can_not_hand_on_an_integrators_rights(client: FlaskClient, admin: Api) -> None:
    password = admin.do("POST", "/users", {"name": "ana", "role": "viewer"}, expect=201)["password"]
    assert client.post("/api/v1/api-tokens", auth=("ana", password), json={"role": "integrator"}).status_code == 403


def test_resuming_makes_what_waits_due_now(admin: Api, two: tuple[str, str]) -> None:
    assert admin.do("POST", "/destinations/erp/resume", {})["deliveries"] == 0
    assert admin.do("POST", "/destinations/erp/resume", {"parked": True})["deliveries"] == 2
    assert {item["state"] for item in admin.get("/deliveries")["items"]} == {"pending"}
