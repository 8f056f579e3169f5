from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from control_plane.store.engine import Stores
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.fleet.fleets import DOOR, PROBE, Fleet
from tests.control_plane.sealing import GATEWAY, OTHER

Bearer = dict[str, dict[str, str]]


@pytest.fixture
def fleet(stores: Stores, clock: TurnedClock) -> Fleet:
    return Fleet(stores, clock)


class Editor:
    def __init__(self, client: FlaskClient, headers: dict[str, str]) -> None:
        self.client = client
        self.headers = headers

    def get(self, path: str) -> Any:
        answer = self.client.get("/api/v1" + path, headers=self.headers)
        assert answer.status_code == 200, answer.json
        return answer.json

    def put(self, path: str, document: Any, *, etag: str | None = '"0"', expect: int = 200) -> Any:
        headers = self.headers | ({"If-Match": etag} if etag is not None else {})
        answer = self.client.put("/api/v1" + path, headers=headers, json={"document": document})
        assert answer.status_code == expect, answer.json
        return answer.json


@pytest.fixture
def editor(client: FlaskClient, bearer: Bearer, fleet: Fleet) -> Editor:
    return Editor(client, bearer["operator"])


def test_a_layer_is_read_with_its_etag_and_saved_on_top_of_it(editor: Editor) -> None:
    first = editor.client.get("/api/v1/config/fleet", headers=editor.headers)
    assert (first.get_json()["version"], first.headers["ETag"]) == (0, '"0"')
    saved = editor.put("/config/fleet", {"sensor": [PROBE]}, etag=first.headers["ETag"])
    assert saved["etag"] == '"1"'
    assert [(t["gateway"], t["changed"], t["errors"]) for t in saved["targets"]] == [
        (GATEWAY, True, []),
        (OTHER, True, []),
    ]
    again = editor.get("/config/fleet")
    assert (again["version"], again["document"], again["saved_by"]) == (1, {"sensor": [PROBE]}, "test")


def test_without_if_match_428_with_a_stale_one_412_and_what_changed(editor: Editor) -> None:
    editor.put("/config/fleet", {"uplink": {"window": 4}})
    editor.put("/config/fleet", {}, etag=None, expect=428)
    editor.put("/config/fleet", {}, etag="newest", expect=412)
    stale = editor.put("/config/fleet", {"uplink": {"window": 5}}, expect=412)
    assert stale["errors"] == [{"pointer": "/uplink/window", "message": "is 4 now, was not there"}]
    assert "version 1 now" in stale["detail"]


def test_a_save_that_is_not_right_for_someone_is_refused_with_place_and_gateway(editor: Editor) -> None:
    wrong = editor.put("/config/fleet", {"sensor": [{**PROBE, "evry_s": 1}]}, expect=422)
    assert {"pointer": "/sensor/probe/evry_s", "message": wrong["errors"][0]["message"]} == wrong["errors"][0]
    assert GATEWAY in wrong["errors"][0]["message"]
    assert "did you mean every_s" in wrong["errors"][0]["message"]
    assert editor.get("/config/fleet")["version"] == 0


def test_a_dry_run_gives_a_result_per_target_and_saves_nothing(editor: Editor) -> None:
    said = editor.put("/config/fleet?dry_run=true", {"sensor": [{**PROBE, "every_s": "1"}]})
    assert said["dry_run"]
    assert {t["gateway"]: t["errors"][0]["pointer"] for t in said["targets"]} == {
        GATEWAY: "/sensor/probe/every_s",
        OTHER: "/sensor/probe/every_s",
    }
    assert editor.get("/config/fleet")["version"] == 0


def test_a_gateways_configuration_shows_wanted_running_provenance_and_the_difference(
    editor: Editor, fleet: Fleet
) -> None:
    editor.put("/config/fleet", {"sensor": [PROBE], "uplink": {"window": 4}})
    mine = editor.get(f"/gateways/{GATEWAY}/config")
    assert (mine["state"], mine["offline"], mine["running"]) == ("PENDING", True, None)
    editor.put(f"/gateways/{GATEWAY}/config", {"sensor": [DOOR]}, etag=mine["etag"])
    fleet.greets(pushed_hash=b"o" * 32, generation=1)
    running = b'{"config_version":1,"management":"managed","uplink":{"window":4}}'
    fleet.reports(running, pushed_hash=b"o" * 32)
    fleet.says(generation=1, hash=b"o" * 32, phase=wire.CONFIG_STAGED)
    found = editor.get(f"/gateways/{GATEWAY}/config")
    assert found["desired"]["generation"] == 2
    assert found["provenance"]["/sensor/door/driver"] == "gateway"
    assert found["provenance"]["/uplink/window"] == "fleet"
    assert {change["pointer"] for change in found["diff"]} == {
        "/sensor/probe/id",
        "/sensor/probe/driver",
        "/sensor/door/id",
        "/sensor/door/driver",
    }
    assert found["running"]["document"]["uplink"] == {"window": 4}
    assert [statement["state"] for statement in found["history"]] == ["SUPERSEDED"]
    assert editor.get(f"/config/gateways/{GATEWAY}")["document"] == {"sensor": [DOOR]}


def test_the_list_of_states_pages_through_the_fleet(editor: Editor) -> None:
    editor.put("/config/fleet", {"sensor": [PROBE]})
    first = editor.get("/config/status?limit=1")
    assert [(item["gateway"], item["state"], item["generation"]) for item in first["items"]] == [
        (GATEWAY, "PENDING", 1)
    ]
    second = editor.get(f"/config/status?limit=1&cursor={first['next']}")
    assert [item["gateway"] for item in second["items"]] == [OTHER]
    assert second["next"] is None


def test_adopting_makes_what_runs_the_gateways_layer(editor: Editor, fleet: Fleet) -> None:
    fleet.greets(local_management=True, local_hash=b"l" * 32)
    fleet.reports(b'{"config_version":1,"sensor":[{"id":"probe","driver":"simulated"}]}', local_hash=b"l" * 32)
    answer = editor.client.post(f"/api/v1/gateways/{GATEWAY}/config/adopt", headers=editor.headers)
    assert (answer.status_code, answer.get_json()["version"]) == (200, 1)
    found = editor.get(f"/gateways/{GATEWAY}/config")
    assert found["state"] == "UNMANAGED"
    assert "by hand" in found["sentence"]
    assert [change["pointer"] for change in found["diff"]] == ["/management"]


def test_groups_are_made_listed_and_refused_with_unknown_members(editor: Editor) -> None:
    def put(slug: str, etag: str = '"0"', **body: Any) -> Any:
        return editor.client.put(f"/api/v1/groups/{slug}", headers=editor.headers | {"If-Match": etag}, json=body)

    assert put("trucks", name="Trucks", priority=3, members=[GATEWAY]).status_code == 200
    trucks: dict[str, Any] = {"slug": "trucks", "name": "Trucks", "priority": 3, "members": [GATEWAY], "etag": '"1"'}
    assert editor.get("/groups")["items"] == [trucks]
    assert put("trucks", trucks["etag"], members=["gw-nobody"]).status_code == 404
    assert put("No Slug", members=[]).status_code == 422
    saved = editor.put("/config/groups/trucks", {"uplink": {"window": 2}})
    assert [target["gateway"] for target in saved["targets"]] == [GATEWAY]
    editor.put("/config/groups/nobody", {}, expect=404)
