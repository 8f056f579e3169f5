"""Who was given some groups sees their gateways and what hangs on these, on every page; the rest is not there."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from sqlalchemy import delete, insert

from control_plane.api.routes import Parts
from control_plane.fleet.browser_sessions import BrowserSessions
from control_plane.store.tables import gateway_group, gateway_group_member, user
from control_plane.web.app import SESSION
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.web.browsing import Browser
from tests.control_plane.web.seeding import AWAY, ENTITY, EVIL_ENTITY, HALL, HOSTILE, NEVER, TRUCK, Seeds, event_id


def member(parts: Parts, slug: str, *gateways: str) -> None:
    with parts.stores.business.write() as connection:
        connection.execute(insert(gateway_group).values(slug=slug, name=slug, priority=0, created_ms=0))
        connection.execute(insert(gateway_group_member), [{"slug": slug, "gateway": one} for one in gateways])


@pytest.fixture
def bound(app: Flask, parts: Parts, seeds: Seeds, sessions: BrowserSessions, admin: Browser) -> Browser:
    """An admin of the group `halls`: the hall alone."""
    member(parts, "halls", HALL)
    member(parts, "trucks", TRUCK, AWAY)
    with parts.stores.business.write() as connection:
        row = {"name": "ana", "password_hash": "", "role": "admin", "created_ms": 0, "groups": '["halls"]'}
        connection.execute(insert(user).values(row))
    client = app.test_client()
    client.set_cookie(SESSION, sessions.begin("ana").secret)
    return Browser(client)


def test_the_fleet_is_the_callers_part_of_it(bound: Browser, admin: Browser) -> None:
    def shown(browser: Browser) -> set[str]:
        return set(re.findall(r'id="row-([\w-]+)"', browser.text("/")))

    assert shown(bound) == {HALL}
    assert {HALL, TRUCK, AWAY, NEVER} < shown(admin)
    assert "No gateway fits this filter." in bound.text(f"/?q={TRUCK}")


def test_a_gateway_of_others_is_not_there_on_any_page(bound: Browser, admin: Browser) -> None:
    evil, mine = event_id(EVIL_ENTITY, 1), event_id(ENTITY, 2)
    for path in (
        f"/gateways/{TRUCK}",
        f"/gateways/{HOSTILE}",
        f"/gateways/{TRUCK}/sensors/cooling",
        f"/live/gateways/{TRUCK}",
        f"/data/readings?series={TRUCK}/cooling/supply_temperature",
        f"/data/readings.csv?series={TRUCK}/cooling/supply_temperature",
        f"/events/{mine}",
        f"/events/{evil}",
    ):
        refused = bound.get(path)
        assert (path, refused.status_code) == (path, 404)
        answer = admin.get(path)
        assert (path, answer.status_code) == (path, 200)
        answer.close()
    sent = bound.client.post(f"/gateways/{TRUCK}/retire", data={"form_key": bound.key(f"/gateways/{HALL}")})
    assert sent.status_code == 404
    assert "Retired" not in admin.text(f"/gateways/{TRUCK}")


def test_what_is_not_given_reads_like_what_is_not_there(bound: Browser) -> None:
    strange = bound.get(f"/gateways/{TRUCK}").text.replace(TRUCK, "gw-x")
    assert re.sub(r"[0-9a-f]{64}", "", strange) == re.sub(r"[0-9a-f]{64}", "", bound.get("/gateways/gw-x").text)


def test_a_gateway_of_ones_own_is_whole(bound: Browser) -> None:
    assert "Relative humidity" in bound.text(f"/gateways/{HALL}")
    assert "Temperature" in bound.text(f"/gateways/{HALL}/sensors/hall")
    assert bound.get(f"/data/readings?series={HALL}/hall/temperature").status_code == 200


def test_events_of_others_are_not_listed(bound: Browser, admin: Browser) -> None:
    assert "/events/evt_" not in bound.text("/events")
    assert "/events/evt_" not in bound.text(f"/events?gateway={TRUCK}")
    assert "/events/evt_" in admin.text("/events")


def test_streams_show_the_callers_part(bound: Browser) -> None:
    with bound.client.get("/live/fleet", buffered=False) as answer:
        frames = answer.iter_encoded()
        next(frames)
        first = next(frames)
    assert HALL.encode() in first
    assert TRUCK.encode() not in first


def test_a_stream_ends_when_its_reader_was_given_something_else(
    bound: Browser, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.broadcast.RIGHTS_S", 0.0)
    with bound.client.get("/live/fleet", buffered=False) as answer:
        frames = answer.iter_encoded()
        next(frames)
        assert HALL.encode() in next(frames)
        with parts.stores.business.write() as connection:
            connection.execute(delete(gateway_group_member).where(gateway_group_member.c.slug == "halls"))
        assert list(frames) == []
    assert HALL not in bound.text("/")


def test_enrolling_registers_in_a_group_of_ones_own(
    bound: Browser, admin: Browser, parts: Parts, clock: TurnedClock
) -> None:
    parts.enrolment.join_tokens.create(gateway_name="somebody else's")
    assert "somebody else&#39;s" not in bound.text("/enrol")
    for group in ("", "trucks"):
        refused = bound.send("/enrol", "/enrol", name="hall 3", life_s="3600", group=group)
        assert refused.status_code == 422
        assert "Choose one of your groups." in refused.text
    refused = bound.send("/enrol", "/enrol", name="hall 3", asset="hall-3", life_s="3600", group="halls")
    assert refused.status_code == 422
    assert "asset hall-3" in refused.text
    made = bound.send("/enrol", "/enrol", name="hall 3", life_s="3600", group="halls")
    assert "--token cj1." in made.text
    assert "hall 3" in bound.text("/")
    ours = re.findall(r'action="/enrol/(\w+)/revoke"', bound.text("/enrol"))
    all_of_them = re.findall(r'action="/enrol/(\w+)/revoke"', admin.text("/enrol"))
    assert len(ours) == 1
    (other,) = set(all_of_them) - set(ours)
    assert bound.send(f"/enrol/{other}/revoke", "/enrol").status_code == 404
    assert bound.send(f"/enrol/{ours[0]}/revoke", "/enrol").status_code == 303
    assert re.findall(r'action="/enrol/(\w+)/revoke"', admin.text("/enrol")) == [other]
