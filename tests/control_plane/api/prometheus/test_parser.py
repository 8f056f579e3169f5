from __future__ import annotations

import json
import re

import pytest

from control_plane.api.prometheus.expression import (
    Aggregate,
    Arithmetic,
    Call,
    Expression,
    Matcher,
    Number,
    QueryError,
    Selector,
)
from control_plane.api.prometheus.parser import parse, parse_selector
from tests.control import ROOT

T = Selector((Matcher("__name__", "=", "t"),))
HIGHEST = Call("max_over_time", T, 300_000)


def times(left: Expression, right: Expression, sign: str = "*") -> Arithmetic:
    return Arithmetic(sign, left, right)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("t", T),
        (" t{ } # the end", T),
        ('t{gateway="a\\"b\\u00e9",sensor!~\'x|y\',}', Selector((
            *T.matchers, Matcher("gateway", "=", 'a"bé'), Matcher("sensor", "!~", "x|y"),
        ))),
        ("{__name__=~`a\\d`}", Selector((Matcher("__name__", "=~", "a\\d"),))),
        ("rate(t[1h30m])", Call("rate", T, 5_400_000)),
        ("sum by (gateway, unit,) (t)", Aggregate("sum", ("gateway", "unit"), False, T)),
        ("AVG(t) without (sensor)", Aggregate("avg", ("sensor",), True, T)),
        ("count(t)", Aggregate("count", (), False, T)),
        ("1 + 2 * t", times(Number(1), times(Number(2), T), "+")),
        ("(1 + 2) * t", times(times(Number(1), Number(2), "+"), T)),
        ("t - 1 - 2", times(times(T, Number(1), "-"), Number(2), "-")),
        ("2 ^ 3 ^ t", times(Number(2), times(Number(3), T, "^"), "^")),
        ("-t ^ 2", times(Number(-1), times(T, Number(2), "^"))),
        ("-t * 2", times(times(Number(-1), T), Number(2))),
        ("2 * -t", times(Number(2), times(Number(-1), T))),
        ("0x1f", Number(31)),
        ("1e3", Number(1000)),
        (".5", Number(0.5)),
        ("Inf", Number(float("inf"))),
        ("sum(max_over_time(t[5m])) / 2", times(Aggregate("sum", (), False, HIGHEST), Number(2), "/")),
    ],
)  # fmt: skip
def test_what_is_answered_is_understood_as_prometheus_does(text: str, meant: Expression) -> None:
    assert parse(text) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Character 1: found 'the end' where a metric or a number was expected"),
        ("t[5m]", "a range has to stand in a function"),
        ("t + t", "Character 3: one side has to be a number"),
        ("t > 5", "> is not answered here"),
        ("t and t", "and is not answered here"),
        ("t offset 5m", "offset is not answered here"),
        ("topk(3, t)", "topk is not answered here; functions: avg_over_time"),
        ("rate(t)", "found ')' where '[' was expected"),
        ("rate(t[5m:1m])", "subqueries are not answered here"),
        ("rate(t[5])", "where a duration as 5m was expected"),
        ("sum(1)", "sum is of series"),
        ("rate(t[0s])", "a duration lies between"),
        ('"text"', "a string alone"),
        ('t{a="b}', "a string ends where it began"),
        ('t{a="\\q"}', "\\q is not known in a string"),
        ('t{a="\\ud800"}', "is no character"),
        ("t{a=5}", "where a quoted string was expected"),
        ("t{a<5}", "a label is followed by"),
        ('t{__name__="u"}', "named before the brace"),
        ("t ü", "Character 3: 'ü' can't stand here"),
        ("t t", "found 't' where the end was expected"),
        ("(" * 60 + "1" + ")" * 60, "more than 50 expressions"),
        ("-" * 5000 + "1", "more than 50 expressions"),
        ("1" * 10_001, "at most 10000 characters"),
    ],
)
def test_what_is_not_answered_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert caught.value.status == 400


def test_what_the_dashboard_asks_is_answered() -> None:
    """With what Grafana puts in place of its variables."""
    dashboard = json.loads((ROOT / "docs" / "grafana" / "readings.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(asked) >= 8
    filled = {"$metric": "supply_temperature", "$gateway": ".+", "$sensor": "cooling|door", "$__interval": "1m"}
    for text in asked:
        parse(re.sub(r"\$\w+", lambda found: filled[found.group()], text))
    for variable in dashboard["templating"]["list"]:
        selector, comma, _ = variable["definition"].removeprefix("label_values(").rpartition(",")
        if comma:
            parse_selector(re.sub(r"\$\w+", lambda found: filled[found.group()], selector))
