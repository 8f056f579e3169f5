"""What people keep in the registry: edited on top of what they saw, refused with every mistake, bounded by groups."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from control_plane.errors import Denied
from control_plane.fleet.accounts import Accounts, Role
from control_plane.fleet.enrolment import Enrolment
from control_plane.store.engine import Stores
from tests.box import Box
from tests.control_plane.api.editing import NEW, SQUARE, Api, declare, gateway, group

# --- edits ---------------------------------------------------------------------------------------------


def test_a_stale_edit_loses_nothing_and_is_told_what_changed_since(admin: Api) -> None:
    first = admin.do("PUT", "/assets/truck-17", {"kind": "vehicle", "name": "Old"}, etag=NEW)
    admin.do("PUT", "/assets/truck-17", {"kind": "vehicle", "name": "New"}, etag=first["etag"])
    late = admin.ask("PUT", "/assets/truck-17", {"kind": "warehouse", "name": "Mine"}, etag=first["etag"])
    assert (late.status_code, late.headers["ETag"]) == (412, '"2"')
    problem = late.get_json(force=True)
    assert problem["errors"] == [{"pointer": "/name", "message": 'is "New" now, was "Old"'}]
    assert problem["current"] == {"kind": "vehicle", "name": "New", "attrs": {}}
    assert admin.get("/assets/truck-17")["name"] == "New"


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/assets/truck", "PUT", {"kind": "vehicle"}),
        ("/places/depot", "PUT", {"polygon": SQUARE}),
        ("/groups/trucks", "PUT", {}),
        ("/users/ana", "PATCH", {"role": "viewer"}),
    ],
)
def test_an_edit_says_which_version_it_is_based_on(admin: Api, path: str, method: str, body: Any) -> None:
    admin.do("POST", "/users", {"name": "ana", "role": "operator"}, expect=201)
    admin.do(method, path, body, expect=428)
    admin.do(method, path, body, etag='"77"', expect=412)
    made = admin.do(method, path, body, etag='"1"' if method == "PATCH" else NEW)
    assert admin.ask("GET", path).headers["ETag"] == made["etag"]
    admin.do("DELETE", path, expect=428)
    admin.do("DELETE", path, etag='"77"', expect=412)
    admin.do("DELETE", path, etag=made["etag"], expect=204)
    admin.get(path, expect=404)


def test_what_is_made_again_after_its_deletion_has_a_version_of_its_own(admin: Api) -> None:
    first = admin.do("PUT", "/places/depot", {"circle": {"lat": 1, "lon": 2, "radius_m": 3}}, etag=NEW)
    admin.do("DELETE", "/places/depot", etag=first["etag"], expect=204)
    again = admin.do("PUT", "/places/depot", {"polygon": SQUARE}, etag=NEW)
    assert again["etag"] not in {first["etag"], NEW}
    admin.do("DELETE", "/places/depot", etag=first["etag"], expect=412)


@pytest.mark.parametrize("path", ["/assets/truck", "/places/depot", "/groups/trucks"])
def test_of_many_edits_at_once_one_is_taken_and_the_others_hear_of_it(
    app: Flask, admin: Api, accounts: Accounts, path: str
) -> None:
    bodies: dict[str, dict[str, Any]] = {"assets": {"kind": "other"}, "places": {"polygon": SQUARE}, "groups": {}}
    body, token = bodies[path.split("/")[1]], accounts.create_token(name="many", role=Role.ADMIN).token

    def edit(number: int, etag: str) -> int:
        mine = Api(app.test_client(), token)
        return mine.ask("PUT", path, body | {"name": f"editor {number}"}, etag=etag).status_code

    for etag in (NEW, '"1"'):
        with ThreadPoolExecutor(6) as pool:
            told = list(pool.map(edit, range(6), [etag] * 6))
        assert told.count(200) == 1
        assert set(told) <= {200, 409, 412}
    assert admin.ask("GET", path).headers["ETag"] == '"2"'


def test_every_mistake_is_told_at_once(admin: Api) -> None:
    body = {"kind": "lorry", "nmae": "x", "attrs": {"a": 1, "b/c": None}}
    problem = admin.do("PUT", "/assets/truck", body, etag=NEW, expect=422)
    assert [error["pointer"] for error in problem["errors"]] == ["/kind", "/attrs/a", "/attrs/b~1c", "/nmae"]
    assert "did you mean name" in problem["errors"][-1]["message"]


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "'; DROP TABLE asset; --", "\u202egnp.exe", "{{7*7}}\n"])
def test_hostile_texts_come_back_as_they_were(admin: Api, text: str) -> None:
    admin.do("PUT", "/assets/truck", {"kind": "other", "name": text, "attrs": {text: text}}, etag=NEW)
    found = admin.get("/assets/truck")
    assert (found["name"], found["attrs"]) == (text, {text: text})


def test_a_nul_character_is_refused_where_it_stands(admin: Api) -> None:
    problem = admin.do("PUT", "/assets/truck", {"kind": "other", "name": "a\0"}, etag=NEW, expect=422)
    assert problem["errors"][0]["pointer"] == "/name"
    admin.get("/gateways/a%00", expect=404)
    admin.get("/series?filter=%00", expect=422)


# --- assets, places ------------------------------------------------------------------------------------


def test_assets_are_a_tree_that_keeps_its_trunk(admin: Api) -> None:
    admin.do("PUT", "/assets/truck/box", {"kind": "compartment"}, etag=NEW, expect=422)
    trunk = admin.do("PUT", "/assets/truck", {"kind": "vehicle"}, etag=NEW)
    box = admin.do("PUT", "/assets/truck/box", {"kind": "compartment"}, etag=NEW)
    assert (box["id"], box["parent"]) == ("truck/box", "truck")
    assert admin.ids("/assets?under=truck") == ["truck/box"]
    admin.do("DELETE", "/assets/truck", etag=trunk["etag"], expect=409)
    gw = gateway(admin, "truck 17")
    admin.do("PATCH", f"/gateways/{gw}", {"asset": "truck/box"}, etag='"1"')
    admin.do("DELETE", "/assets/truck/box", etag=box["etag"], expect=409)
    assert admin.ids("/gateways?asset=truck") == [gw]
    admin.do("PATCH", f"/gateways/{gw}", {"asset": None}, etag='"2"')
    admin.do("DELETE", "/assets/truck/box", etag=box["etag"], expect=204)
    admin.do("PUT", "/assets/Truck", {"kind": "vehicle"}, etag=NEW, expect=422)


@pytest.mark.parametrize(
    ("polygon", "pointer", "text"),
    [
        (SQUARE[:-1], "/polygon/3", "not closed"),
        (SQUARE[:2], "/polygon", "length"),
        ([[0, 0], [1, 1], [0, 1], [1, 0], [0, 0]], "/polygon/3", "crosses"),
        ([[0, 0], [0, 2], [0, 1], [1, 1], [0, 0]], "/polygon/2", "crosses or touches"),
        ([[0, 0], [0, 1], [0, 0], [0, 1], [0, 0]], "/polygon/0", "three different points"),
        ([[0, 0], [0, 0], [0, 1], [1, 1], [0, 0]], "/polygon/1", "same point"),
        ([[0, -170], [0, 170], [1, 170], [0, -170]], "/polygon/1", "date line"),
        ([[91, 0], [0, 181], [1, 1], [91, 0]], "/polygon/0/0", "90"),
    ],
)
def test_an_outline_that_encloses_nothing_clear_is_refused(admin: Api, polygon: Any, pointer: str, text: str) -> None:
    problem = admin.do("PUT", "/places/depot", {"polygon": polygon}, etag=NEW, expect=422)
    assert problem["errors"][0]["pointer"] == pointer
    assert text in problem["errors"][0]["message"]


def test_a_place_is_a_circle_or_a_polygon(admin: Api) -> None:
    circle = {"lat": -23.5, "lon": -46.6, "radius_m": 250}
    admin.do("PUT", "/places/depot", {"circle": circle, "polygon": SQUARE}, etag=NEW, expect=422)
    made = admin.do("PUT", "/places/depot", {"name": "Depot", "circle": circle}, etag=NEW)
    assert "polygon" not in made
    admin.do("PUT", "/places/depot", {"polygon": SQUARE}, etag=made["etag"])
    found = admin.get("/places/depot")
    assert ("circle" in found, found["polygon"]) == (False, SQUARE)


# --- gateways, sensors ---------------------------------------------------------------------------------


def test_a_gateway_registered_ahead_is_the_one_that_comes(admin: Api, enrolment: Enrolment) -> None:
    group(admin, "trucks")
    made = admin.do("POST", "/gateways", {"name": "truck 17", "groups": ["trucks"]}, expect=201)
    awaited = made["gateway"]
    assert (awaited["enrolled"], awaited["groups"]) == (None, ["trucks"])
    box = Box()
    assert enrolment.enrol(box.enrol_request(made["token"])).gateway_id == awaited["id"]
    assert enrolment.enrol(box.enrol_request(made["token"])).gateway_id == awaited["id"]  # an interrupted one, again
    assert admin.get(f"/gateways/{awaited['id']}")["enrolled"] is not None
    assert len(admin.ids("/gateways")) == 1


def test_a_gateway_retired_before_it_came_can_not_come(admin: Api, enrolment: Enrolment) -> None:
    made = admin.do("POST", "/gateways", {"name": "truck 17"}, expect=201)
    admin.do("DELETE", f"/gateways/{made['gateway']['id']}", etag=made["gateway"]["etag"], expect=204)
    with pytest.raises(Denied, match="expired"):
        enrolment.enrol(Box().enrol_request(made["token"]))
    assert admin.ids("/gateways?retired=true") == [made["gateway"]["id"]]


def test_another_join_token_ends_the_one_before_and_brings_the_same_gateway(admin: Api, enrolment: Enrolment) -> None:
    made = admin.do("POST", "/gateways", {"name": "truck 17"}, expect=201)
    where = f"/gateways/{made['gateway']['id']}/join-token"
    again = admin.do("POST", where, {"ttl_s": 600}, expect=201)
    with pytest.raises(Denied, match="expired"):
        enrolment.enrol(Box().enrol_request(made["token"]))
    assert enrolment.enrol(Box().enrol_request(again["token"])).gateway_id == made["gateway"]["id"]
    admin.do("POST", where, {}, expect=409)


def test_groups_are_edited_from_both_sides_and_both_notice(admin: Api) -> None:
    gw = gateway(admin, "truck 17")
    group(admin, "trucks")
    named = admin.do("PATCH", f"/gateways/{gw}", {"name": "Truck 17", "groups": ["trucks"]}, etag='"1"')
    assert (named["name"], named["groups"]) == ("Truck 17", ["trucks"])
    assert admin.get("/groups/trucks")["members"] == [gw]
    admin.do("PUT", "/groups/trucks", {"members": []}, etag=NEW, expect=412)
    admin.do("PUT", "/groups/trucks", {"members": []}, etag='"2"')
    admin.do("PATCH", f"/gateways/{gw}", {"name": "x"}, etag=named["etag"], expect=412)
    assert admin.get(f"/gateways/{gw}")["groups"] == []
    admin.do("PATCH", f"/gateways/{gw}", {"groups": ["nobody"]}, etag='"3"', expect=404)


def test_a_retired_member_does_not_keep_its_group_from_being_saved(admin: Api) -> None:
    gw = gateway(admin, "old")
    group(admin, "trucks", gw)
    admin.do("DELETE", f"/gateways/{gw}", etag=admin.get(f"/gateways/{gw}")["etag"], expect=204)
    admin.do("PUT", "/groups/trucks", {"name": "Trucks", "members": [gw]}, etag='"1"')
    assert admin.get("/groups/trucks")["members"] == [gw]


def test_sensors_are_those_declared_and_those_configured(admin: Api, stores: Stores) -> None:
    one, other = sorted((gateway(admin, "a"), gateway(admin, "b")))
    declare(stores, one, "cooling")
    probe = {"id": "probe", "driver": "simulated"}
    admin.do("PUT", f"/config/gateways/{one}", {"document": {"sensor": [probe]}}, etag=NEW)
    declare(stores, other, "door")
    found = {item["sensor"]: (item["declared"], item["configured"]) for item in admin.get("/sensors")["items"]}
    assert found == {"cooling": (True, False), "probe": (False, True), "door": (True, None)}
    assert admin.get(f"/gateways/{one}/sensors/probe")["driver"] == "simulated"
    first = admin.get("/sensors?limit=1")
    assert [item["sensor"] for item in first["items"]] == ["cooling"]
    assert admin.ids(f"/sensors?limit=5&cursor={first['next']}", "sensor") == ["probe", "door"]
    assert admin.ids(f"/gateways/{other}/sensors", "sensor") == ["door"]


def test_a_sensor_is_named_mounted_and_written_about(admin: Api, stores: Stores) -> None:
    gw = gateway(admin, "a")
    declare(stores, gw, "cooling")
    where = f"/gateways/{gw}/sensors/cooling"
    admin.do("PATCH", where, {"asset": "truck"}, etag=NEW, expect=422)
    admin.do("PUT", "/assets/truck", {"kind": "vehicle"}, etag=NEW)
    noted = admin.do("PATCH", where, {"asset": "truck", "notes": "behind the fan"}, etag=NEW)
    assert (noted["asset"], noted["notes"], noted["name"]) == ("truck", "behind the fan", "")
    assert admin.ids("/sensors?asset=truck", "sensor") == ["cooling"]
    stale = admin.do("PATCH", where, {"name": "Cooling"}, etag=NEW, expect=412)
    assert {error["pointer"] for error in stale["errors"]} == {"/asset", "/notes"}
    admin.do("PATCH", f"/gateways/{gw}/sensors/nothing", {"name": "x"}, etag=NEW, expect=404)
