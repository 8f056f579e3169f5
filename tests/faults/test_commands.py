"""A write, from the office to a device and back: told as it is, and made once, whoever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from control_plane.console.cli import main
from tests.control import Up
from tests.faults.controllers import PROFILE, Controller, Road, controller
from tests.faults.daemons import ROOT
from tests.faults.managed import Admin, Managed, until

PATIENCE_S = 90


class Plant:
    """One gateway with one controller, and the office that commands it."""

    def __init__(self, folder: Path, up: Up, device: Controller) -> None:
        self.up, self.device, self.admin = up, device, Admin(up)
        self.road = Road(device, up.announced["grpc"])
        self.box = Managed(folder / "box", up)
        # Few polls, and a long timeout: there is time to kill.
        text = (self.box.home / "gateway.toml").read_text().replace(up.announced["grpc"], self.road.address)
        bus = f'[[bus]]\nid = "b"\nkind = "tcp"\nhost = "127.0.0.1"\nport = {device.port}\ntimeout_s = 20.0\n'
        sensor = f'[[sensor]]\nid = "cooling"\ndriver = "modbus"\nbus = "b"\nprofile = "{PROFILE}"\nevery_s = 3600.0\n'
        (self.box.home / "gateway.toml").write_text(text + bus + sensor + 'allow_write = ["setpoint", "mode"]\n')
        self._keys = 0
        self.client = httpx.Client(base_url=up.http, trust_env=False, timeout=20)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Polled once, so that the bus is the commands' alone; killed at the end."""
        before = self.device.polls
        with self.box.running():
            until(lambda: self.device.polls > before, within_s=PATIENCE_S)
            yield

    def ask(self, value: Any, *, quantity: str = "setpoint", key: str = "", **more: Any) -> str:
        """Its id."""
        self._keys += 1
        body = {"sensor": "cooling", "quantity": quantity, "value": value, "ttl_s": 600} | more
        headers = {"Idempotency-Key": key or f"key-{self._keys}"}
        answer = self.admin.ask("POST", f"/gateways/{self.box.id}/commands", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def get(self, id_: str) -> Any:
        headers = {"Authorization": f"Bearer {self.admin.token}"}
        answer = self.client.get(f"/api/v1/gateways/{self.box.id}/commands/{id_}", headers=headers)
        return answer.raise_for_status().json()

    def ended(self, id_: str) -> Any:
        until(lambda: self.get(id_)["ended"], within_s=PATIENCE_S)
        return self.get(id_)

    def booked(self, id_: str) -> str | None:
        """Its state in the gateway's own book."""
        book = self.box.home / "commands" / "book.db"
        if not book.exists():
            return None
        with sqlite3.connect(f"file:{book}?mode=ro", uri=True) as store:
            row = store.execute("SELECT state FROM command WHERE id = ?", (id_,)).fetchone()
        store.close()
        return None if row is None else str(row[0])


@pytest.fixture(scope="module")
def plant(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with controller() as device:
        made = Plant(tmp_path_factory.mktemp("plant"), up, device)
        yield made
        made.road.close()
        made.client.close()


def test_a_command_goes_all_the_way_and_comes_back_with_what_the_device_holds(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    late = plant.ask(9, ttl_s=1)
    assert plant.ended(late)["state"] == "expired"  # nobody was connected
    with plant.running():
        first = plant.ask(-4.5, expect=0, key="the-same")
        done = plant.ended(first)
        assert (done["state"], done["before"], done["holds"], done["by"]) == ("done", 0.0, -4.5, "test")
        assert plant.ask(-4.5, expect=0, key="the-same") == first
        for more, words in (
            ({"value": 3, "expect": 7}, "setpoint is -4.5, not 7; nothing was written"),
            ({"value": 31}, "31 is above 30, the most it may be set to"),
            ({"value": True, "quantity": "light"}, "allow_write lacks 'light'"),
        ):
            refused = plant.ended(plant.ask(**more))
            assert (refused["state"], words in refused["text"]) == ("failed", True), refused
        profile = ["--server", plant.up.http, "--token", plant.admin.token]
        arguments = ["command", plant.box.id, "cooling", "mode", "defrost", "--wait", "--json", *profile]
        assert main(arguments) == 0
        assert json.loads(capsys.readouterr().out)["holds"] == 2
        assert main(["command", plant.box.id, "cooling", "mode", "heat", "--wait", *profile]) == 1
        assert "'heat' is none of off, cooling, defrost" in capsys.readouterr().err
        at_box = [sys.executable, "-m", "gateway", "write", "cooling", "setpoint", "6", "--json"]
        said = subprocess.run([*at_box, "--data-dir", str(plant.box.home)], cwd=ROOT, capture_output=True, check=True)
        assert json.loads(said.stdout)["holds"] == 6.0
        listed = f"/gateways/{plant.box.id}/commands"
        until(lambda: plant.admin.get(listed)["items"][0]["by"] == "", within_s=PATIENCE_S)
        assert main(["commands", plant.box.id, *profile]) == 0
        assert "at the box" in capsys.readouterr().out
    assert [one.function for one in plant.device.writes] == [6, 6, 6]


def test_a_killed_gateway_writes_nothing_twice_and_says_what_is_true(plant: Plant) -> None:
    """On PostgreSQL one kill stands for all: what the gateway does is the same."""
    before = len(plant.device.writes)
    with plant.running():  # killed between write and result
        assert plant.ended(plant.ask(1))["state"] == "done"
        plant.device.spoil(fault="drop")
        heard = plant.ask(2)
        until(lambda: len(plant.device.writes) == before + 2, within_s=PATIENCE_S)
    plant.device.mend()
    with plant.running():
        result = plant.ended(heard)
        assert (result["state"], result["holds"]) == ("done", 2.0)
        assert "found after a restart" in result["text"]
        assert len(plant.device.writes) == before + 2
        if not plant.up.database.startswith("sqlite"):
            return
        plant.device.spoil(fault="drop")  # killed between receipt and write
        waits = plant.ask(3, expect=2)
        until(lambda: plant.booked(waits) == "received", within_s=PATIENCE_S)
    assert len(plant.device.writes) == before + 2
    plant.device.mend()
    with plant.running():
        assert (plant.ended(waits)["state"], plant.get(waits)["holds"]) == ("done", 3.0)

        plant.device.spoil(fault="drop")  # killed after a write that the device never heeded
        plant.device.tell(write="ignore")
        unheard = plant.ask(4)
        until(lambda: len(plant.device.writes) == before + 4, within_s=PATIENCE_S)
    plant.device.mend()
    with plant.running():
        result = plant.ended(unheard)
        assert (result["state"], result["holds"]) == ("uncertain", 3.0)
    assert [one.words for one in plant.device.writes[before:]] == [(10,), (20,), (30,), (40,)]


def test_a_cut_link_and_a_killed_control_plane_lose_no_command_and_no_result(plant: Plant) -> None:
    before = len(plant.device.writes)
    with plant.running():
        assert plant.ended(plant.ask(5))["state"] == "done"
        plant.road.cut()
        waits = plant.ask(6)
        assert plant.get(waits)["state"] in {"waiting", "sent"}
        plant.road.mend()
        assert plant.ended(waits)["state"] == "done"

        plant.device.spoil(fault="delay", delay_s=2.0, times=1)  # the answer comes when nobody is there to hear of it
        under_way = plant.ask(7)
        until(lambda: len(plant.device.writes) == before + 3, within_s=PATIENCE_S)
        plant.road.cut()
        pids = plant.up.pids()
        for role in ("ingest", "worker"):
            os.kill(pids[role], signal.SIGKILL)
        until(lambda: plant.booked(under_way) == "ended", within_s=PATIENCE_S)
        until(lambda: set(plant.up.pids().values()).isdisjoint({pids["ingest"], pids["worker"]}), within_s=PATIENCE_S)
        plant.road.mend()
        result = plant.ended(under_way)
        assert (result["state"], result["holds"]) == ("done", 7.0)
    assert [one.words for one in plant.device.writes[before:]] == [(50,), (60,), (70,)]
