"""The pages read the same from SQLite and PostgreSQL."""

from __future__ import annotations

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
