"""Queries over what gateways measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
from flask.testing import FlaskClient

from control_plane.api.prometheus import catalog, evaluate, source
from control_plane.api.prometheus.expression import Matcher
from control_plane.fleet.accounts import Accounts, Role
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.api.prometheus.plant import (
    HOUR_MS,
    OFFSET_MS,
    START_S,
    Grafana,
    batch,
    declared,
    neighbour,
)
from tests.control_plane.conftest import START_MS, TurnedClock
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import GATEWAY, OTHER, urgent

METRIC = "supply_temperature"
DAY = (12.0, 46.0)
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""Days of readings take a second to make; that rollups say the same on both databases is told once."""


def test_a_quantity_is_a_metric_and_its_own_name_is_a_label(grafana: Grafana, plant: Road) -> None:
    (one,) = grafana.ask("query", query=METRIC, time=START_S + 60)["result"]
    assert one["metric"] == {
        "__name__": METRIC,
        "gateway": GATEWAY,
        "quantity": "supply temperature",
        "sensor": "probe",
        "unit": "Cel",
    }
    assert catalog.metric("4-20 mA: Größe") == "_4_20_mA:_Gr__e"
    assert grafana.ask("query", query="open", time=START_S + 60)["result"][0]["value"][1] in {"0", "1"}
    assert grafana.ask("query", query="label", time=START_S + 60)["result"] == []


def test_a_point_is_there_only_if_a_reading_lies_in_the_look_back(grafana: Grafana, road: Road) -> None:
    road.declare(declared())
    road.arrive(
        urgent(1, pb.Anchor(boot=1, mono_ms=0, wall_ms=START_MS, err_ms=5)),
        batch(1, 1, [(60_000, 40), (70_000, 41)]),
        batch(2, 3, [(0, True)]),
        batch(3, 2, [(0, 7), (30_000, None)]),
    )
    road.project()
    found = grafana.values(METRIC, hours=(0, 0.5), step=10)
    assert [at - START_S for at in found] == list(range(60, 370, 10))
    assert [found[START_S + at] for at in (60, 70, 360)] == [4.0, 4.1, 4.1]
    # Of what is read each 10 minutes, 2.5 of its periods.
    assert list(grafana.values("open", hours=(0, 1), step=60)) == [START_S + 60 * n for n in range(25)]
    # A reading that failed is not bridged by the one before.
    assert list(grafana.values("active_energy_import", hours=(0, 1), step=10)) == [START_S, START_S + 10, START_S + 20]


def test_rollups_answer_as_readings_do(grafana: Grafana, days: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything() -> list[Any]:
        asked = [(f"{name}_over_time({METRIC}[{span}])", step) for name in ("avg", "min", "max", "sum", "count", "last")
                 for span, step in (("1h", "1h"), ("2h", "30m"), ("5m", "7m"), ("1d", "12h"))]  # fmt: skip
        return [one for query, step in asked for one in grafana.range(query, hours=DAY, step=step)]

    with monkeypatch.context() as without:
        without.setattr(source, "SHORT_MS", math.inf)
        expected = everything()
    reads: list[Any] = []
    monkeypatch.setattr(source.Source, "_readings", lambda *given: reads.append(given))
    found = everything()
    assert not reads
    assert [one["metric"] for one in found] == [one["metric"] for one in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert [at for at, _ in mine["values"]] == [at for at, _ in theirs["values"]]
        numbers = [[float(value) for _, value in one["values"]] for one in (mine, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-12)


@ON_SQLITE
def test_minutes_say_the_last_reading_before_and_never_more_than_readings(
    grafana: Grafana, days: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled = grafana.values(METRIC, hours=DAY, step=60)
    counted = grafana.values("increase(active_energy_import[1h])", hours=DAY, step="30m")
    monkeypatch.setattr(source, "SHORT_MS", math.inf)
    exact = grafana.values(METRIC, hours=DAY, step=60)
    assert rolled.keys() <= grafana.values(f"count_over_time({METRIC}[5m])", hours=DAY, step=60).keys()
    same = [at for at in rolled.keys() & exact.keys() if rolled[at] == exact[at]]
    assert len(same) == len(rolled.keys() & exact.keys()) > 1500
    few = grafana.values("increase(active_energy_import[1h])", hours=DAY, step="30m")
    assert counted.keys() == few.keys()
    assert max(abs(counted[at] - few[at]) / max(1.0, few[at]) for at in few) < 0.2


@ON_SQLITE
def test_the_ends_of_a_single_window_are_exact(grafana: Grafana, days: Road) -> None:
    end_s = START_S + 45 * 3600 + 61.235
    for span, seconds in (("3h", 3 * 3600), ("40h", 40 * 3600)):
        (one,) = grafana.ask("query", query=f"count_over_time(active_energy_import[{span}])", time=end_s)["result"]
        assert int(one["value"][1]) == seconds // 30
    at_ms = START_MS + OFFSET_MS + HOUR_MS
    for moment_ms, count in ((at_ms, 0), (at_ms + 1, 1)):
        found = grafana.ask("query", query="count_over_time(active_energy_import[1s])", time=moment_ms / 1000)["result"]
        assert sum(int(one["value"][1]) for one in found) == count


def test_what_comes_late_and_what_is_not_sealed_is_answered_too(grafana: Grafana, days: Road) -> None:
    query = f"max_over_time({METRIC}[1h])"
    before = grafana.values(query, hours=DAY, step="1h")
    days.arrive(batch(900, 1, [(30 * HOUR_MS + 5, 9999)]))
    days.project()
    after = grafana.values(query, hours=DAY, step="1h")
    assert {at for at in after if after[at] != before[at]} == {START_S + 31 * 3600}
    assert after[START_S + 31 * 3600] == 999.9


def test_series_are_brought_together_and_computed_with(grafana: Grafana, plant: Road) -> None:
    neighbour(plant)
    at = START_S + 3000
    single = {
        one["metric"]["gateway"]: float(one["value"][1])
        for one in grafana.ask("query", query=METRIC, time=at)["result"]
    }
    assert single.keys() == {GATEWAY, OTHER}
    for how, expected in {
        "sum": sum(single.values()), "avg": sum(single.values()) / 2, "min": min(single.values()),
        "max": max(single.values()), "count": 2,
    }.items():  # fmt: skip
        (one,) = grafana.ask("query", query=f"{how} by (unit) ({METRIC})", time=at)["result"]
        assert one["metric"] == {"unit": "Cel"}
        assert float(one["value"][1]) == pytest.approx(expected)
    found = grafana.ask("query", query=f"({METRIC} * 9 / 5 + 32) ^ 1 % 1000", time=at)["result"]
    assert {one["metric"]["gateway"]: float(one["value"][1]) for one in found} == pytest.approx(
        {gateway: value * 9 / 5 + 32 for gateway, value in single.items()}
    )
    assert all("__name__" not in one["metric"] for one in found)
    assert grafana.ask("query", query="1 + 1", time=at) == {"resultType": "scalar", "result": [at, "2"]}
    assert grafana.ask("query", query="1 / 0 - 2")["result"][1] == "+Inf"
    assert grafana.range("2", hours=(0, 1), step=1800) == [
        {"metric": {}, "values": [[START_S + 1800 * n, "2"] for n in range(3)]}
    ]


def test_matchers_choose_by_every_label(grafana: Grafana, plant: Road) -> None:
    neighbour(plant)

    def chosen(selector: str) -> set[tuple[str, str]]:
        found = grafana.ask("series", match=selector)
        return {(one["gateway"], one["sensor"]) for one in found}

    both = {(GATEWAY, "probe"), (OTHER, "probe")}
    assert chosen(METRIC) == chosen('{unit="Cel"}') == chosen('{quantity="supply temperature"}') == both
    assert chosen(f'{METRIC}{{gateway=~"gw-b.*"}}') == {(OTHER, "probe")}
    assert chosen(f'{METRIC}{{gateway=~"b"}}') == set(), "a pattern is of the whole label"
    assert chosen(f'{METRIC}{{gateway!="{OTHER}",unit!~"K|F",nonsense=""}}') == {(GATEWAY, "probe")}
    assert chosen(f'{{sensor=~"probe|door",gateway="{OTHER}"}}') == {(OTHER, "probe"), (OTHER, "door")}
    assert chosen("supply_Temperature") == chosen("supplyxtemperature") == chosen('{__name__="a%\\\\"}') == set()
    assert chosen('{unit="",sensor!=""}') == {(GATEWAY, "door"), (OTHER, "door")}


def test_what_there_is_is_listed(grafana: Grafana, plant: Road) -> None:
    assert grafana.ask("labels") == ["__name__", "gateway", "quantity", "sensor", "unit"]
    assert grafana.ask("labels", match="open") == ["__name__", "gateway", "quantity", "sensor"]
    assert grafana.get("label/__name__/values") == ["active_energy_import", "label", "open", METRIC]
    assert grafana.get("label/__name__/values?limit=1") == ["active_energy_import"]
    assert grafana.get(f"label/gateway/values?match[]={METRIC}&match[]=open&start=1&end=2") == [GATEWAY]
    assert grafana.get("label/unit/values") == ["Cel", "kW.h"]
    assert grafana.get("label/nonsense/values") == []
    assert [one["sensor"] for one in grafana.ask("series", match=["open", METRIC, "label"])] == [
        "door",
        "probe",
        "door",
    ]
    assert grafana.get(f"metadata?metric={METRIC}")[METRIC][0]["unit"] == "Cel"
    assert len(grafana.get("metadata")) == 4
    assert grafana.get("status/buildinfo")["version"]


def test_a_caller_sees_its_own_part_of_the_fleet_only(client: FlaskClient, accounts: Accounts, plant: Road) -> None:
    nobodys = accounts.create_token(name="others", role=Role.VIEWER, groups=frozenset({"others"})).token
    stranger = Grafana(client, nobodys)
    assert stranger.ask("query", query=METRIC, time=START_S + 60)["result"] == []
    assert stranger.get("label/__name__/values") == stranger.get("label/gateway/values") == []
    assert stranger.ask("series", match=METRIC) == []
    assert stranger.get("metadata") == {}


def test_every_address_wants_a_token_that_may_read_data(client: FlaskClient, accounts: Accounts, plant: Road) -> None:
    events = accounts.create_token(name="events", role=Role.VIEWER, permissions=frozenset({"events:read"})).token
    integrator = accounts.create_token(name="integrator", role=Role.INTEGRATOR).token
    rules = [rule for rule in client.application.url_map.iter_rules() if rule.rule.startswith("/prometheus")]
    assert len(rules) == 8
    for rule in rules:
        path = rule.rule.replace("<label>", "unit").replace("<path:rest>", "rules")
        assert client.options(path).status_code == 405
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            answer = client.open(path, method=method)
            assert (answer.status_code, answer.get_json()["errorType"]) == (401, "unauthorized"), path
            assert answer.headers["WWW-Authenticate"]
            for token in (events, integrator):
                answer = client.open(path, method=method, headers={"Authorization": f"Bearer {token}"})
                assert (answer.status_code, answer.get_json()["errorType"]) == (403, "forbidden"), path
            assert client.open(path, method=method, auth=("admin", "wrong")).status_code == 401


@pytest.mark.parametrize(
    ("path", "asked", "said"),
    [
        ("query", {}, "query is missing"),
        ("query", {"query": "t", "time": "soon"}, "time=soon is no instant"),
        ("query", {"query": "t", "time": "2026-01-01T00:00:00"}, "is no instant"),
        ("query", {"query": "t", "time": "1e300"}, "is no instant"),
        ("query", {"query": "t", "time": "nan"}, "is no instant"),
        ("query", {"query": "topk(1, t)"}, "topk is not answered here"),
        ("query", {"query": "{}"}, "has to leave something out"),
        ("query", {"query": '{gateway=~".*"}'}, "has to leave something out"),
        ("query", {"query": 't{gateway=~"("}'}, "is not a pattern of RE2: missing"),
        ("query", {"query": 't{gateway=~"(?=x)y"}'}, "is not a pattern of RE2"),
        ("query", {"query": 't{gateway=~"((x{1,900}){1,900})"}'}, "is not a pattern of RE2"),
        ("query", {"query": f't{{gateway=~"{"x" * 1001}"}}'}, "at most 1000 characters"),
        ("query", {"query": 't{gateway="\\x00"}'}, "NUL"),
        ("query_range", {"query": "t", "start": 0, "end": 60}, "step is missing"),
        ("query_range", {"query": "t", "start": 0, "end": 60, "step": 0}, "step has to be"),
        ("query_range", {"query": "t", "start": 0, "end": 60, "step": "nan"}, "step has to be"),
        ("query_range", {"query": "t", "start": 60, "end": 0, "step": 1}, "start lies after end"),
        ("query_range", {"query": "t", "start": 0, "end": 11_000, "step": 1}, "step=1 fits"),
        ("series", {}, "match[] is missing"),
        ("series", {"match": "t + 1"}, "found '+' where the end was expected"),
    ],
)
def test_what_is_wrong_is_told_in_prometheus_own_form(
    grafana: Grafana, path: str, asked: dict[str, Any], said: str
) -> None:
    status, kind, text = grafana.refused(path, **asked)
    assert (status, kind) == (400, "bad_data")
    assert said in text


def test_eleven_thousand_points_are_answered_and_no_more(grafana: Grafana, plant: Road) -> None:
    ask = {"query": "1", "start": 0, "step": 1}
    (one,) = grafana.ask("query_range", end=10_999, **ask)["result"]
    assert len(one["values"]) == 11_000
    assert grafana.refused("query_range", end=11_000, **ask)[0] == 400


def test_a_pattern_takes_linear_time() -> None:
    """With backtracking this one would outlast the universe."""
    selection = catalog.Selection([Matcher("sensor", "=~", "(([a-z]+)+)+!")])
    assert not selection.takes({"sensor": "a" * 10_000})
    assert selection.takes({"sensor": "a" * 10_000 + "!"})


@ON_SQLITE
def test_limits_are_told_and_what_helps(grafana: Grafana, days: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "MOST_POINTS", 100)
    status, kind, text = grafana.refused("query_range", query=METRIC, start=START_S, end=START_S + 600, step=1)
    assert (status, kind) == (422, "execution")
    assert "a longer step" in text
    monkeypatch.setattr(source, "MOST_READINGS", 1000)
    asked = {"query": f"avg_over_time({METRIC}[1h])", "start": START_S + 1, "end": START_S + 30 * 3600, "step": 3600}
    status, kind, text = grafana.refused("query_range", **asked)
    assert (status, kind) == (422, "execution")
    assert "readings one by one; at most 1000" in text
    assert grafana.ask("query_range", **asked | {"start": START_S})["result"]
    monkeypatch.setattr(catalog.Selection.series, "__kwdefaults__", {"most": 1})
    assert "More than 1 series" in grafana.refused("query", query='{sensor=~".+"}')[2]


def test_now_is_the_default_and_a_form_of_any_size_is_no_failure(
    grafana: Grafana, plant: Road, clock: TurnedClock, client: FlaskClient
) -> None:
    clock.at_ms = START_MS + HOUR_MS
    (one,) = grafana.ask("query", query=METRIC)["result"]
    assert one["value"][0] == START_S + 3600
    client.application.config["MAX_CONTENT_LENGTH"] = 100
    status, kind, _ = grafana.refused("query", query="1" * 200)
    assert (status, kind) == (413, "bad_data")
    assert grafana.refused("rules")[:2] == (404, "not_found")
