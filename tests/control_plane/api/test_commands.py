"""Commands over the REST API: who may, what is refused before it is sent, what is shown."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from control_plane.fleet.accounts import Accounts, Role
from tests.control_plane.api.editing import Api, gateway, group

COLDER = {"sensor": "cooling", "quantity": "setpoint", "value": -4.5}


@pytest.fixture
def gw(admin: Api) -> str:
    return gateway(admin, "truck 17")


def post(client: FlaskClient, headers: dict[str, str], gw: str, body: Any = None, *, key: str = "k-1") -> TestResponse:
    sent = headers | ({"Idempotency-Key": key} if key else {})
    return client.post(f"/api/v1/gateways/{gw}/commands", json=body or COLDER, headers=sent)


def token(accounts: Accounts, **more: Any) -> dict[str, str]:
    made = accounts.create_token(name="t", role=more.pop("role", Role.OPERATOR), **more)
    return {"Authorization": f"Bearer {made.token}"}


def test_an_operator_asks_and_everybody_sees_who_it_was(
    client: FlaskClient, bearer: dict[str, dict[str, str]], gw: str
) -> None:
    answer = post(client, bearer["operator"], gw, COLDER | {"expect": 3, "ttl_s": 90})
    assert answer.status_code == 202, answer.text
    made = answer.get_json()
    assert (made["state"], made["value"], made["expect"], made["by"]) == ("waiting", -4.5, 3, "test")
    (listed,) = client.get(f"/api/v1/gateways/{gw}/commands", headers=bearer["viewer"]).get_json()["items"]
    one = client.get(f"/api/v1/gateways/{gw}/commands/{made['id']}", headers=bearer["viewer"]).get_json()
    assert listed == one == made
    missing = client.get(f"/api/v1/gateways/{gw}/commands/cmd-none", headers=bearer["viewer"])
    assert missing.status_code == 404


def test_the_same_key_again_is_the_same_command(
    client: FlaskClient, bearer: dict[str, dict[str, str]], gw: str
) -> None:
    first, again = (post(client, bearer["operator"], gw) for _ in range(2))
    assert first.get_json() == again.get_json()
    other = post(client, bearer["operator"], gw, COLDER | {"value": 1})
    assert other.status_code == 409
    assert "given to another command" in other.get_json()["detail"]


def test_without_a_key_nothing_is_asked(client: FlaskClient, bearer: dict[str, dict[str, str]], gw: str) -> None:
    answer = post(client, bearer["operator"], gw, key="")
    assert answer.status_code == 428
    assert "Idempotency-Key" in answer.get_json()["detail"]
    assert post(client, bearer["operator"], gw, key="with blank").status_code == 422


@pytest.mark.parametrize("role", ["viewer", "integrator"])
def test_others_may_not(client: FlaskClient, bearer: dict[str, dict[str, str]], gw: str, role: str) -> None:
    assert post(client, bearer[role], gw).status_code == 403


def test_a_token_needs_that_very_permission(client: FlaskClient, accounts: Accounts, gw: str) -> None:
    no = token(accounts, permissions=frozenset({"fleet:write", "configuration:write", "commands:read"}))
    refused = post(client, no, gw)
    assert refused.status_code == 403
    assert "was not given commands:write" in refused.get_json()["detail"]
    assert post(client, token(accounts, permissions=frozenset({"commands:write"})), gw).status_code == 202


def test_a_gateway_of_other_groups_is_not_there(client: FlaskClient, accounts: Accounts, admin: Api, gw: str) -> None:
    group(admin, "mine")
    bound = token(accounts, groups=frozenset({"mine"}))
    assert post(client, bound, gw).status_code == 404
    assert client.get(f"/api/v1/gateways/{gw}/commands", headers=bound).status_code == 404
    assert client.get(f"/api/v1/gateways/{gw}/commands/cmd-1", headers=bound).status_code == 404


def test_what_cannot_be_meant_is_refused_with_its_place(
    client: FlaskClient, bearer: dict[str, dict[str, str]], gw: str
) -> None:
    mistakes: list[dict[str, Any]] = [
        {"sensor": "No"},
        {"quantity": "Set point"},
        {"value": None},
        {"value": [1]},
        {"value": "x" * 201},
        {"ttl_s": 0},
        {"ttl_s": 86_401},
        {"force": True},
    ]
    for changed in mistakes:
        answer = post(client, bearer["operator"], gw, COLDER | changed)
        assert answer.status_code == 422
        assert [wrong["pointer"] for wrong in answer.get_json()["errors"]] == [f"/{one}" for one in changed]
