"""A plant of a few series with everything that happens to them, and the questions asked of it."""

from __future__ import annotations

import random
import zlib
from typing import Any
from urllib.parse import urlencode

from flask.testing import FlaskClient

from protos.columns import Block, Schema, encode
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.conftest import START_MS
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import EPOCH, OTHER, hello, urgent

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
OFFSET_MS = 1234
"""No reading lies on a whole second: there Prometheus and whole steps of history count it differently."""
START_S = START_MS // 1000
Answer = dict[str, Any]


def declared(epoch: int = EPOCH) -> pb.Declare:
    """A probe each 10 s, a counter each 30 s, a door and a label."""
    probe = pb.Series(id=1, name="supply temperature", unit="Cel", exp=1)
    energy = pb.Series(id=2, name="active_energy_import", unit="kW.h")
    door = pb.Series(id=3, name="open", type=pb.VT_BOOL)
    label = pb.Series(id=4, name="label", type=pb.VT_STRING)
    groups = [
        pb.Group(id=1, sensor="probe", period_ms=10_000, series=[probe]),
        pb.Group(id=2, sensor="meter", period_ms=30_000, series=[energy]),
        pb.Group(id=3, sensor="door", period_ms=600_000, series=[door, label]),
    ]
    return pb.Declare(epoch=epoch, schema=1, groups=groups)


def batch(seq: int, group: int, rows: list[tuple[int, Any]]) -> pb.Batch:
    """`rows`: (ms since the start, value); the door's group has a label beside it. None is a reading that failed."""
    values = [value for _, value in rows]
    quality = [[0 if value is not None else int(pb.QUALITY_BAD_COMM) for value in values]]
    columns: list[list[Any]] = [values]
    if group == 3:
        columns, quality = [values, ["shut"] * len(rows)], quality * 2
    block = Block(group, [at for at, _ in rows], columns, quality=quality)
    body, count = encode(Schema.from_declare(declared()), boot=1, blocks=[block])
    return pb.Batch(
        epoch=EPOCH, lane=pb.TELEMETRY, seq=seq, schema=1, count=count, body_len=len(body), body=body,
        crc32=zlib.crc32(body), complete_boot=1, complete_mono_ms=rows[-1][0],
    )  # fmt: skip


def grow(road: Road, *, hours: int, seed: int = 3) -> None:
    """The probe walks, fails and pauses; the counter counts and starts again; the door opens."""
    chance = random.Random(seed)
    road.declare(declared())
    road.arrive(urgent(1, pb.Anchor(boot=1, mono_ms=0, wall_ms=START_MS + OFFSET_MS, err_ms=5, source=pb.CLOCK_NTP)))
    level, count, seq = 40, 5, 0
    for hour in range(hours):
        probe: list[tuple[int, Any]] = []
        meter: list[tuple[int, Any]] = []
        for second in range(0, 3600, 10):
            level += chance.choice((-1, 0, 0, 1))
            failed = chance.random() < 0.02
            if not (hour % 2 and 600 <= second < 1500):  # a pause of a quarter of an hour
                probe.append((hour * HOUR_MS + second * 1000, None if failed else level))
            if second % 30 == 0:
                count = chance.choice((0, 2)) if chance.random() < 0.02 else count + chance.randrange(5)
                meter.append((hour * HOUR_MS + second * 1000, count))
        door = [(hour * HOUR_MS + minute * MINUTE_MS, bool(chance.random() < 0.5)) for minute in range(0, 60, 10)]
        made = [batch(seq + number, number, rows) for number, rows in ((1, probe), (2, meter), (3, door))]
        seq += 3
        road.arrive(*made)
    road.project()


def neighbour(road: Road) -> None:
    """Another gateway, which declares the same."""
    road.hello(hello(), OTHER)
    road.declare(declared(), OTHER)
    road.arrive(
        urgent(1, pb.Anchor(boot=1, mono_ms=0, wall_ms=START_MS + OFFSET_MS, err_ms=5, source=pb.CLOCK_NTP)),
        batch(1, 1, [(n * 10_000, n) for n in range(360)]),
        gateway=OTHER,
    )
    road.project()


class Grafana:
    """Asks as it does: a form by POST, a token as the password of HTTP Basic."""

    def __init__(self, client: FlaskClient, token: str) -> None:
        self._client = client
        self._token = token

    def answer(self, path: str, **asked: Any) -> Any:
        form = urlencode({name.replace("match", "match[]"): value for name, value in asked.items()}, doseq=True)
        return self._client.post(
            f"/prometheus/api/v1/{path}",
            data=form,
            content_type="application/x-www-form-urlencoded",
            auth=("grafana", self._token),
        )

    def ask(self, path: str, **asked: Any) -> Any:
        answer = self.answer(path, **asked)
        assert answer.status_code == 200, answer.text
        body = answer.get_json()
        assert body["status"] == "success"
        return body["data"]

    def refused(self, path: str, **asked: Any) -> tuple[int, str, str]:
        answer = self.answer(path, **asked)
        body = answer.get_json()
        assert body["status"] == "error"
        return answer.status_code, body["errorType"], body["error"]

    def get(self, path: str) -> Any:
        answer = self._client.get(f"/prometheus/api/v1/{path}", headers={"Authorization": f"Bearer {self._token}"})
        assert answer.status_code == 200, answer.text
        return answer.get_json()["data"]

    def range(self, query: str, *, hours: tuple[float, float], step: int | str) -> list[Answer]:
        start, end = (START_S + int(hour * 3600) for hour in hours)
        found: list[Answer] = self.ask("query_range", query=query, start=start, end=end, step=step)["result"]
        return found

    def values(self, query: str, *, hours: tuple[float, float], step: int | str) -> dict[int, float]:
        (one,) = self.range(query, hours=hours, step=step)
        return {at: float(value) for at, value in one["values"]}
