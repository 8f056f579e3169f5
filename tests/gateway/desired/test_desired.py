from __future__ import annotations

from pathlib import Path

import pytest

from gateway.desired import desired as module
from protos.comboio.v1 import link_pb2 as wire
from protos.config import digest
from tests.gateway.desired.box import LOCAL, Box, document

ONE = document("probe")
TWO = document("probe", "cooling")


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "desired")


async def test_a_good_document_is_staged_checked_applied_proven_and_committed(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
        assert box.said() == ["STAGED", "READY", "APPLYING", "PROBATION", "APPLIED"]
        running = box.desired.running()
        assert (running.generation, running.pushed_hash, running.phase) == (1, digest(ONE), wire.CONFIG_IN_SYNC)
        assert box.desired.effective_config().body == ONE
        assert box.statuses[-1].running == running
    assert box.sensors() == ["probe"]


async def test_during_probation_the_new_hash_runs_and_says_that_it_is_on_trial(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1, turn_s=5)
        running = box.desired.running()
        assert (running.pushed_hash, running.phase) == (digest(ONE), wire.CONFIG_PROBATION)


async def test_what_was_committed_is_what_a_start_begins_with(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
    async with box.running():
        assert box.sensors() == ["probe"]
        assert box.desired.running().pushed_hash == digest(ONE)
        assert box.parts.config is not None
        assert box.parts.config.uplink.server == "fleet.example.com:8444"


async def test_the_same_content_twice_changes_nothing_but_the_generation(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
        await box.pushed(ONE, 2)
        assert box.parts.switches == 1
        assert box.statuses[-1].phase == wire.CONFIG_APPLIED
        assert box.desired.running().generation == 2


async def test_a_source_that_delivered_before_and_is_silent_now_undoes_it(box: Box) -> None:
    async with box.running():
        await box.pushed(TWO, 1)
        box.parts.silent = {"cooling"}
        await box.turn(0)
        box.statuses.clear()
        box.parts.silent = set()
        await box.turn(5)
        box.parts.silent = {"cooling"}
        await box.pushed(document("probe", "cooling", "door"), 2)
        assert box.said()[-2:] == ["ROLLING_BACK", "ROLLED_BACK"]
        assert box.statuses[-1].reason == wire.CONFIG_REASON_SOURCE_SILENT
        assert "cooling" in box.statuses[-1].text
        assert box.sensors() == ["probe", "cooling"]
        assert box.desired.running().pushed_hash == digest(TWO)


async def test_a_source_already_silent_does_not_count(box: Box) -> None:
    box.parts.silent = {"cooling"}
    async with box.running():
        await box.pushed(TWO, 1)
        await box.pushed(document("probe", "cooling", "door"), 2)
        assert box.said()[-1] == "APPLIED"
        assert box.sensors() == ["probe", "cooling", "door"]


@pytest.mark.parametrize("required", [True, False])
async def test_a_new_source_that_is_silent_undoes_it_only_if_required(box: Box, *, required: bool) -> None:
    box.parts.silent = {"cooling"}
    async with box.running():
        await box.pushed(ONE, 1)
        await box.pushed(document("probe", "cooling", required="cooling" if required else ""), 2)
        assert box.said()[-1] == ("ROLLED_BACK" if required else "APPLIED")
        if required:
            assert box.statuses[-1].reason == wire.CONFIG_REASON_REQUIRED_SILENT


async def test_a_removed_source_is_not_missed(box: Box) -> None:
    async with box.running():
        await box.pushed(TWO, 1)
        await box.pushed(ONE, 2)
        assert box.said()[-1] == "APPLIED"


async def test_parts_that_cannot_be_built_are_undone_at_once(box: Box) -> None:
    box.parts.broken = {"cooling"}
    async with box.running():
        await box.pushed(ONE, 1)
        await box.pushed(TWO, 2, turn_s=1)
        assert box.said()[-3:] == ["APPLYING", "ROLLING_BACK", "ROLLED_BACK"]
        assert box.statuses[-1].reason == wire.CONFIG_REASON_NOT_STARTED
        assert "the bus can't be opened" in box.statuses[-1].text
        assert box.parts.switches == 1
        assert box.sensors() == ["probe"]


async def test_a_bad_document_is_rejected_with_its_place_and_quarantined(box: Box) -> None:
    box.problems = ["sensor[0].profile: no such profile", "more"]
    async with box.running():
        await box.pushed(ONE, 1, turn_s=1)
        status = box.statuses[-1]
        assert box.said() == ["STAGED", "REJECTED"]
        assert (status.reason, status.pointer) == (wire.CONFIG_REASON_INVALID, "/sensor/0/profile")
        assert status.text == "no such profile (and 1 more)"
        box.problems = []
    async with box.running():
        await box.pushed(ONE, 2, turn_s=1)
        again = box.statuses[-1]
        assert (again.generation, again.phase, again.reason) == (2, wire.CONFIG_REJECTED, wire.CONFIG_REASON_INVALID)
        assert "no such profile" in again.text
    assert box.parts.switches == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"{", ""),
        (b"\xff", ""),
        (b'{"config_version":1,"sensor":[{"id":"a","driver":"simulated","every_s":"1"}]}', "/sensor/0/every_s"),
        (
            b'{"config_version":1,"sensor":[{"id":"a","driver":"simulated","calibration":{"t":{"gain":[]}}}]}',
            "/sensor/0/calibration/t/gain",
        ),
    ],
)
async def test_what_cannot_be_read_is_rejected_at_any_depth(box: Box, body: bytes, pointer: str) -> None:
    async with box.running():
        await box.pushed(body, 1, turn_s=1)
        assert box.statuses[-1].reason == wire.CONFIG_REASON_UNREADABLE
        assert box.statuses[-1].pointer == pointer


async def test_offers_that_are_not_ours_or_not_whole_are_refused_and_not_quarantined(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 5, turn_s=1, signature=b"x" * 64)
        assert box.statuses[-1].reason == wire.CONFIG_REASON_SIGNATURE
        await box.pushed(ONE, 5, turn_s=1, body=TWO)
        assert box.statuses[-1].reason == wire.CONFIG_REASON_HASH
        await box.pushed(ONE, 5, turn_s=1, apply_when="parked")
        assert box.statuses[-1].reason == wire.CONFIG_REASON_SIGNATURE
        await box.pushed(ONE, 5, turn_s=1, generation=6)
        assert box.statuses[-1].reason == wire.CONFIG_REASON_SIGNATURE
        await box.pushed(ONE, 5)
        assert box.said()[-1] == "APPLIED"


async def test_an_older_generation_is_a_replay(box: Box) -> None:
    async with box.running():
        await box.pushed(TWO, 7)
        await box.pushed(ONE, 6, turn_s=1)
        assert box.statuses[-1].reason == wire.CONFIG_REASON_OLD_GENERATION
        await box.pushed(ONE, 7, turn_s=1)
        assert box.statuses[-1].reason == wire.CONFIG_REASON_OLD_GENERATION
    assert box.sensors() == ["probe", "cooling"]


async def test_a_newer_generation_displaces_a_trial_once_it_was_found_good(box: Box) -> None:
    three = document("probe", "door")
    async with box.running():
        await box.pushed(ONE, 1)
        await box.pushed(TWO, 2, turn_s=3)
        box.problems = ["sensor[1].id: is bad"]
        await box.pushed(document("bad"), 3, turn_s=1)
        assert box.desired.running().phase == wire.CONFIG_PROBATION
        box.problems = []
        await box.pushed(three, 4)
        assert box.said()[-1] == "APPLIED"
        assert box.desired.running().pushed_hash == digest(three)


async def test_a_changed_uplink_must_reach_the_control_plane_or_is_undone_and_may_be_tried_again(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
        box.parts.link = False
        await box.pushed(document("probe", window=4), 2)
        status = box.statuses[-1]
        assert box.said()[-1] == "ROLLED_BACK"
        assert status.reason == wire.CONFIG_REASON_NO_RECONNECT
        assert status.retry_at_ms > box.clock.wall
        box.parts.link = True
        await box.pushed(document("probe", window=4), 2, turn_s=1)
        assert box.statuses[-1] == status  # not before its time
        box.clock.wall = status.retry_at_ms
        await box.pushed(document("probe", window=4), 2)
        assert box.said()[-1] == "APPLIED"


async def test_without_a_network_below_the_link_probation_waits(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
        box.parts.link = box.parts.network = False
        await box.pushed(document("probe", window=4), 2, turn_s=100)
        assert box.said()[-1] == "PROBATION"
        box.parts.link = box.parts.network = True
        await box.turn(15)
        assert box.said()[-1] == "APPLIED"


async def test_an_unchanged_uplink_may_be_away(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
        box.parts.link = False
        await box.pushed(TWO, 2)
        assert box.said()[-1] == "APPLIED"


async def test_when_even_the_one_before_cannot_start_buffer_and_uplink_go_on_alone(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
        box.parts.silent = {"probe"}
        box.desired.offered(box.offer(TWO, 2))
        await box.turn(2)
        box.parts.broken = {"probe"}
        await box.turn(15)
        assert box.said()[-1] == "FAILED"
        assert box.sensors() is None
        running = box.desired.running()
        assert (running.phase, running.pushed_hash) == (wire.CONFIG_FAILED, b"")
        box.parts.broken, box.parts.silent = set(), set()
        await box.pushed(document("door"), 3)
        assert box.said()[-1] == "APPLIED"
    assert box.sensors() == ["door"]


@pytest.mark.parametrize("refusals", [1, 2])
async def test_a_full_disk_undoes_it_and_the_one_before_is_started_again(box: Box, refusals: int) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
        box.parts.disk_full = refusals
        await box.pushed(TWO, 2, turn_s=2)
        assert box.statuses[-1].reason == wire.CONFIG_REASON_STORAGE
        assert box.statuses[-1].phase == wire.CONFIG_ROLLED_BACK
        assert box.sensors() == ["probe"]
        assert box.desired.running().pushed_hash == digest(ONE)
        await box.pushed(TWO, 3)
        assert box.said()[-1] == "APPLIED"


async def test_a_committed_document_that_no_longer_starts_leaves_the_box_in_safe_mode(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
    box.parts.broken = {"probe"}
    async with box.running():
        assert box.sensors() is None
        assert box.desired.running().phase == wire.CONFIG_FAILED
    box.parts.broken = set()
    async with box.running():
        assert box.sensors() == ["probe"]


async def test_a_reboot_in_probation_goes_on_with_what_was_left_of_it(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
        await box.pushed(TWO, 2, probation_s=30, turn_s=21)
    box.statuses.clear()
    box.clock.mono = 5000
    async with box.running():
        assert box.sensors() == ["probe", "cooling"]
        await box.turn(8)
        assert box.said() == ["PROBATION"]
        await box.turn(8)
        assert box.said() == ["PROBATION", "APPLIED"]


async def test_a_second_crash_in_probation_reverts(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
        await box.pushed(TWO, 2, turn_s=2)
    async with box.running():
        await box.turn(2)
    async with box.running():
        assert box.sensors() == ["probe"]
        await box.turn(1)
        assert box.said()[-1] == "ROLLED_BACK"
        assert box.statuses[-1].reason == wire.CONFIG_REASON_CRASHED
        await box.pushed(TWO, 3, turn_s=1)
        assert (box.statuses[-1].generation, box.statuses[-1].phase) == (3, wire.CONFIG_ROLLED_BACK)
        assert box.sensors() == ["probe"]


async def test_clean_stops_in_probation_do_not_count_as_crashes(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
        await box.pushed(TWO, 2, turn_s=2)
    for _ in range(4):
        async with box.running(clean=True):
            await box.turn(1)
    async with box.running():
        await box.turn(15)
        assert box.said()[-1] == "APPLIED"


async def test_what_was_said_last_is_said_again_after_a_restart(box: Box) -> None:
    box.problems = ["sensor[0].id: is bad"]
    async with box.running():
        await box.pushed(ONE, 1, turn_s=1)
    box.statuses.clear()
    async with box.running():
        await box.turn(1)
        assert [(s.generation, s.phase, s.pointer) for s in box.statuses] == [(1, wire.CONFIG_REJECTED, "/sensor/0/id")]


async def test_a_hand_written_box_takes_no_offers_and_says_so(tmp_path: Path) -> None:
    box = Box(tmp_path / "desired", local=LOCAL.replace('"managed"', '"local"'))
    async with box.running():
        await box.pushed(ONE, 1, turn_s=1)
        status = box.statuses[-1]
        assert (status.phase, status.reason) == (wire.CONFIG_REJECTED, wire.CONFIG_REASON_LOCALLY_MANAGED)
        running = box.desired.running()
        assert running.local_management
        assert (running.generation, running.pushed_hash) == (0, b"")
    assert box.parts.switches == 0


async def test_a_damaged_state_is_set_aside_and_the_hand_written_document_runs(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
    (box.folder / "state.json").write_bytes(b"{")
    async with box.running():
        assert box.sensors() == []
        assert (box.folder / "state.damaged").exists()
        await box.pushed(TWO, 2)
        assert box.said()[-1] == "APPLIED"


async def test_documents_nothing_names_are_deleted(box: Box) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
        await box.pushed(TWO, 2)
    assert [path.name for path in box.folder.glob("*.json") if path.name != "state.json"] == [
        f"{digest(TWO).hex()}.json"
    ]


# --- killed after each durable change ------------------------------------------------------------------


@pytest.mark.parametrize("dies_after", range(1, 7))
async def test_killed_after_any_change_a_good_document_is_committed_all_the_same(box: Box, dies_after: int) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
    async with box.running(dies_after=dies_after):
        await box.pushed(TWO, 2)
        seen = box.desk.seen
    async with box.running():
        await box.turn(1)
        box.desired.offered(box.offer(TWO, 2))  # level-triggered: the control plane sees that it does not run yet
        await box.turn(20)
        assert box.desired.running().pushed_hash == digest(TWO), seen
        assert box.desired.running().phase == wire.CONFIG_IN_SYNC
    assert box.sensors() == ["probe", "cooling"]


@pytest.mark.parametrize("dies_after", range(1, 9))
async def test_killed_after_any_change_a_bad_document_is_undone_all_the_same(box: Box, dies_after: int) -> None:
    async with box.running():
        await box.pushed(ONE, 1)
    bad = document("probe", "cooling", required="cooling")
    box.parts.silent = {"cooling"}
    async with box.running(dies_after=dies_after):
        await box.pushed(bad, 2)
        seen = box.desk.seen
    async with box.running():
        await box.turn(1)
        box.desired.offered(box.offer(bad, 2))
        await box.turn(20)
        assert box.desired.running().pushed_hash == digest(ONE), seen
        assert box.desk.state.trial is None
        assert box.desk.state.quarantined(digest(bad).hex()) is not None
    assert box.sensors() == ["probe"]


def test_the_changes_that_are_killed_after_are_all_there_are() -> None:
    assert set(module.PHASES) == {"staged", "ready", "applying", "probation", "rolling_back"}
