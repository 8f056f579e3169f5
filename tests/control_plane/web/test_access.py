"""Every page says who may see it, and holds to it; every form carries its key; sessions begin and end."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from control_plane.api.binding import Permission
from control_plane.api.routes import Parts
from control_plane.fleet.accounts import Accounts, Role
from control_plane.fleet.browser_sessions import IDLE_MS, LIFE_MS, BrowserSessions
from control_plane.store.tables import browser_session, user
from control_plane.web.app import HEADERS, SESSION
from control_plane.web.live import Lifetime
from control_plane.web.pages import page_routes
from control_plane.web.render import Renderer
from control_plane.web.visit import PageRoute, local_path
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.web.browsing import Browser


@pytest.fixture
def table(parts: Parts, sessions: BrowserSessions) -> tuple[PageRoute, ...]:
    return page_routes(parts, sessions=sessions, renderer=Renderer(), lifetime=Lifetime(), config_view=None)


def signed_in(app: Flask, sessions: BrowserSessions, name: str) -> Browser:
    client = app.test_client()
    client.set_cookie(SESSION, sessions.begin(name).secret)
    return Browser(client)


@pytest.fixture
def people(app: Flask, parts: Parts, sessions: BrowserSessions) -> dict[Role, Browser]:
    """Somebody of each role."""
    with parts.stores.business.write() as connection:
        for role in Role:
            row = {"name": role.word, "password_hash": "", "role": role.word, "created_ms": 0}
            connection.execute(user.insert().values(row))
    return {role: signed_in(app, sessions, role.word) for role in Role}


def filled(path: str) -> str:
    return re.sub(r"<[\w:]+>", "nothing", path)


def test_every_address_of_the_pages_is_in_the_table(app: Flask, table: tuple[PageRoute, ...]) -> None:
    rules = {rule.endpoint for rule in app.url_map.iter_rules() if not rule.rule.startswith("/api/")}
    assert rules == {route.name for route in table}


def test_only_these_are_open_to_everybody(table: tuple[PageRoute, ...]) -> None:
    public = {route.name for route in table if route.permission is Permission.PUBLIC}
    assert public == {
        "page GET /login",
        "page POST /login",
        "page POST /language",
        "page GET /static/<path:name>",
        "page GET /favicon.ico",
    }


def test_whoever_is_not_signed_in_is_asked_to(anybody: Browser, table: tuple[PageRoute, ...]) -> None:
    for route in table:
        if route.permission is not Permission.PUBLIC:
            answer = anybody.client.open(filled(route.path), method=route.method)
            told = answer.headers.get("Location", "")
            asked = answer.status_code == 303 and told.startswith("/login")
            assert asked or answer.status_code == 401, route.name


def test_a_lower_role_is_refused_and_a_sufficient_one_is_not(
    people: dict[Role, Browser], table: tuple[PageRoute, ...]
) -> None:
    for route in table:
        if not isinstance(route.permission.value, Role) or route.path == "/logout":
            continue
        for role, browser in people.items():
            sent = {"form_key": browser.key("/")} if route.method == "POST" else {}
            answer = browser.client.open(filled(route.path), method=route.method, data=sent)
            answer.close()
            refused = answer.status_code == 403
            assert (route.name, role, refused) == (route.name, role, role < route.permission.value)
            assert answer.status_code < 500


def test_a_form_without_its_key_changes_nothing(admin: Browser, table: tuple[PageRoute, ...]) -> None:
    for route in table:
        if route.method == "POST":
            for key in ({}, {"form_key": ""}, {"form_key": "0" * 64}):
                answer = admin.client.post(filled(route.path), data={"name": "x", **key})
                assert answer.status_code == 403, route.name
                assert "no longer valid" in answer.text
    assert admin.get("/").status_code == 200


def test_a_stranger_cannot_sign_somebody_in_by_a_form_of_his_own(anybody: Browser, accounts: Accounts) -> None:
    password = accounts.ensure_admin() or ""
    answer = anybody.client.post("/login", data={"name": "admin", "password": password})
    assert answer.status_code == 403
    assert SESSION not in answer.headers.get("Set-Cookie", "")


def test_signing_in_begins_a_session_and_signing_out_ends_it(app: Flask, accounts: Accounts, parts: Parts) -> None:
    browser = Browser(app.test_client())
    answer = browser.sign_in("admin", accounts.ensure_admin() or "")
    cookie = next(one for one in answer.headers.getlist("Set-Cookie") if one.startswith(SESSION))
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie  # this was plain HTTP on loopback
    secret = cookie.partition("=")[2].partition(";")[0]
    with parts.stores.business.read() as connection:
        (row,) = connection.execute(browser_session.select()).all()
    assert secret not in str(row)
    assert browser.get("/").status_code == 200
    assert browser.send("/logout", "/").status_code == 303
    assert browser.get("/").status_code == 303
    browser.client.set_cookie(SESSION, secret)
    assert browser.get("/").status_code == 303


def test_over_https_the_cookie_is_for_https_only(app: Flask, accounts: Accounts) -> None:
    client = app.test_client()
    page = client.get("/login", base_url="https://fleet.example")
    key = re.search(r'form_key" value="(\w+)"', page.text)
    assert key
    sent = {"form_key": key[1], "name": "admin", "password": accounts.ensure_admin() or ""}
    answer = client.post("/login", base_url="https://fleet.example", data=sent)
    assert answer.status_code == 303
    assert all("Secure" in one for one in answer.headers.getlist("Set-Cookie"))


def test_a_session_ends_by_rest_by_age_and_by_a_new_password(
    sessions: BrowserSessions, accounts: Accounts, clock: TurnedClock
) -> None:
    accounts.ensure_admin()
    rested, busy, old = (sessions.begin("admin").secret for _ in range(3))
    for _ in range(14):
        clock.forward(seconds=IDLE_MS / 1000 - 60)
        assert sessions.caller(busy)
    assert sessions.caller(rested) is None
    clock.forward(seconds=LIFE_MS / 1000)
    assert sessions.caller(busy) is None
    fresh = sessions.begin("admin").secret
    assert sessions.caller(fresh)
    accounts.reset_password("admin")
    assert sessions.caller(fresh) is None
    assert sessions.caller(old) is None


def test_ended_sessions_are_cleared_away(
    sessions: BrowserSessions, accounts: Accounts, clock: TurnedClock, parts: Parts
) -> None:
    accounts.ensure_admin()
    for _ in range(3):
        sessions.begin("admin")
    clock.forward(days=8)
    sessions.begin("admin")
    with parts.stores.business.read() as connection:
        assert len(connection.execute(browser_session.select()).all()) == 1


def test_wrong_passwords_are_slowed_down_and_the_name_stays_typed(anybody: Browser, accounts: Accounts) -> None:
    password = accounts.ensure_admin() or ""
    for _ in range(3):
        answer = anybody.sign_in("ad<min", "wrong")
        assert answer.status_code == 401
        assert 'value="ad&lt;min"' in answer.text
    blocked = anybody.sign_in("admin", password)
    assert blocked.status_code == 429
    assert "Too many attempts" in blocked.text
    assert 'value="admin"' in blocked.text


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\nb", "javascript:alert(1)"]
)
def test_nobody_is_sent_elsewhere(elsewhere: str, anybody: Browser, accounts: Accounts) -> None:
    assert local_path(elsewhere) == "/"
    key = anybody.key("/login")
    sent = {"form_key": key, "name": "admin", "password": accounts.ensure_admin() or ""}
    answer = anybody.client.post("/login", query_string={"next": elsewhere}, data=sent)
    assert answer.headers["Location"] == "/"


def test_after_signing_in_one_is_where_one_wanted_to_be(anybody: Browser, accounts: Accounts) -> None:
    asked = anybody.get("/events?finality=final").headers["Location"]
    sent = {"form_key": anybody.key("/login"), "name": "admin", "password": accounts.ensure_admin() or ""}
    assert anybody.client.post(asked, data=sent).headers["Location"] == "/events?finality=final"


def test_every_page_forbids_what_is_not_ours(admin: Browser, anybody: Browser) -> None:
    for answer in (admin.get("/"), admin.get("/nothing"), anybody.get("/login"), anybody.get("/static/app.js")):
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        answer.close()


def test_the_language_is_the_browsers_until_one_chooses(admin: Browser) -> None:
    assert "Frota" in admin.text("/", "pt-BR,pt;q=0.9,en;q=0.5")
    assert admin.send("/language", "/", language="pt", next="/events").headers["Location"] == "/events"
    assert "Eventos de negócio" in admin.text("/events", "en")
    admin.send("/language", "/", language="xx", next="/")
    assert "Frota" in admin.text("/", "en")


def test_static_files_are_kept_by_browsers_and_never_set_cookies(anybody: Browser) -> None:
    answer = anybody.get("/static/style.css")
    assert "immutable" in answer.headers["Cache-Control"]
    assert "Set-Cookie" not in answer.headers
    answer.close()
    for outside in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/nothing.js"):
        assert anybody.get(outside).status_code == 404
