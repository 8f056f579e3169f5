"""Requests are checked against the views' types; every error is a problem."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from control_plane.api.app import create_app
from control_plane.api.binding import Permission, Route
from control_plane.errors import Conflict, Rejected, Retryable
from control_plane.fleet.accounts import Accounts
from control_plane.settings import WebSection

Bearer = dict[str, dict[str, str]]


def problem(answer: TestResponse, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    body: dict[str, Any] = answer.get_json(force=True)
    assert body["status"] == status
    assert body["type"] == "about:blank"
    assert body["title"]
    return body


def test_an_unknown_path_is_404(client: FlaskClient) -> None:
    problem(client.get("/api/v1/nothing"), 404)
    problem(client.get("/"), 404)


def test_a_missing_thing_is_404_with_its_name(client: FlaskClient, bearer: Bearer) -> None:
    for path in ("gateways/gw-x", "events/evt_x", "events/evt_x/versions"):
        body = problem(client.get(f"/api/v1/{path}", headers=bearer["viewer"]), 404)
        assert path.split("/")[1] in body["detail"]


def test_a_wrong_method_is_405_and_says_which_are_right(client: FlaskClient) -> None:
    answer = client.put("/api/v1/health")
    problem(answer, 405)
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}


def test_a_body_that_is_not_json_is_400(client: FlaskClient, bearer: Bearer) -> None:
    answer = client.post("/api/v1/join-tokens", data=b"{", content_type="application/json", headers=bearer["admin"])
    assert "not JSON" in problem(answer, 400)["detail"]


def test_another_content_type_is_415(client: FlaskClient, bearer: Bearer) -> None:
    problem(client.post("/api/v1/join-tokens", data=b"x", content_type="text/plain", headers=bearer["admin"]), 415)


def test_a_body_over_the_limit_is_413(client: FlaskClient, bearer: Bearer) -> None:
    problem(client.post("/api/v1/join-tokens", json={"gateway_name": "x" * 2000}, headers=bearer["admin"]), 413)


def test_mistakes_in_a_body_are_pointed_at_with_suggestions(client: FlaskClient, bearer: Bearer) -> None:
    answer = client.post("/api/v1/join-tokens", json={"gatway_name": "a", "asset": 3}, headers=bearer["admin"])
    errors = {error["pointer"]: error["message"] for error in problem(answer, 422)["errors"]}
    assert "did you mean gateway_name?" in errors["/gatway_name"]


@pytest.mark.parametrize(
    ("query", "pointer", "text"),
    [
        ("limit=1&limit=2", "?limit", "more than once"),
        ("limit=x", "?limit", "int"),
        ("limit=0", "?limit", ">= 1"),
        ("limt=1", "?limt", "known: limit"),
        ("cursor=%00", "?cursor", "NUL"),
        ("cursor=WzFd", "?cursor", "not a cursor"),
        ("current=maybe", "?current", "bool"),
        ("finality=perhaps", "?finality", "perhaps"),
    ],
)
def test_mistakes_in_a_query_are_422(client: FlaskClient, bearer: Bearer, query: str, pointer: str, text: str) -> None:
    (error,) = problem(client.get(f"/api/v1/events?{query}", headers=bearer["viewer"]), 422)["errors"]
    assert error["pointer"] == pointer
    assert text in error["message"]


class Listed(msgspec.Struct, frozen=True):
    series: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Conflict("stale"), 409),
        (Rejected("never"), 422),
        (Retryable("busy", after_s=7), 503),
        (ZeroDivisionError("secret"), 500),
    ],
)
def test_errors_of_a_view_become_problems(accounts: Accounts, error: Exception, status: int) -> None:
    def failing() -> Listed:
        raise error

    route = Route(method="GET", path="/failing", view=failing, permission=Permission.PUBLIC, summary="")
    answer = create_app([route], accounts=accounts, web=WebSection()).test_client().get("/api/v1/failing")
    assert "secret" not in problem(answer, status)["detail"]
    assert answer.headers.get("Retry-After") == ("7" if status == 503 else None)


def test_a_repeated_key_is_welcome_where_the_field_is_a_list(accounts: Accounts) -> None:
    def echo(query: Listed) -> Listed:
        return query

    route = Route(method="GET", path="/echo", view=echo, permission=Permission.PUBLIC, summary="")
    client = create_app([route], accounts=accounts, web=WebSection()).test_client()
    assert client.get("/api/v1/echo?series=a&series=b").get_json() == {"series": ["a", "b"]}


def test_the_document_describes_every_route(client: FlaskClient, table: tuple[Route, ...]) -> None:
    document = client.get("/api/v1/openapi.json").get_json()
    described = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert described == {route.name for route in table} | {"GET /openapi.json"}
    events = {p["name"]: p for p in document["paths"]["/events"]["get"]["parameters"]}
    assert set(events) == {
        "limit", "cursor", "type", "subject", "gateway", "current", "finality", "from", "to", "order",
    }  # fmt: skip
    answers = document["paths"]["/join-tokens"]["post"]["responses"]
    assert set(answers) == {"201", "400", "401", "403", "413", "415", "422", "500"}
    assert answers["201"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/JoinTokenMade"}
    assert list(answers["422"]["content"]) == ["application/problem+json"]


def test_every_reference_in_the_document_leads_somewhere(client: FlaskClient) -> None:
    document = client.get("/api/v1/openapi.json").get_json()
    names = set(document["components"]["schemas"])
    assert references(document) <= {f"#/components/schemas/{name}" for name in names}


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*(references(value) for value in node.values()))
    return set().union(*(references(item) for item in node)) if isinstance(node, list) else set()
