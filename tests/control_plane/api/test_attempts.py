"""Attempts to log in, counted for all web processes together and per real caller."""

from __future__ import annotations

import msgspec
import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from control_plane.api.app import create_app
from control_plane.api.binding import Route
from control_plane.fleet.accounts import Accounts
from control_plane.store.engine import Stores
from control_plane.store.tables import failed_attempt
from tests.control_plane.api.conftest import WEB


def attempt(client: FlaskClient, password: str, *, by: str = "10.0.0.9", said: str | None = None) -> int:
    headers = {} if said is None else {"X-Forwarded-For": said}
    answer = client.post(
        "/api/v1/api-tokens", auth=("admin", password), headers=headers, environ_base={"REMOTE_ADDR": by}
    )
    return answer.status_code


@pytest.fixture
def replicas(table: tuple[Route, ...], accounts: Accounts, stores: Stores) -> list[FlaskClient]:
    web = msgspec.structs.replace(WEB, proxies=("10.0.0.5",))
    return [create_app(table, accounts=accounts, web=web, shared=stores.business).test_client() for _ in range(2)]


def test_it_does_not_matter_which_process_is_asked(
    replicas: list[FlaskClient], accounts: Accounts, stores: Stores
) -> None:
    if stores.business.sqlite:
        pytest.skip("one process serves SQLite")
    password = accounts.ensure_admin() or ""
    assert [attempt(replicas[n % 2], "wrong") for n in range(3)] == [401, 401, 401]
    assert [attempt(one, password) for one in replicas] == [429, 429]
    assert attempt(replicas[0], password, by="10.0.0.8") == 201
    with stores.business.write() as connection:  # a minute later
        connection.execute(update(failed_attempt).values(until_ms=1))
    assert [attempt(one, password) for one in replicas] == [201, 201]


def test_behind_a_declared_balancer_each_caller_is_counted_alone(
    replicas: list[FlaskClient], accounts: Accounts
) -> None:
    password = accounts.ensure_admin() or ""
    for _ in range(3):
        assert attempt(replicas[0], "wrong", by="10.0.0.5", said="192.0.2.1") == 401
    assert attempt(replicas[0], password, by="10.0.0.5", said="192.0.2.1") == 429
    assert attempt(replicas[0], password, by="10.0.0.5", said="192.0.2.2") == 201


def test_what_an_undeclared_caller_says_of_itself_does_not_count(
    replicas: list[FlaskClient], accounts: Accounts
) -> None:
    password = accounts.ensure_admin() or ""
    for number in range(3):
        assert attempt(replicas[0], "wrong", said=f"192.0.2.{number}") == 401
    assert attempt(replicas[0], password, said="192.0.2.9") == 429
