"""Killed after every transition, on both sides: what was pushed is committed all the same, or undone all the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.control import Up
from tests.faults.managed import DOOR, HAND_WRITTEN, NOWHERE, PROBE, SILENT, Admin, Managed, until

BAD = {"bus": [NOWHERE], "sensor": [PROBE, {**SILENT, "required": True}]}


def killing(up: Up, *phases: str, of_all: tuple[str, ...]) -> tuple[str, ...]:
    """On PostgreSQL the last stands for all: what the gateway does in between is the same."""
    return of_all if up.database.startswith("sqlite") else phases


@pytest.fixture
def admin(up: Up) -> Admin:
    return Admin(up)


def killed_and_started_again(boxes: dict[str, Managed], wanted: Callable[[Managed], bool]) -> None:
    """Each box kills itself after its phase and is started again; all at once, until all are as wanted."""
    with ExitStack() as dying:
        processes = [dying.enter_context(box.running(dies_after=phase)) for phase, box in boxes.items()]
        assert [process.wait(60) for process in processes] == [-signal.SIGKILL] * len(boxes)
    with ExitStack() as living:
        for box in boxes.values():
            living.enter_context(box.running())
        for box in boxes.values():
            until(lambda box=box: wanted(box), within_s=60)  # type: ignore[misc]


def test_killed_after_any_transition_the_gateway_still_commits_what_is_good(
    tmp_path: Path, up: Up, admin: Admin
) -> None:
    phases = killing(up, "applied", of_all=("staged", "ready", "applying", "probation", "applied"))
    boxes = {phase: Managed(tmp_path / phase, up) for phase in phases}
    for box in boxes.values():
        admin.push(box.id, {"sensor": [PROBE, DOOR]})

    def delivers(box: Managed) -> bool:
        return admin.state(box.id) == "IN_SYNC" and bool(admin.reads(f"{box.id}/door/count"))

    killed_and_started_again(boxes, delivers)


def test_killed_after_any_transition_the_gateway_still_undoes_what_is_bad(tmp_path: Path, up: Up, admin: Admin) -> None:
    phases = killing(up, "rolled_back", of_all=("applying", "probation", "rolling_back", "rolled_back"))
    boxes = {phase: Managed(tmp_path / phase, up, HAND_WRITTEN) for phase in phases}
    for box in boxes.values():
        admin.push(box.id, BAD)

    def undone(box: Managed) -> bool:
        found = admin.get(f"/gateways/{box.id}/config")
        said = found["state"] == "ROLLED_BACK" and "dead is required and did not deliver" in found["sentence"]
        running = (found["running"] or {}).get("document") or {"sensor": []}
        return said and [sensor["id"] for sensor in running["sensor"]] == ["probe"]

    killed_and_started_again(boxes, undone)


def test_ingest_worker_and_web_killed_on_the_way_change_nothing_and_lose_no_save(
    tmp_path: Path, up: Up, admin: Admin
) -> None:
    box = Managed(tmp_path / "box", up)
    with box.running():
        for sensors in ([PROBE], [PROBE, DOOR]):
            admin.push(box.id, {"sensor": sensors})
            if len(sensors) > 1:
                until(lambda: admin.state(box.id) == "PROBATION", within_s=40)
            os.kill(up.pids()["ingest"], signal.SIGKILL)
            until(lambda: admin.state(box.id) == "IN_SYNC", within_s=60)
        before = up.pids()
        generation = admin.push(box.id, {"sensor": [PROBE]})
        for role in ("worker", "web"):
            os.kill(before[role], signal.SIGKILL)
        until(lambda: set(up.pids().values()).isdisjoint({before["worker"], before["web"]}))
        until(lambda: answers(admin))
        assert admin.get(f"/gateways/{box.id}/config")["desired"]["generation"] == generation
        until(lambda: admin.state(box.id) == "IN_SYNC", within_s=60)


def answers(admin: Admin) -> bool:
    try:
        return admin.ask("GET", "/health").status_code == 200
    except httpx.HTTPError:
        return False
