"""Real tools of Prometheus: its client reads a running installation, and its server, given the same, says the same."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from control_plane.fleet.accounts import Role
from control_plane.store.engine import Stores
from tests.control import running
from tests.control_plane.api.prometheus.plant import START_S, Grafana, grow
from tests.control_plane.conftest import START_MS, TurnedClock
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import GATEWAY
from tests.servers import require

PATIENCE_S = 120
KEYS = {
    ("probe", "supply temperature"): ("supply_temperature", "Cel"),
    ("meter", "active_energy_import"): ("active_energy_import", "kW.h"),
    ("door", "open"): ("open", ""),
}
METER, PROBE = "active_energy_import", "supply_temperature"
SHORT = (
    METER,
    "last_over_time(open[10m])",
    f"-{METER} % 7 ^ 2 / 3",
    *(f"{name}({METER}[{span}])" for name in ("rate", "increase", "delta") for span in ("1m", "5m", "31m")),
    *(f"{name}_over_time({PROBE}[{span}])" for name in ("avg", "min", "max", "sum", "count", "last")
      for span in ("30s", "7m")),
    'sum by (unit) ({gateway=~"gw-.*", sensor!~"d.*|p.*"} * 2)',
    f'avg without (sensor, quantity) (max_over_time({{__name__=~"open|{METER}"}}[10m]))',
    'count(count_over_time({sensor!=""}[5m])) + 1e3',
    f"max by (gateway, nonsense) ({METER}) - 0x10",
    "1 / 0 * -2",
)  # fmt: skip
LONG = tuple(
    f"{name}_over_time({PROBE}[{span}])"
    for name in ("avg", "min", "max", "sum", "count", "last")
    for span in ("15m", "2h")
)


def told(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_promtool_reads_a_running_installation(tmp_path: Path) -> None:
    promtool = require("promtool", "prometheus")
    with Stores(f"sqlite:///{tmp_path}") as stores:
        stores.migrate()
        grow(Road(stores, TurnedClock()), hours=1)
    with running(tmp_path) as up:
        token = up.api_token(Role.VIEWER)
        header, server = f"--header=Authorization=Bearer {token}", f"{up.http}/prometheus"
        named = up.http.replace("://", f"://grafana:{token}@") + "/prometheus"
        ends = (f"--start={START_S + 60}", f"--end={START_S + 240}", "--step=60s")
        answers = [
            told(promtool, "query", "range", *ends, "--format=json", *more, METER)
            for more in ((header, server), (named,))
        ]
        refused = subprocess.run(
            [promtool, "query", "range", *ends, header, server, "topk(1, open)"],
            check=False, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        instant = told(promtool, "query", "instant", "--format=json", f"--time={START_S + 60}", named, f"sum({METER})")
        listed = told(promtool, "query", "series", f"--match={METER}", named)
        sensors = told(promtool, "query", "labels", named, "sensor")
        stranger = httpx.get(f"{server}/api/v1/labels", trust_env=False, verify=False)
    assert answers[0] == answers[1]
    (one,) = json.loads(answers[0])
    assert one["metric"]["gateway"] == GATEWAY
    assert [at for at, _ in one["values"]] == [START_S + 60, START_S + 120, START_S + 180, START_S + 240]
    assert refused.returncode != 0
    assert "topk is not answered here" in refused.stderr
    assert json.loads(instant)[0]["value"] == one["values"][0]
    assert 'sensor="meter"' in listed
    assert sensors.split() == ["door", "meter", "probe"]
    assert (stranger.status_code, stranger.json()["status"]) == (401, "error")


class Oracle:
    def __init__(self, http: str) -> None:
        self._http = http

    def range(self, query: str, start: int, end: int, step: int) -> list[dict[str, Any]]:
        asked: dict[str, str | int] = {"query": query, "start": start, "end": end, "step": step}
        answer = httpx.get(f"{self._http}/api/v1/query_range", params=asked, trust_env=False, timeout=PATIENCE_S).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return sorted(found, key=lambda one: sorted(one["metric"].items()))


def written(road: Road, hours: int) -> Iterator[str]:
    """Every reading that gave a number, as OpenMetrics."""
    found = road.reader().read(GATEWAY, list(KEYS), from_ms=0, to_ms=START_MS + (hours + 1) * 3_600_000)
    for (sensor, quantity), (name, unit) in KEYS.items():
        yield f"# TYPE {name} unknown\n"
        labels = {"gateway": GATEWAY, "sensor": sensor, "quantity": quantity} | ({"unit": unit} if unit else {})
        text = ",".join(f'{label}="{value}"' for label, value in labels.items())
        one = found[sensor, quantity]
        for at_ms, value in zip(one.times_ms, one.values, strict=True):
            if value is not None:
                yield f"{name}{{{text}}} {float(value)!r} {at_ms / 1000}\n"
    yield "# EOF\n"


@contextmanager
def prometheus(folder: Path, road: Road, hours: int) -> Iterator[Oracle]:
    program, promtool = require("prometheus", "prometheus"), require("promtool", "prometheus")
    (folder / "readings").write_text("".join(written(road, hours)))
    (folder / "settings.yml").write_text("global: {}\n")
    told(promtool, "tsdb", "create-blocks-from", "openmetrics", "-q", str(folder / "readings"), str(folder / "data"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        program, f"--config.file={folder}/settings.yml", f"--storage.tsdb.path={folder}/data",
        "--storage.tsdb.retention.time=100y", f"--web.listen-address={address}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not _ready(address):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield Oracle(f"http://{address}")
    finally:
        process.kill()
        process.wait()


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def same(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [one["metric"] for one in mine] == [one["metric"] for one in theirs]
    for here, there in zip(mine, theirs, strict=True):
        assert [at for at, _ in here["values"]] == [at for at, _ in there["values"]]
        numbers = [[float(value) for _, value in one["values"]] for one in (here, there)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-9, abs=1e-9)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_prometheus_with_the_same_readings_says_the_same(tmp_path: Path, road: Road, grafana: Grafana) -> None:
    hours = 14
    grow(road, hours=hours)
    road.seal()
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with prometheus(folder, road, hours) as oracle:
        for query in SHORT:
            found = grafana.range(query, hours=(0.8, 2), step=61)
            assert found, query
            same(found, oracle.range(query, START_S + 2880, START_S + 7200, 61))
        for query in LONG:
            found = grafana.range(query, hours=(1, hours - 1), step=900)
            assert found, query
            same(found, oracle.range(query, START_S + 3600, START_S + (hours - 1) * 3600, 900))
