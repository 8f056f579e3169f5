"""The judge of every journey: what it must find missing, doubled and invented."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from control_plane.simulators.balance import Account, Read, Value, account, sent

SAID: dict[tuple[str, ...], list[Read]] = {("count",): [Read(1000 * k, (k,)) for k in range(1, 11)]}


def judged(delivered: Mapping[int, Value], *gaps: tuple[int, int], tolerance_ms: int = 100) -> Account:
    found = [{"from_ms": start, "to_ms": end, "reason": "unreadable"} for start, end in gaps]
    return account("cooling", SAID, {"count": delivered}, found, tolerance_ms=tolerance_ms)


def all_but(*missing: int) -> dict[int, Value]:
    return {1000 * k: k for k in range(1, 11) if k not in missing}


def test_everything_delivered_balances() -> None:
    done = judged(all_but())
    assert (done.balanced, done.produced, done.delivered, done.in_gaps) == (True, 10, 10, 0)


def test_a_read_that_came_nowhere_is_missing() -> None:
    done = judged(all_but(4))
    assert (done.balanced, done.missing) == (False, [4000])


def test_a_read_inside_a_gap_is_accounted_for() -> None:
    done = judged(all_but(4, 5), (3900, 5100))
    assert (done.balanced, done.delivered, done.in_gaps, done.gap_reasons) == (True, 8, 2, {"unreadable": 2})


def test_a_gap_elsewhere_explains_nothing() -> None:
    assert judged(all_but(4), (7000, 8000)).missing == [4000]


def test_a_value_never_said_is_invented() -> None:
    done = judged(all_but() | {4040: 99})
    assert (done.balanced, done.invented) == (False, [4040])


def test_the_same_read_twice_is_one_too_many() -> None:
    done = judged(all_but() | {4040: 4})
    assert (done.balanced, done.delivered, len(done.invented)) == (False, 10, 1)


def test_a_right_value_at_a_wrong_time_is_invented_and_its_read_missing() -> None:
    done = judged(all_but(4) | {4500: 4})
    assert (done.invented, done.missing) == ([4500], [4000])


def test_a_device_that_answered_nothing_proves_nothing() -> None:
    assert not account("cooling", {("count",): []}, {"count": {}}, [], tolerance_ms=100).balanced


def test_the_log_of_a_sensor_that_speaks_by_itself_balances_without_its_faults(tmp_path: Path) -> None:
    log = tmp_path / "sent.jsonl"
    lines = [
        {"wall_ms": 1000, "mono_ms": 1, "sensor": "probe", "k": 1, "values": {"temperature": 4.1, "battery": 97}},
        {"wall_ms": 1500, "mono_ms": 2, "sensor": "other", "k": 1, "values": {"temperature": 9.9, "battery": 50}},
        {"wall_ms": 1600, "mono_ms": 3, "sensor": "probe", "k": 1, "values": {}, "fault": "replay"},
        {"wall_ms": 2000, "mono_ms": 4, "sensor": "probe", "k": 2, "values": {"temperature": 4.2, "battery": 97}},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = sent(log, "probe")
    assert said == {("battery", "temperature"): [Read(1000, (97, 4.1)), Read(2000, (97, 4.2))]}
    delivered: dict[str, dict[int, Value]] = {"temperature": {1003: 4.1, 2004: 4.2}, "battery": {1003: 97, 2004: 97}}
    assert account("probe", said, delivered, [], tolerance_ms=100).balanced
    del delivered["temperature"][2004], delivered["battery"][2004]
    assert account("probe", said, delivered, [], tolerance_ms=100).missing == [2000]
    gap = {"from_ms": 1003, "to_ms": 2500, "reason": "unreadable"}
    assert account("probe", said, delivered, [gap], tolerance_ms=100).balanced
