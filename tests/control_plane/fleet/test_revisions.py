from __future__ import annotations

import threading

import msgspec
import pytest
from sqlalchemy import select

from control_plane.errors import Conflict, NotFound, Rejected
from control_plane.fleet.layers import Group, Key
from control_plane.fleet.offers import Offers, due
from control_plane.fleet.revisions import Saved, StaleEditError, UnfitError
from control_plane.fleet.settle import Settling
from control_plane.fleet.status import Statuses, judge
from control_plane.store.engine import Stores
from control_plane.store.tables import config_desired, config_revision, integrity
from protos.comboio.v1 import link_pb2 as wire
from protos.config import digest, from_json
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.fleet.fleets import DOOR, PROBE, Fleet, register
from tests.control_plane.sealing import GATEWAY, OTHER

FLEET = Key("fleet", "")
MINE = Key("gateway", GATEWAY)


@pytest.fixture
def fleet(stores: Stores, clock: TurnedClock) -> Fleet:
    return Fleet(stores, clock)


def save(fleet: Fleet, key: Key, body: dict[str, object], expected: int = 0, **more: bool) -> Saved:
    return fleet.revisions.save(key, body, expected=expected, by="ana", **more)


def wanted(fleet: Fleet) -> dict[str, tuple[int, str]]:
    with fleet.stores.business.read() as connection:
        return {row.gateway: (row.generation, row.hash) for row in connection.execute(select(config_desired))}


def state(fleet: Fleet, gateway: str = GATEWAY) -> tuple[str, bool]:
    status = judge(Statuses(stores=fleet.stores, clock=fleet.clock).facts([gateway])[gateway])
    return status.state, status.offline


def named(fleet: Fleet, gateway: str = GATEWAY) -> bytes:
    return bytes.fromhex(wanted(fleet)[gateway][1])


def test_a_fleet_template_gives_every_gateway_a_whole_document(fleet: Fleet) -> None:
    saved = save(fleet, FLEET, {"sensor": [PROBE]})
    assert [(r.gateway, r.wanted.generation, r.changed) for r in saved.results] == [
        (GATEWAY, 1, True),
        (OTHER, 1, True),
    ]
    assert from_json(saved.results[0].body).sensor[0].id == "probe"
    assert digest(saved.results[0].body).hex() == wanted(fleet)[GATEWAY][1]


def test_generations_rise_only_where_the_content_changes(fleet: Fleet) -> None:
    save(fleet, FLEET, {"sensor": [PROBE]})
    save(fleet, MINE, {"sensor": [DOOR]})
    assert {g: n for g, (n, _) in wanted(fleet).items()} == {GATEWAY: 2, OTHER: 1}
    save(fleet, FLEET, {"sensor": [PROBE], "uplink": {"window": 16}}, expected=1)  # its default
    assert {g: n for g, (n, _) in wanted(fleet).items()} == {GATEWAY: 2, OTHER: 1}


def test_groups_lie_between_fleet_and_gateway_by_priority(fleet: Fleet) -> None:
    save(fleet, FLEET, {"uplink": {"window": 1, "ack_timeout_s": 1}})
    for slug, priority in (("cold", 5), ("trucks", 1)):
        fleet.revisions.save_group(Group(slug, slug, priority, frozenset({GATEWAY})))
        save(fleet, Key("group", slug), {"uplink": {"window": 10 * priority, "ack_timeout_s": 9}})
    save(fleet, MINE, {"uplink": {"ack_timeout_s": 3}})
    with fleet.stores.business.read() as connection:
        row = connection.execute(
            select(config_revision)
            .where(config_revision.c.gateway == GATEWAY)
            .order_by(config_revision.c.generation.desc())
        ).first()
    assert row is not None
    assert msgspec.json.decode(row.provenance)["/uplink/window"] == "group/cold"
    assert msgspec.json.decode(row.provenance)["/uplink/ack_timeout_s"] == "gateway"
    assert wanted(fleet)[OTHER][0] == 1


def test_leaving_a_group_changes_the_document_back(fleet: Fleet) -> None:
    save(fleet, FLEET, {"uplink": {"window": 1}})
    before = wanted(fleet)[GATEWAY]
    fleet.revisions.save_group(Group("trucks", "", 1, frozenset({GATEWAY})))
    save(fleet, Key("group", "trucks"), {"uplink": {"window": 7}})
    fleet.revisions.save_group(Group("trucks", "", 1, frozenset()))
    after = wanted(fleet)[GATEWAY]
    assert after[1] == before[1]
    assert after[0] == 3


def test_one_bad_document_refuses_the_save_for_all_and_names_place_and_gateway(fleet: Fleet) -> None:
    save(fleet, FLEET, {"bus": [{"id": "plc", "kind": "tcp", "host": "10.0.0.1"}]})
    save(fleet, MINE, {"sensor": [{"id": "meter", "driver": "modbus", "bus": "plc", "profile": "eastron-sdm120@1"}]})
    before = wanted(fleet)
    with pytest.raises(UnfitError) as caught:
        save(fleet, FLEET, {"bus": [{"id": "rack", "kind": "tcp", "host": "10.0.0.1"}]}, expected=1)
    ((gateway, mistakes),) = [(r.gateway, r.mistakes) for r in caught.value.results]
    assert gateway == GATEWAY
    assert mistakes == (("/sensor/meter/bus", "there is no bus 'plc'"),)
    assert wanted(fleet) == before
    assert fleet.revisions.layer(FLEET).version == 1


def test_a_dry_run_says_what_would_happen_and_changes_nothing(fleet: Fleet) -> None:
    save(fleet, FLEET, {"sensor": [PROBE]})
    before = wanted(fleet)
    saved = save(fleet, FLEET, {"sensor": [{**PROBE, "every_s": -1}]}, expected=1, dry_run=True)
    assert {r.gateway: [m.pointer for m in r.mistakes] for r in saved.results} == {
        GATEWAY: ["/sensor/probe/every_s"],
        OTHER: ["/sensor/probe/every_s"],
    }
    assert wanted(fleet) == before
    assert fleet.revisions.layer(FLEET).version == 1


def test_a_stale_edit_is_refused_and_told_what_changed(fleet: Fleet) -> None:
    save(fleet, FLEET, {"uplink": {"window": 4}})
    fleet.revisions.save(FLEET, {"uplink": {"window": 5}, "buffer": {"limit_mb": 9}}, expected=1, by="rui")
    with pytest.raises(StaleEditError, match="version 2 now, saved by rui") as caught:
        save(fleet, FLEET, {"uplink": {"window": 6}}, expected=1)
    assert isinstance(caught.value, Conflict)
    assert caught.value.changed == (("/buffer/limit_mb", None, 9), ("/uplink/window", 4, 5))
    assert fleet.revisions.layer(FLEET).body == {"uplink": {"window": 5}, "buffer": {"limit_mb": 9}}


def test_of_edits_made_at_once_one_wins_and_the_others_are_stale(fleet: Fleet) -> None:
    outcomes: list[str] = []

    def edit(n: int) -> None:
        try:
            save(fleet, FLEET, {"uplink": {"window": n}})
            outcomes.append("saved")
        except StaleEditError:
            outcomes.append("stale")

    threads = [threading.Thread(target=edit, args=(n,)) for n in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["saved", "stale", "stale", "stale", "stale"]
    assert {n for n, _ in wanted(fleet).values()} == {1}


def test_edits_of_different_layers_at_once_are_both_in_the_result(fleet: Fleet) -> None:
    threads = [
        threading.Thread(target=save, args=(fleet, FLEET, {"uplink": {"window": 3}})),
        threading.Thread(target=save, args=(fleet, MINE, {"buffer": {"limit_mb": 7}})),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    document = fleet.revisions.save(MINE, {"buffer": {"limit_mb": 7}}, expected=1, by="ana").results[0]
    assert not document.changed
    config = from_json(document.body)
    assert (config.uplink.window, config.buffer.limit_mb) == (3, 7)


def test_a_gateway_that_joins_gets_the_template_by_itself(fleet: Fleet) -> None:
    save(fleet, FLEET, {"sensor": [PROBE]})
    register(fleet.stores, "gw-cccccccccc")
    settling = Settling(revisions=fleet.revisions, stores=fleet.stores, clock=fleet.clock)
    settling.step()
    assert wanted(fleet)["gw-cccccccccc"] == (1, wanted(fleet)[GATEWAY][1])
    settling.step()
    assert wanted(fleet)["gw-cccccccccc"][0] == 1


def test_a_restored_server_jumps_past_what_its_gateways_ran_and_says_so(fleet: Fleet) -> None:
    save(fleet, FLEET, {"sensor": [PROBE]})
    fleet.greets(generation=40, pushed_hash=b"n" * 32)
    settling = Settling(revisions=fleet.revisions, stores=fleet.stores, clock=fleet.clock)
    settling.step()
    settling.step()
    assert wanted(fleet)[GATEWAY][0] == 41
    assert wanted(fleet)[OTHER][0] == 1
    with fleet.stores.telemetry.read() as connection:
        (note,) = connection.execute(select(integrity)).all()
    assert (note.gateway, note.kind) == (GATEWAY, "configuration_ahead")
    assert "generation 40" in note.text


def test_a_first_save_after_a_restore_is_newer_than_what_runs(fleet: Fleet) -> None:
    fleet.greets(generation=12, pushed_hash=b"n" * 32)
    save(fleet, FLEET, {"sensor": [PROBE]})
    assert wanted(fleet)[GATEWAY][0] == 13


def test_what_a_gateway_runs_can_be_adopted_as_its_layer(fleet: Fleet) -> None:
    fleet.greets(local_management=True, local_hash=b"l" * 32)
    with pytest.raises(NotFound, match="not reported"):
        fleet.revisions.adopt(GATEWAY, by="ana")
    fleet.reports(b'{"config_version":1,"sensor":[{"id":"probe","driver":"simulated"}]}', local_hash=b"l" * 32)
    saved = fleet.revisions.adopt(GATEWAY, by="ana")
    assert saved.version == 1
    assert fleet.revisions.layer(MINE).body == {"sensor": [PROBE]}
    assert from_json(saved.results[0].body).management == "managed"


def test_nobody_and_nothing_too_deep(fleet: Fleet) -> None:
    with pytest.raises(NotFound):
        save(fleet, Key("gateway", "gw-nobody"), {})
    with pytest.raises(NotFound):
        save(fleet, Key("group", "nobody"), {})
    with pytest.raises(NotFound):
        fleet.revisions.save_group(Group("g", "", 0, frozenset({"gw-nobody"})))
    deep: dict[str, object] = {}
    for _ in range(40):
        deep = {"a": deep}
    with pytest.raises(Rejected, match="deeper"):
        save(fleet, FLEET, deep)


# --- states ------------------------------------------------------------------------------------------


def test_the_running_hash_decides_and_statuses_only_explain(fleet: Fleet) -> None:
    assert state(fleet) == ("UNMANAGED", True)
    save(fleet, FLEET, {"sensor": [PROBE]})
    assert state(fleet) == ("PENDING", True)
    fleet.greets(pushed_hash=b"o" * 32)
    assert state(fleet) == ("PENDING", False)
    name = named(fleet)
    for phase, word in (
        (wire.CONFIG_STAGED, "STAGED"),
        (wire.CONFIG_READY, "READY"),
        (wire.CONFIG_APPLYING, "APPLYING"),
        (wire.CONFIG_PROBATION, "PROBATION"),
    ):
        fleet.says(generation=1, hash=name, phase=phase)
        assert state(fleet)[0] == word
    fleet.says(generation=1, hash=name, phase=wire.CONFIG_APPLIED)
    assert state(fleet)[0] == "DRIFTED"  # it says so, and by its Hello runs something else
    fleet.greets(generation=1, pushed_hash=name, phase=wire.CONFIG_IN_SYNC)
    assert state(fleet) == ("IN_SYNC", False)
    fleet.clock.forward(seconds=1000)
    assert state(fleet) == ("IN_SYNC", True)
    fleet.greets(generation=1, pushed_hash=name, phase=wire.CONFIG_PROBATION)
    assert state(fleet)[0] == "PROBATION"


@pytest.mark.parametrize(
    ("phase", "word"),
    [
        (wire.CONFIG_REJECTED, "REJECTED"),
        (wire.CONFIG_ROLLED_BACK, "ROLLED_BACK"),
        (wire.CONFIG_FAILED, "FAILED"),
        (wire.CONFIG_ROLLING_BACK, "ROLLING_BACK"),
    ],
)
def test_what_went_wrong_is_said_with_place_and_reason(fleet: Fleet, phase: int, word: str) -> None:
    save(fleet, FLEET, {"sensor": [PROBE]})
    fleet.greets(pushed_hash=b"o" * 32)
    fleet.says(
        generation=1,
        hash=named(fleet),
        phase=phase,
        reason=wire.CONFIG_REASON_INVALID,
        pointer="/sensor/0",
        text="is bad",
    )
    status = judge(Statuses(stores=fleet.stores, clock=fleet.clock).facts([GATEWAY])[GATEWAY])
    assert status.state == word
    assert "is bad (at /sensor/0)" in status.sentence


def test_a_hand_written_gateway_is_unmanaged(fleet: Fleet) -> None:
    save(fleet, FLEET, {"sensor": [PROBE]})
    fleet.greets(local_management=True)
    assert state(fleet)[0] == "UNMANAGED"


# --- offers ------------------------------------------------------------------------------------------


@pytest.fixture
def offers(fleet: Fleet) -> Offers:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Offers(fleet.stores, Ed25519PrivateKey.generate(), 60)


def is_due(fleet: Fleet, offers: Offers, **running: object) -> bool:
    desired = offers.desired([GATEWAY])
    verdict = offers.verdicts(desired).get(GATEWAY)
    return due(wire.RunningConfig(**running), desired[GATEWAY], verdict, fleet.clock.now_ms())  # type: ignore[arg-type]


def test_a_cursor_names_every_gateway_something_new_is_wanted_of(fleet: Fleet, offers: Offers) -> None:
    cursor, changed = offers.changed_since(0)
    assert (cursor, changed) == (0, set())
    save(fleet, FLEET, {"sensor": [PROBE]})
    cursor, changed = offers.changed_since(cursor)
    assert changed == {GATEWAY, OTHER}
    save(fleet, MINE, {"sensor": [DOOR]})
    assert offers.changed_since(cursor)[1] == {GATEWAY}


def test_what_differs_is_offered_until_it_runs(fleet: Fleet, offers: Offers) -> None:
    save(fleet, FLEET, {"sensor": [PROBE]})
    assert is_due(fleet, offers, pushed_hash=b"o" * 32)
    assert not is_due(fleet, offers, pushed_hash=named(fleet), generation=1)
    assert is_due(fleet, offers, pushed_hash=named(fleet), generation=0)
    assert is_due(fleet, offers, generation=1, phase=wire.CONFIG_FAILED)
    assert not is_due(fleet, offers, local_management=True)
    assert not is_due(fleet, offers, pushed_hash=b"o" * 32, generation=9)


def test_undone_content_is_not_offered_again_until_it_changes(fleet: Fleet, offers: Offers) -> None:
    save(fleet, FLEET, {"sensor": [PROBE]})
    fleet.greets(pushed_hash=b"o" * 32)
    reason = wire.CONFIG_REASON_SOURCE_SILENT
    fleet.says(generation=1, hash=named(fleet), phase=wire.CONFIG_ROLLED_BACK, reason=reason)
    assert not is_due(fleet, offers, pushed_hash=b"o" * 32, generation=1)
    save(fleet, FLEET, {"sensor": [DOOR]}, expected=1)
    assert is_due(fleet, offers, pushed_hash=b"o" * 32, generation=1)
    save(fleet, FLEET, {"sensor": [PROBE]}, expected=2)
    assert not is_due(fleet, offers, pushed_hash=b"o" * 32, generation=1)
    assert state(fleet)[0] == "ROLLED_BACK"


def test_what_failed_for_a_reason_of_the_moment_is_offered_again_at_its_time(fleet: Fleet, offers: Offers) -> None:
    save(fleet, FLEET, {"sensor": [PROBE]})
    fleet.greets(pushed_hash=b"o" * 32)
    fleet.says(
        generation=1,
        hash=named(fleet),
        phase=wire.CONFIG_ROLLED_BACK,
        reason=wire.CONFIG_REASON_NO_RECONNECT,
        retry_at_ms=fleet.clock.now_ms() + 300_000,
    )
    assert not is_due(fleet, offers, pushed_hash=b"o" * 32, generation=1)
    fleet.clock.forward(seconds=301)
    assert is_due(fleet, offers, pushed_hash=b"o" * 32, generation=1)


def test_a_repeated_status_is_one_row(fleet: Fleet) -> None:
    save(fleet, FLEET, {"sensor": [PROBE]})
    fleet.greets(pushed_hash=b"o" * 32)
    for _ in range(3):
        fleet.says(generation=1, hash=named(fleet), phase=wire.CONFIG_REJECTED, text="a\0b")
    (said,) = Statuses(stores=fleet.stores, clock=fleet.clock).facts([GATEWAY])[GATEWAY].said
    assert said.text == "ab"
