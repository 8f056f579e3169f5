"""Setting a value from a sensor's page: who is shown a form, what it refuses, what becomes of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, select

from control_plane.fleet.accounts import Role
from control_plane.fleet.browser_sessions import BrowserSessions
from control_plane.fleet.commands import end
from control_plane.store.engine import Stores
from control_plane.store.tables import command, series, user
from protos.comboio.v1 import batch_pb2 as pb
from protos.commands import Outcome, encoded
from tests.control_plane.fleet.fleets import register
from tests.control_plane.sealing import GATEWAY
from tests.control_plane.web.browsing import Browser
from tests.control_plane.web.test_access import signed_in

PAGE = f"/gateways/{GATEWAY}/sensors/cooling"
KEY = re.compile(r'name="key" value="([0-9a-f]{32})"')
LABELS = {"labels": json.dumps({"0": "off", "2": "defrost"})}
QUANTITIES: list[tuple[str, int, dict[str, str]]] = [
    ("setpoint", pb.VT_FLOAT64, {"writable": "true", "write_min": "-30", "write_max": "30"}),
    ("mode", pb.VT_INT64, {"writable": "true", **LABELS}),
    ("light", pb.VT_BOOL, {"writable": "true"}),
    ("room_name", pb.VT_STRING, {"writable": "true"}),
    ("room_temperature", pb.VT_FLOAT64, {}),
]


@pytest.fixture
def database(tmp_path: Path, sqlite_template: Path) -> str:
    """The queries are tested on both kinds beside `Commands`."""
    shutil.copytree(sqlite_template, tmp_path / "database")
    return f"sqlite:///{tmp_path / 'database'}"


@pytest.fixture
def plant(stores: Stores) -> None:
    """A controller as its gateway declared it."""
    register(stores, GATEWAY)
    with stores.telemetry.write() as connection:
        for number, (name, kind, attrs) in enumerate(QUANTITIES):
            row = {"key": f"{GATEWAY}/cooling/{name}", "gateway": GATEWAY, "sensor": "cooling", "name": name}
            more = {"unit": "Cel", "type": kind, "period_ms": 1000, "attrs": json.dumps(attrs), "epoch": 1}
            connection.execute(insert(series).values(**row, **more, schema=1, group_id=1, series_id=number))


@pytest.fixture
def people(app: Flask, stores: Stores, sessions: BrowserSessions, plant: None) -> dict[Role, Browser]:
    with stores.business.write() as connection:
        for role in Role:
            row = {"name": role.word, "password_hash": "", "role": role.word, "created_ms": 0}
            connection.execute(user.insert().values(row))
    return {role: signed_in(app, sessions, role.word) for role in Role}


def asked(stores: Stores) -> list[Any]:
    with stores.business.read() as connection:
        return list(connection.execute(select(command).order_by(command.c.number)))


def fill_in(browser: Browser, quantity: str, value: str, **fields: str) -> Any:
    key = KEY.search(browser.text(PAGE))
    assert key
    sure = {"sure": "yes", "key": key[1]} | fields
    return browser.send(PAGE, PAGE, quantity=quantity, value=value, **sure)


def test_an_operator_sets_a_value_and_sees_what_became_of_it(people: dict[Role, Browser], stores: Stores) -> None:
    browser = people[Role.OPERATOR]
    answer = fill_in(browser, "setpoint", "-4,5")
    assert (answer.status_code, answer.headers["Location"]) == (303, PAGE + "#commands")
    (row,) = asked(stores)
    assert (row.sensor, row.quantity, row.value, row.asked_by) == ("cooling", "setpoint", "-4.5", "operator")
    page = browser.text(PAGE)
    assert "Setpoint → -4.5" in page
    assert "waiting for the gateway" in page
    assert 'hx-trigger="every 2s"' in page
    with stores.business.write() as connection:
        held = encoded(Outcome(holds=3.0)).decode()
        text = "the device answered the write and holds 3"
        end(connection, GATEWAY, row.id, state="failed", text=text, result=held, now_ms=row.asked_ms)
    list_ = browser.text(f"/gateways/{GATEWAY}/commands/cooling", language="pt")
    assert "não feito" in list_
    assert "o aparelho tem 3" in list_
    assert text in list_
    assert "hx-trigger" not in list_


def test_values_are_what_the_quantity_takes(people: dict[Role, Browser], stores: Stores) -> None:
    browser = people[Role.ADMIN]
    page = browser.text(PAGE)
    assert '<option value="2" >defrost (2)</option>' in page
    assert "-30 … 30" in page
    assert "room_temperature" not in re.findall(r'name="quantity" value="(\w+)"', page)
    for quantity, value in (("mode", "2"), ("light", "true"), ("room_name", "dock 4")):
        assert fill_in(browser, quantity, value).status_code == 303
    assert [row.value for row in asked(stores)] == ["2", "true", '"dock 4"']


def test_the_same_form_sent_twice_asks_once(people: dict[Role, Browser], stores: Stores) -> None:
    for _ in range(2):
        assert fill_in(people[Role.OPERATOR], "setpoint", "3", key="0" * 32).status_code == 303
    assert len(asked(stores)) == 1


@pytest.mark.parametrize(
    ("quantity", "value", "fields", "words"),
    [
        ("setpoint", "cold", {}, "Give a number"),
        ("setpoint", "1e9", {}, "Give a number"),
        ("setpoint", "3", {"sure": ""}, "Tick the box"),
        ("room_temperature", "3", {}, "This can&#39;t be set"),
        ("setpoint", "3", {"key": "short"}, "This can&#39;t be set"),
    ],
)
def test_mistakes_are_told_and_nothing_is_asked(
    people: dict[Role, Browser], stores: Stores, quantity: str, value: str, fields: dict[str, str], words: str
) -> None:
    answer = fill_in(people[Role.OPERATOR], quantity, value, **fields)
    assert answer.status_code == 422
    assert words in answer.text
    assert not asked(stores)


def test_a_viewer_sees_the_list_and_no_form(people: dict[Role, Browser], stores: Stores) -> None:
    fill_in(people[Role.OPERATOR], "setpoint", "3")
    page = people[Role.VIEWER].text(PAGE)
    assert "Setpoint → 3" in page
    assert 'name="quantity"' not in page
    assert people[Role.VIEWER].send(PAGE, PAGE, quantity="setpoint", value="4", sure="yes").status_code == 403
    assert len(asked(stores)) == 1
