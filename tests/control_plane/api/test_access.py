"""Every route says who may use it, and holds to it."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from control_plane.api.binding import Permission, Route
from control_plane.fleet.accounts import Accounts, Role

EVERYBODYS = {"GET /me", "DELETE /me"}
Bearer = dict[str, dict[str, str]]


def filled(path: str) -> str:
    return "/api/v1" + re.sub(r"{\w+}", "nothing", path)


def test_every_rule_of_the_application_is_in_the_route_table(app: Flask, table: tuple[Route, ...]) -> None:
    rules = {rule.endpoint for rule in app.url_map.iter_rules()}
    assert rules == {route.name for route in table} | {"GET /openapi.json"}


def test_only_these_routes_are_open_to_everybody(table: tuple[Route, ...]) -> None:
    public = {route.name for route in table if route.permission is Permission.PUBLIC}
    assert public == {"GET /health", "GET /enrolment"}


def test_without_credentials_every_other_route_answers_401(client: FlaskClient, table: tuple[Route, ...]) -> None:
    for route in table:
        if route.permission is not Permission.PUBLIC:
            answer = client.open(filled(route.path), method=route.method)
            assert (route.name, answer.status_code) == (route.name, 401)
            assert answer.headers["WWW-Authenticate"]
            assert answer.content_type == "application/problem+json"


def test_a_lower_role_gets_403_and_a_sufficient_one_does_not(
    client: FlaskClient, table: tuple[Route, ...], bearer: Bearer
) -> None:
    for route in table:
        if isinstance(route.permission.value, Role) and route.name not in EVERYBODYS:
            for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN):
                answer = client.open(filled(route.path), method=route.method, headers=bearer[role.word])
                answer.close()
                refused = answer.status_code == 403
                assert (route.name, role, refused) == (route.name, role, role < route.permission.value)
                assert answer.status_code < 500


def test_an_integrator_gets_events_and_deliveries_and_nothing_else(
    client: FlaskClient, table: tuple[Route, ...], bearer: Bearer
) -> None:
    answered = set()
    for route in table:
        if route.permission is not Permission.PUBLIC and route.name not in EVERYBODYS:
            answer = client.open(filled(route.path), method=route.method, headers=bearer["integrator"])
            answer.close()
            if answer.status_code != 403:
                answered.add(route.name)
    assert answered == {
        "GET /live",
        "GET /events",
        "GET /events/{event_id}",
        "GET /events/{event_id}/versions",
        "GET /deliveries",
        "GET /deliveries/{delivery_id}",
        "POST /deliveries/{delivery_id}/replay",
        "POST /deliveries/{delivery_id}/skip",
        "POST /deliveries/{delivery_id}/fix",
        "GET /destinations",
        "GET /destinations/{name}",
        "POST /destinations/{name}/resume",
        "POST /destinations/{name}/replay",
        "POST /destinations/{name}/cutover",
    }


def test_a_token_with_some_permissions_gets_no_more_than_these(
    client: FlaskClient, table: tuple[Route, ...], accounts: Accounts
) -> None:
    given = frozenset({"fleet:write", "data:read"})
    made = accounts.create_token(name="part", role=Role.ADMIN, permissions=given)
    headers = {"Authorization": f"Bearer {made.token}"}
    for route in table:
        if route.permission is not Permission.PUBLIC and route.name not in EVERYBODYS:
            answer = client.open(filled(route.path), method=route.method, headers=headers)
            answer.close()
            first = route.path.split("/")[1]
            fleet = first in {"gateways", "sensors", "assets", "places", "groups", "retention", "health"}
            read = first in {"series", "readings", "gaps", "completeness", "ledger", "live"}
            data = (read or route.path.endswith("/evidence")) and route.method == "GET"
            apart = "config" in route.path or "commands" in route.path
            may = not apart and (fleet or data)
            assert (route.name, answer.status_code != 403) == (route.name, may)


def test_every_token_may_ask_whose_it_is_and_log_out(client: FlaskClient, bearer: Bearer) -> None:
    for role in Role:
        me = client.get("/api/v1/me", headers=bearer[role.word])
        assert (me.get_json()["role"], me.get_json()["groups"]) == (role.word, None)
        assert client.delete("/api/v1/me", headers=bearer[role.word]).status_code == 204
        assert client.get("/api/v1/me", headers=bearer[role.word]).status_code == 401


def test_a_token_that_ended_is_refused(client: FlaskClient, accounts: Accounts, bearer: Bearer) -> None:
    made = accounts.create_token(name="a", role=Role.ADMIN)
    headers = {"Authorization": f"Bearer {made.token}"}
    assert client.get("/api/v1/gateways", headers=headers).status_code == 200
    assert client.delete(f"/api/v1/api-tokens/{made.id}", headers=bearer["admin"]).status_code == 204
    assert client.get("/api/v1/gateways", headers=headers).status_code == 401


def test_a_password_buys_a_token(client: FlaskClient, accounts: Accounts) -> None:
    password = accounts.ensure_admin() or ""
    made = client.post("/api/v1/api-tokens", auth=("admin", password))
    assert made.status_code == 201
    headers = {"Authorization": f"Bearer {made.get_json()['token']}"}
    listed = client.get("/api/v1/api-tokens", headers=headers).get_json()["items"]
    assert [(item["role"], item["name"]) for item in listed] == [("admin", "admin")]
    assert "secret_sha256" not in listed[0]
    lesser = client.post("/api/v1/api-tokens", auth=("admin", password), json={"role": "viewer", "ttl_days": 1})
    assert lesser.get_json()["role"] == "viewer"


def test_wrong_passwords_are_slowed_down_but_right_ones_are_not(client: FlaskClient, accounts: Accounts) -> None:
    password = accounts.ensure_admin() or ""
    for _ in range(5):
        assert client.post("/api/v1/api-tokens", auth=("admin", password)).status_code == 201
    for _ in range(3):
        assert client.post("/api/v1/api-tokens", auth=("admin", "wrong")).status_code == 401
    blocked = client.post("/api/v1/api-tokens", auth=("admin", password))
    assert blocked.status_code == 429
    assert int(blocked.headers["Retry-After"]) > 0
    assert blocked.content_type == "application/problem+json"


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic !!", "nonsense", "Bearer \u00e9"])
def test_a_strange_authorization_header_is_401(client: FlaskClient, header: str) -> None:
    assert client.get("/api/v1/gateways", headers={"Authorization": header}).status_code == 401
    assert client.post("/api/v1/api-tokens", headers={"Authorization": header}).status_code == 401
