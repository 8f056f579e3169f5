"""The pages read the same from SQLite and PostgreSQL."""

from __future__ import annotations

import pytest

from tests.control_plane.web.browsing import Browser
from tests.control_plane.web.seeding import ENTITY, HALL, TRUCK, Seeds, event_id


def test_every_page_is_there_on_each_database(seeds: Seeds, admin: Browser) -> None:
    for path, words in {
        "/?status=late": "41 batches",
        f"/gateways/{TRUCK}": "Supply temperature",
        f"/gateways/{TRUCK}/sensors/cooling": "Supply temperature",
        "/events?from=2025-11-22": "Cold-chain excursion closed",
        f"/events/{event_id(ENTITY, 1)}": "SM-2026-00412",
        "/enrol": "None is waiting to be used.",
    }.items():
        assert words in admin.text(path), path
    with admin.client.get(f"/live/gateways/{HALL}", buffered=False) as answer:
        frames = answer.iter_encoded()
        next(frames)
        assert b"41 batches" in next(frames)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/gateways/gw%00", 404),
        (f"/gateways/{TRUCK}/sensors/a%00", 404),
        ("/events/%00", 404),
        ("/events?subject=%00", 422),
        ("/?q=%00", 422),
        ("/data/readings?series=%00", 422),
        ("/data/readings?series=%F0%9F%9A%82%27--", 404),
    ],
)
def test_a_strange_name_is_no_failure_on_any_database(admin: Browser, path: str, status: int) -> None:
    assert admin.get(path).status_code == status


def test_strange_forms_are_no_failure_on_any_database(admin: Browser) -> None:
    assert admin.client.post("/enrol", data={"form_key": "ключ\0"}).status_code == 403
    assert admin.send("/enrol", "/enrol", name="\0", life_s="3600").status_code == 422
    assert admin.send("/enrol", "/enrol", name="a\0b", life_s="3600").status_code == 200
    assert admin.send("/login", "/", name="x\0", password="\0").status_code == 401
