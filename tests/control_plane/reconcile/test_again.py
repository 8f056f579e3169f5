"""Business events after a batch was in quarantine: those that would have been, had it never been there."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.projections import again
from control_plane.projections.history import HistoryProjection
from control_plane.projections.projection import Portion
from control_plane.store.engine import Stores
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.reconcile.plant import WALL0_MS, Gateway, Road, steady

FAR = (1, 10_000_000)


def story(box: Gateway) -> list[pb.Batch]:
    """Too warm for a while in the first batch, then cool for long."""
    return [
        box.anchors((1, 0, WALL0_MS), complete=FAR),
        box.readings([*steady(1, 4, 4, 12, 12, 12, 12), *steady(7, 4, 4, 4, 4)], complete_ms=10_000),
        box.readings(steady(11, 4, 4, 4), complete_ms=13_000),
    ]


def excursions(road: Road, box: Gateway) -> list[tuple[Any, ...]]:
    found = [row for row in road.current(box) if "excursion" in row.type and row.change != "retract"]
    return [(row.type, row.time_ms, row.finality) for row in found]


def gaps(road: Road) -> list[tuple[str, bool]]:
    return [(row.change, row.current) for row in road.versions() if ".gap." in row.type]


def test_they_are_made_once_the_batch_can_be_read(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Road(stores)
    fine = Gateway("gw-bbbbbbbbbb")
    whole.deliver(fine, story(fine))
    whole.settle()
    want = excursions(whole, fine)
    assert len(want) == 2

    real = HistoryProjection.apply
    broken = [True]

    def apply(self: HistoryProjection, connection: Any, portion: Portion) -> None:
        real(self, connection, portion)
        met = {(one.gateway, one.lane, one.seq) for decoded in portion.decoded for one in decoded.envelopes}
        if broken[0] and ("gw-aaaaaaaaaa", pb.TELEMETRY, 1) in met:
            raise ValueError("a bug")

    monkeypatch.setattr(HistoryProjection, "apply", apply)
    road, box = Road(stores), Gateway("gw-aaaaaaaaaa")
    road.deliver(box, story(box))
    road.settle()
    assert excursions(road, box) == []
    broken[0] = False
    road.clock.at_ms += 60_000
    assert again.ask(stores.telemetry) == 1
    road.projector._looked_s = float("-inf")
    road.settle()
    assert excursions(road, box) == want
    assert all(change == "retract" for change, current in gaps(road) if current)
    assert road.settle() == 0
    road.restart()
    assert road.settle() == 0
