"""From an edit at the office to readings of a new sensor; a bad edit undoes itself, and the old readings go on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.control import running
from tests.faults.managed import DOOR, HAND_WRITTEN, NOWHERE, PROBE, SETTINGS, SILENT, Admin, Managed, until


@pytest.mark.journey
def test_a_pushed_sensor_delivers_and_a_bad_push_is_undone_alone(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "control.toml").write_text(SETTINGS)
    with running(tmp_path / "control") as up:
        admin, box = Admin(up), Managed(tmp_path / "box", up, sensors=HAND_WRITTEN)
        with box.running():
            until(lambda: len(admin.reads(f"{box.id}/probe/count")) > 10)
            assert admin.state(box.id) == "UNMANAGED"

            # what it runs is adopted, and a sensor added
            until(lambda: admin.ask("POST", f"/gateways/{box.id}/config/adopt").status_code == 200)
            until(lambda: admin.state(box.id) == "IN_SYNC")
            admin.push(box.id, {"sensor": [PROBE, DOOR]})
            until(lambda: admin.state(box.id) == "IN_SYNC")
            until(lambda: admin.reads(f"{box.id}/door/count"))

            # a bus that can't be reached takes the probe with it: undone without anyone's help
            bad = {"bus": [NOWHERE], "sensor": [{**SILENT, "id": "probe"}, DOOR]}
            admin.push(box.id, bad)
            until(lambda: admin.state(box.id) == "ROLLED_BACK")
            found = admin.get(f"/gateways/{box.id}/config")
            assert "probe delivered before and not under this configuration" in found["sentence"]
            assert found["history"][0]["reason"] == "SOURCE_SILENT"
            before = len(admin.reads(f"{box.id}/probe/count"))
            until(lambda: len(admin.reads(f"{box.id}/probe/count")) > before + 10)

            # the same content again is not even tried
            log = box.log()
            admin.push(box.id, {"sensor": [PROBE, DOOR]})
            until(lambda: admin.state(box.id) == "IN_SYNC")
            admin.push(box.id, bad)
            assert admin.state(box.id) == "ROLLED_BACK"
            assert "phase=applying" not in box.log()[len(log) :]

            # one that would cut the box off comes back by itself, and is remembered as a matter of the moment
            admin.push(box.id, {"sensor": [PROBE, DOOR], "uplink": {"server": "127.0.0.1:1"}})
            until(lambda: admin.state(box.id) == "ROLLED_BACK", within_s=60)
            found = admin.get(f"/gateways/{box.id}/config")
            assert found["history"][0]["reason"] == "NO_RECONNECT"
            assert not found["offline"]
            assert [change["pointer"] for change in found["diff"]] == ["/uplink/server"]

            # what can't be right is refused at the office
            layer = admin.get(f"/config/gateways/{box.id}")
            wrong = {"sensor": [{**SILENT, "profile": "nobody-nothing@1"}]}
            answer = admin.ask(
                "PUT",
                f"/config/gateways/{box.id}",
                json={"document": wrong},
                headers={"If-Match": layer["etag"]},
            )
            assert answer.status_code == 422
            assert {e["pointer"] for e in answer.json()["errors"]} == {"/sensor/dead/bus", "/sensor/dead/profile"}
        assert not re.search(r"Traceback", box.log())

        # nothing was lost by applying: every number the probe counted to arrived once
        counted = admin.reads(f"{box.id}/probe/count")
        starts = [index for index, value in enumerate(counted) if value == 1]
        for first, after in zip(starts, [*starts[1:], len(counted)], strict=True):
            assert counted[first:after] == list(range(1, after - first + 1))
