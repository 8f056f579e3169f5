"""The OpenAPI document is the truth: thousands of generated requests, right and wrong, against a running server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy import insert

from control_plane.fleet.accounts import Role
from control_plane.store.engine import Stores
from control_plane.store.tables import event, gap, outbox, series
from tests.control import Up, running
from tests.control_plane.conftest import START_MS

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
EVENT, SENSOR = "evt_seeded_v1", "cooling"

# What a document can't say: which cursors, names and versions exist (404, 412, 422), that texts hold no NUL (422).
EXPECTATIONS = """
[checks.missing_required_header]
expected-statuses = ["401", "404", "415", "422", "428"]
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "409", "412", "413", "415", "422", "428"]
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "422"]
[parameters]
gateway_id = "{gateway}"
sensor = "cooling"
event_id = "evt_seeded_v1"
delivery_id = "erp:evt_seeded_v1"
[phases.coverage]
unexpected-methods = ["TRACE"]
"""


def seed(up: Up, token: str) -> str:
    """A gateway with a series, a gap, an event and its delivery; returns its id."""
    headers = {"Authorization": f"Bearer {token}"}
    made = httpx.post(up.http + "/api/v1/gateways", json={"name": "truck"}, headers=headers, trust_env=False)
    gateway = str(made.json()["gateway"]["id"])
    times = {"time_ms": START_MS, "decided_ms": START_MS, "recorded_ms": START_MS}
    with Stores(f"sqlite:///{up.data_dir}") as stores:
        with stores.telemetry.write() as connection:
            placed = {"gateway": gateway, "epoch": 1, "group_id": 1, "sensor": SENSOR}
            one = {"key": f"{gateway}/{SENSOR}/temperature", "name": "temperature", "unit": "Cel", "type": 1}
            kept = {"period_ms": 1000, "attrs": "{}", "schema": 1, "series_id": 1}
            connection.execute(insert(series).values(**placed, **one, **kept))
            monos = {"from_boot": 1, "from_mono_ms": 1, "to_boot": 1, "to_mono_ms": 9}
            lost = {"id": "g1", "lane": 2, "seqs": b"", "count": 3, "count_exact": True, "reason": 1}
            connection.execute(insert(gap).values(**placed, **monos, **lost, recorded_ms=START_MS))
        with stores.business.write() as connection:
            told = {"entity_id": "e", "type": "comboio.data.gap.recorded.v1", "version": 1, "change": "create"}
            facts = {"finality": "final", "data_sha256": "", "data": "{}", "current": True, **times}
            connection.execute(insert(event).values(id=EVENT, subject=f"{gateway}/{SENSOR}", **told, **facts))
            sent = {"seq": 1, "event_id": EVENT, "ext_ref": "r", "body": b"", "body_sha256": "", "state": "delivered"}
            row = {"dest": "erp", "key": f"{gateway}/{SENSOR}", "next_at_ms": START_MS, "created_ms": START_MS}
            connection.execute(insert(outbox).values(**row, **sent))
    return gateway


def one_of_each_kind(up: Up) -> str:
    """A pattern of operation ids: of operations that take the same parameters and the same body, the first.

    What the document says of them is checked by the same code of the binding; what they do with it is their own, so
    every operation gets some requests of the other phase.
    """
    document = httpx.get(up.http + "/api/v1/openapi.json", trust_env=False).json()
    kinds: dict[str, str] = {}
    for operations in document["paths"].values():
        for method, one in operations.items():
            takes = sorted(
                ["" if p["in"] == "path" else p["name"], p["in"], p["required"], json.dumps(p["schema"])]
                for p in one["parameters"]
            )
            kinds.setdefault(json.dumps([method, takes, one.get("requestBody")]), one["operationId"])
    assert 30 < len(kinds) < 60
    return f"^({'|'.join(kinds.values())})$"


def generated(up: Up, token: str, folder: Path, *chosen: str) -> int:
    """How many requests of the chosen kind were answered as the document says; fails for one that was not."""
    ran = subprocess.run(
        [
            str(SCHEMATHESIS),
            *("run", f"{up.http}/api/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {token}"),
            *("--exclude-path-regex", "^/(me|openapi.json|live)$"),  # logging out would end the token; a stream lasts
            *("--mode", "all", "--seed", "1", *chosen),
            *("--workers", "1", "--suppress-health-check", "all", "--warnings", "off", "--no-color"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-1000:]
    return int(ran.stdout.partition("Test cases:\n")[2].split()[0])


@pytest.mark.timeout(300)
def test_every_answer_to_generated_requests_is_one_the_document_names(tmp_path: Path) -> None:
    """Each operation right and wrong at random; every limit and every mistake of each kind of operation."""
    with running(tmp_path / "control") as up:
        token = up.api_token(Role.ADMIN)
        (tmp_path / "schemathesis.toml").write_text(EXPECTATIONS.replace("{gateway}", seed(up, token)))
        each = generated(up, token, tmp_path, "--phases", "fuzzing", "--max-examples", "2")
        kinds = ("--include-operation-id-regex", one_of_each_kind(up))
        limits = generated(up, token, tmp_path, "--phases", "coverage", *kinds)
        log = (tmp_path / "control" / "log").read_text()
    assert "api.failed" not in log
    assert each > 100
    assert limits > 1000
