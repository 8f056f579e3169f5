"""Finality, versions and repeats, through the real journal and projections. Opens and closes after 2 s, gap 3 s."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Row, select

from control_plane.store.engine import Store, Stores
from control_plane.store.tables import key_seq, outbox
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.reconcile.plant import WALL0_MS, Gateway, Road, steady

OPENED, CLOSED = "comboio.cold_chain.excursion.opened.v1", "comboio.cold_chain.excursion.closed.v1"
FAR = (1, 10_000_000)
HOUR_MS = 3_600_000


@pytest.fixture
def road(stores: Stores) -> Road:
    return Road(stores)


@pytest.fixture
def box() -> Gateway:
    return Gateway("gw-aaaaaaaaaa")


def placed(box: Gateway) -> pb.Batch:
    """Boot 1 began at WALL0; nothing urgent for a long time."""
    return box.anchors((1, 0, WALL0_MS), complete=FAR)


def said(rows: list[Row[Any]]) -> list[tuple[str, int, str, str]]:
    return [(row.type.split(".")[3], row.version, row.change, row.finality) for row in rows]


def at_s(row: Row[Any]) -> float:
    return float(row.time_ms - WALL0_MS) / 1000


def told(road: Road, dest: str) -> list[tuple[str, str]]:
    return [(body["type"].split(".")[3], body["change"]) for body in road.posted(dest)]


# --- finality ------------------------------------------------------------------------------------------


def test_a_provisional_event_becomes_final_when_the_watermark_passes(road: Road, box: Gateway) -> None:
    warm = box.readings(steady(1, 4, 12, 12, 12, 12), complete_ms=0)
    road.deliver(box, [placed(box), warm])
    road.settle()
    assert said(road.versions(box)) == [("opened", 1, "create", "provisional")]
    road.heartbeat(box, boot=1, mono_ms=5_000)
    road.settle()
    assert said(road.versions(box)) == [
        ("opened", 1, "create", "provisional"),
        ("opened", 2, "amend", "final"),
    ]
    assert [row.current for row in road.versions(box)] == [False, True]
    assert road.settle() == 0


def test_the_lower_of_both_lanes_decides(road: Road, box: Gateway) -> None:
    road.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=(1, 2_000)), box.readings(steady(1, 4, 12, 12, 12, 12))])
    road.settle()
    assert [row.finality for row in road.current(box)] == ["provisional"]


def test_nothing_is_placed_before_its_boot_has_an_anchor(road: Road, box: Gateway) -> None:
    road.deliver(box, [box.readings(steady(1, 4, 12, 12, 12, 12))])
    assert road.settle() == 0
    road.deliver(box, [placed(box)])  # alone: no readings come with it
    road.settle()
    assert said(road.current(box)) == [("opened", 1, "create", "final")]


def test_an_offline_gateway_holds_its_watermark_until_the_longest_wait_is_over(road: Road, box: Gateway) -> None:
    road.deliver(box, [placed(box), box.readings(steady(1, 4, 12, 12, 12, 12, 4, 4, 4, 4), complete_ms=0)])
    road.settle()
    road.clock.at_ms = WALL0_MS + HOUR_MS
    assert road.settle() == 0
    road.clock.at_ms += 60_000
    road.settle()
    assert [(row.finality, row.held) for row in road.current(box)] == [("final", "expired")] * 2
    assert [body.get("held") for body in road.posted("erp")] == ["expired", "expired"]
    assert road.settle() == 0


def test_final_only_is_told_finals_and_provisional_ok_everything(road: Road, box: Gateway) -> None:
    road.deliver(box, [placed(box), box.readings(steady(1, 4, 12, 12, 12, 12), complete_ms=0)])
    road.settle()
    assert (told(road, "erp"), told(road, "dispatch")) == ([], [("opened", "create")])
    road.heartbeat(box, boot=1, mono_ms=5_000)
    road.settle()
    (erp,) = road.posted("erp")
    first, second = road.posted("dispatch")
    assert (erp["change"], erp["finality"], erp["entityversion"], "supersedes" in erp) == ("create", "final", 2, False)
    assert (second["change"], second["finality"], second["supersedes"]) == ("amend", "final", first["id"])
    assert (first["finality"], erp["id"]) == ("provisional", second["id"])


# --- what an event says --------------------------------------------------------------------------------


def test_an_excursion_carries_its_facts(road: Road, box: Gateway) -> None:
    road.deliver(box, [placed(box), box.readings(steady(1, 4, *[12] * 5, *[4] * 5))])
    road.settle()
    opened, closed = (json.loads(row.data) for row in road.current(box))
    assert opened == {
        "rule": "cold-chain", "side": "high", "low": 2.0, "high": 8.0, "unit": "Cel",
        "gateway": box.id, "sensor": "cargo", "quantity": "temperature", "asset": "truck-17/box",
        "opened_at": "2025-11-22T10:00:01.500Z", "first_value": 12.0,
    }  # fmt: skip
    assert closed["opened_at"] == opened["opened_at"]
    assert (closed["closed_at"], closed["duration_s"], closed["peak"]) == ("2025-11-22T10:00:06.500Z", 5.0, 12.0)
    assert (closed["coverage_pct"], closed["max_gap_s"], closed["observations"]) == (100.0, 0.0, 8)
    assert closed["degree_minutes"] == round((4 * 4 + 0.5 * 4 / 2 * 2) / 60, 3)


def test_the_wire_form_is_a_cloud_event(road: Road, box: Gateway) -> None:
    road.clock.at_ms = WALL0_MS + 77_000
    road.deliver(box, [placed(box), box.readings(steady(1, 4, 12, 12, 12, 12))])
    road.settle()
    (body,), (row,) = road.posted("erp"), road.current(box)
    assert body["specversion"] == "1.0"
    assert (body["id"], body["subject"], body["type"]) == (row.id, box.subject, OPENED)
    assert body["id"] == f"evt_{row.entity_id}_cold-chain-excursion-opened_v1"
    assert "." not in body["id"]
    assert (body["time"], body["recordedtime"]) == ("2025-11-22T10:00:01.500Z", "2025-11-22T10:01:17.000Z")
    assert (body["sequence"], body["partitionkey"]) == ("0" * 19 + "1", box.subject)
    assert body["datahash"] == f"sha256:{row.data_sha256}"
    assert all(name.isalnum() and name.islower() for name in body)


def test_a_value_that_is_no_number_is_no_observation(road: Road, box: Gateway) -> None:
    strange = [float("inf"), 12, float("nan"), 12, float("-inf"), 12]
    road.deliver(box, [placed(box), box.readings(steady(1, 4, 12, *strange, 12))])
    road.settle()
    assert said(road.current(box)) == [("opened", 1, "create", "final")]


def test_only_cargo_is_watched(road: Road) -> None:
    box = Gateway("gw-aaaaaaaaaa", attrs={"role": "ambient"})
    road.deliver(box, [placed(box), box.readings(steady(1, 4, 12, 12, 12, 12))])
    assert road.settle() == 0


# --- late data -----------------------------------------------------------------------------------------


def test_late_data_supersedes_with_the_true_facts(road: Road, box: Gateway) -> None:
    before, between, after = (
        box.readings([(1000, 4), (1200, 4)]),
        box.readings([(1400, 4)]),
        box.readings(steady(2, 12, 12, 12)),
    )
    road.deliver(box, [placed(box), before, after])
    road.settle()
    (first,) = road.current(box)
    road.deliver(box, [between])
    road.settle()
    (second,) = road.current(box)
    assert (at_s(first), at_s(second)) == (1.6, 1.7)
    assert (second.entity_id, second.version, second.change) == (first.entity_id, 2, "supersede")
    assert (second.supersedes, second.id.endswith("_v2")) == (first.id, True)
    assert told(road, "dispatch") == [("opened", "create"), ("opened", "supersede")]
    assert told(road, "erp") == [("opened", "create")]


def test_late_data_retracts_what_did_not_occur_to_those_who_were_told(road: Road, box: Gateway) -> None:
    before, between, after = (
        box.readings(steady(1, 4, 12)),
        box.readings([(3500, 4)]),
        box.readings([(4000, 12), (5000, 12)]),
    )
    road.deliver(box, [placed(box), before, after])
    road.settle()
    road.deliver(box, [between])
    road.settle()
    (gone,) = road.current(box)
    assert (gone.change, gone.version) == ("retract", 2)
    assert told(road, "dispatch") == [("opened", "create"), ("opened", "retract")]
    assert told(road, "erp") == []


def test_a_final_event_taken_back_is_taken_back_everywhere(road: Road, box: Gateway) -> None:
    before, between, after = (
        box.readings(steady(1, 4, 12)),
        box.readings([(3500, 4)]),
        box.readings([(4000, 12), (5000, 12)]),
    )
    road.deliver(box, [placed(box), before, after])
    road.clock.at_ms = WALL0_MS + 2 * HOUR_MS  # nobody waits any longer
    road.settle()
    road.deliver(box, [between])
    road.settle()
    assert told(road, "erp") == [("opened", "create"), ("opened", "retract")]
    create, retract = road.posted("erp")
    assert (retract["supersedes"], retract["data"]) == (create["id"], create["data"])


def test_what_was_taken_back_may_come_again_as_a_later_version(road: Road, box: Gateway) -> None:
    """Decided at 3.6 s, taken back while the checkpoint passes 3.6 s, decided again at 4.5 s."""
    parts = [
        box.readings([(1000, 4)]),
        box.readings([(1900, 4)]),
        box.readings([(2000, 12), (3000, 12), (3600, 12)]),
        box.readings([(4500, 12)]),
    ]
    for some in ([placed(box), parts[0], parts[2]], [parts[1]], [parts[3]]):
        road.deliver(box, some)
        road.settle()
    assert sorted(said(road.versions(box))) == [
        ("opened", 1, "create", "provisional"),
        ("opened", 2, "retract", "provisional"),
        ("opened", 3, "supersede", "final"),
    ]
    assert told(road, "dispatch") == [("opened", "create"), ("opened", "retract"), ("opened", "supersede")]
    assert told(road, "erp") == [("opened", "create")]


# --- time ----------------------------------------------------------------------------------------------


def test_a_late_anchor_retimes_what_it_touches(road: Road, box: Gateway) -> None:
    road.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=(1, 10_000))])
    road.deliver(box, [box.readings(steady(1, 4, *[12] * 5, *[4] * 5))])
    road.settle()
    before = {row.type: (row.id, at_s(row)) for row in road.current(box)}
    road.deliver(box, [box.anchors((1, 100_000, WALL0_MS + 101_000), complete=FAR)])  # 1 % slow
    road.settle()
    after = {row.type: row for row in road.current(box)}
    for type_, (id_, time_s) in before.items():
        assert after[type_].supersedes == id_
        assert at_s(after[type_]) == pytest.approx(time_s * 1.01, abs=0.002)


def test_a_boot_found_to_lie_elsewhere_leaves_nothing_where_it_was(road: Road, box: Gateway) -> None:
    """Its clock ran so fast that between two readings, as they lie now, there is a gap: nothing is known to be warm."""
    road.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=(1, 1_500_000))])
    road.deliver(box, [box.readings(steady(1000, *[4] * 10, *[12] * 10))])
    road.settle()
    assert said(road.current(box)) == [("opened", 1, "create", "final")]
    road.deliver(box, [box.anchors((1, 2_000_000, WALL0_MS + 2_000_000 + 2 * HOUR_MS), complete=FAR)])
    road.settle()
    assert said(road.current(box)) == [("opened", 2, "retract", "final")]
    assert told(road, "erp") == [("opened", "create"), ("opened", "retract")]


# --- repeats -------------------------------------------------------------------------------------------


def test_equal_content_makes_no_version(road: Road, box: Gateway) -> None:
    every = [placed(box), box.readings(steady(1, 4, 12, 12, 12, 12))]
    road.deliver(box, every)
    assert road.settle() == 1
    road.deliver(box, every)
    road.restart()
    assert road.settle() == 0
    road.deliver(box, [box.readings(steady(6, 12, 12))])
    assert road.settle() == 0


def test_versions_of_an_entity_form_a_chain(road: Road, box: Gateway) -> None:
    parts = [box.readings([(1000 + 100 * i, 4)]) for i in range(5)]
    warm = box.readings(steady(2, 12, 12, 12))
    road.deliver(box, [placed(box), warm, parts[0]])
    road.settle()
    for part in (parts[2], parts[1], parts[4], parts[3]):
        road.deliver(box, [part])
        road.settle()
    versions = sorted(road.versions(box), key=lambda row: int(row.version))
    assert [row.version for row in versions] == list(range(1, len(versions) + 1))
    assert [row.supersedes for row in versions] == [None, *[row.id for row in versions[:-1]]]
    assert [row.current for row in versions] == [False] * (len(versions) - 1) + [True]
    assert len(versions) >= 3


def test_order_of_a_key_is_the_order_of_commits(road: Road, box: Gateway) -> None:
    road.deliver(box, [placed(box), box.readings(steady(1, 4, *[12] * 5, *[4] * 5))])
    road.settle()
    with road.stores.business.read() as connection:
        rows = connection.execute(select(outbox.c.dest, outbox.c.key, outbox.c.seq).order_by(outbox.c.seq)).fetchall()
        last = {row.dest: row.last for row in connection.execute(select(key_seq))}
    assert Counter(row.dest for row in rows) == {"erp": 2, "dispatch": 2}
    assert sorted(row.seq for row in rows if row.dest == "erp") == [1, 2]
    assert last == {"erp": 2, "dispatch": 2}


class Killed(BaseException):
    """What no code of ours catches."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, *, committed: bool) -> Iterator[list[str]]:
    """Die just before, or just after, the commit of the number-th write transaction of the worker."""
    names: list[str] = []
    write = Store.write

    @contextmanager
    def counted(store: Store) -> Iterator[Connection]:
        if store.name != "journal":  # ingest is not what dies here
            names.append(store.name)
        mine = len(names) if store.name != "journal" else -1
        with write(store) as connection:
            yield connection
            if mine == number and not committed:
                raise Killed
        if mine == number:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", counted)
        yield names


@pytest.mark.parametrize("committed", [False, True])
def test_a_kill_at_any_commit_makes_nothing_twice(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    def play(road: Road, box: Gateway, number: int) -> int:
        """The whole story; the worker dies once and is started again. Returns how many commits there were."""
        steps = [
            [placed(box), box.readings(steady(1, 4, *[12] * 5), complete_ms=0)],
            [box.readings(steady(7, *[4] * 5))],
        ]
        with killed_at(monkeypatch, number, committed=committed) as names:
            for step in steps:
                road.deliver(box, step)
                try:
                    road.settle()
                except Killed:
                    road.restart()
                    road.settle()
            return len(names)

    def outcome(road: Road, box: Gateway) -> list[Any]:
        rows = [(row.type, row.version, row.change, row.finality, row.time_ms) for row in road.versions(box)]
        keys = {box.subject}
        posts = [
            (body["type"], body["sequence"], body["entityversion"], body["change"])
            for dest in ("erp", "dispatch")
            for body in road.posted(dest)
            if body["subject"] in keys
        ]
        return [rows, posts]

    road, quiet = Road(stores), Gateway("gw-0000000000")
    commits = play(road, quiet, 0)
    wanted = outcome(road, quiet)
    assert commits >= 6
    assert len(wanted[0]) >= 3
    for number in range(1, commits + 1):
        box = Gateway(f"gw-{number:010d}")
        play(road, box, number)
        assert outcome(road, box) == wanted, f"killed at commit {number}"
