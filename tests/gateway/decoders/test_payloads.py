"""Payloads of every format become rows, or a refusal with its cause; and nothing else comes of any bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_configs.messages import (
    Message,
    MessageTime,
    MessageValue,
    covers,
    filled,
    matches,
    parts,
    problem_of_filter,
    topic_filter,
)
from gateway.decoders.json_path import MAX_BYTES, Unreadable
from gateway.decoders.payloads import MAX_ROWS, Decoded, compile_payload
from protos.comboio.v1 import batch_pb2 as pb

GOOD, COMM, SENSOR = pb.QUALITY_GOOD, pb.QUALITY_BAD_COMM, pb.QUALITY_BAD_SENSOR


def value(quantity: str, path: str = "", **more: Any) -> MessageValue:
    return MessageValue(quantity=quantity, path=path, source="test", **more)


def rows(message: Message, payload: str | bytes, **topic_parts: str) -> list[Decoded]:
    return compile_payload(message)(payload if isinstance(payload, bytes) else payload.encode(), topic_parts)


def cause(message: Message, payload: str | bytes) -> str:
    with pytest.raises(Unreadable) as refused:
        rows(message, payload)
    return refused.value.cause


ONE = Message(value=(value("t", "/t", decimals=1), value("h", "/h")))


def test_an_array_of_measurements_is_a_row_each_with_its_own_time() -> None:
    message = Message(
        each="/data", time=MessageTime(path="/ts", format="unix_ms"), value=(value("t", "/v/0", decimals=1),)
    )
    payload = {"data": [{"ts": 1700000000000, "v": [4.5]}, {"ts": "soon", "v": [5]}, {"v": []}, {"v": [6.25]}]}
    found = rows(message, json.dumps(payload))
    assert [row.values for row in found] == [(45,), (50,), (6.25,)]
    assert [row.device_ms for row in found] == [1_700_000_000_000, None, None]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ("{}", "wrong_shape"),
        ('{"data": {}}', "wrong_shape"),
        ('{"data": []}', "empty"),
        ('{"data": [1, "x", null]}', "nothing_wanted"),
        (json.dumps({"data": [{"v": [1]}] * (MAX_ROWS + 1)}), "too_many_rows"),
    ],
)
def test_an_array_that_is_none_is_refused_with_its_cause(payload: str, why: str) -> None:
    assert cause(Message(each="/data", value=(value("t", "/v/0"),)), payload) == why


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xff\xfe", "not_text"),
        (b"{", "not_json"),
        (b"[" * 60_000, "too_deep"),
        (b'{"t": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, "too_deep"),
        (b'{"x": 1}', "nothing_wanted"),
        (b"7", "nothing_wanted"),
        (b'{"t": 1, "t": 2}', "duplicate_name"),
        (b'{"t": 1, "\\u0074": 2}', "duplicate_name"),
        (b" " * (MAX_BYTES + 1), "too_large"),
        (b'{"t": ' + b"9" * 5000 + b"}", "not_json"),
    ],
)
def test_json_of_the_wrong_shape_is_refused_with_its_cause(payload: bytes, why: str) -> None:
    assert cause(ONE, payload) == why


@pytest.mark.parametrize("said", ["NaN", "Infinity", "-Infinity", "1e999", '"21"', "true", "[1]"])
def test_a_value_that_is_none_spoils_only_itself(said: str) -> None:
    (row,) = rows(ONE, f'{{"t": {said}, "h": 40}}')
    assert (row.values, row.quality) == ((None, 40.0), (SENSOR, GOOD))


def test_the_same_name_in_two_objects_is_no_duplicate() -> None:
    (row,) = rows(ONE, '{"a": {"t": 1, "h": 2}, "t": 3, "h": {"t": 4}}')
    assert row.values == (30, None)


@pytest.mark.parametrize(
    ("said", "wire"),
    [("21.5", 215), (" 21,5\n", 215), ("-3", -30), ("+.5", 5), ("1e2", 1000), ("21.55", 21.55), ("12\x00", 120)],
)
def test_a_plain_payload_is_a_number(said: str, wire: Any) -> None:
    assert rows(Message(format="plain", value=(value("t", decimals=1),)), said)[0].values == (wire,)


@pytest.mark.parametrize("said", ["warm", "nan", "inf", "0x10", "1_000", "٣", "1e99999", "--1", "1e999", "12 W"])
def test_a_plain_payload_that_is_no_number_is_refused(said: str) -> None:
    assert cause(Message(format="plain", value=(value("t"),)), said) == "nothing_wanted"


def test_a_sentinel_of_a_plain_payload_is_a_row_without_a_value() -> None:
    (row,) = rows(Message(format="plain", value=(value("t", sentinels=("nan",)),)), "nan")
    assert (row.values, row.quality) == ((None,), (SENSOR,))


@pytest.mark.parametrize(("said", "wire"), [("ON", True), ("off", False), ("true", None), ("1", None)])
def test_labels_say_what_words_mean(said: str, wire: bool | None) -> None:
    message = Message(value=(value("on", "/s", type="boolean", labels={"ON": True, "off": False}), value("x", "/x")))
    (row,) = rows(message, json.dumps({"s": said, "x": 1}))
    assert row.values[0] is wire


def test_labels_take_numbers_and_switches_by_their_json_spelling() -> None:
    message = Message(value=(value("state", "/s", type="string", labels={"1": "open", "true": "shut", "2.5": "half"}),))
    said = [rows(message, f'{{"s": {one}}}')[0].values[0] for one in ("1", "true", "2.5", '"jammed"')]
    assert said == ["open", "shut", "half", "jammed"]


def test_numbers_between_quotes_are_numbers_where_the_profile_says_so() -> None:
    message = Message(value=(value("t", "/t", quoted=True, decimals=1), value("n", "/n", quoted=True)))
    assert rows(message, '{"t": "21.5", "n": 3}')[0].values == (215, 3.0)


def test_scaled_integers_travel_as_they_are_and_fractions_as_what_they_mean() -> None:
    message = Message(value=(value("u", "/u", scale=0.001, unit="V"),))
    assert rows(message, '{"u": 12573}')[0].values == (12573,)
    (fraction,) = rows(message, '{"u": 12573.5}')[0].values
    assert fraction == pytest.approx(12.5735)


def test_lines_of_cells() -> None:
    message = Message(
        format="csv",
        time=MessageTime(path="/0", format="iso8601"),
        value=(value("t", "/1", decimals=1), value("open", "/2", type="boolean"), value("who", "/3", type="string")),
    )
    (row,) = rows(message, '2024-05-01T12:00:00Z;21,5;1;"a;b"\r\n')
    assert row == ((215, True, "a;b"), None, 1_714_564_800_000)
    (row,) = rows(message, "2024-05-01T12:00:00Z, 21.5, false")
    assert (row.values, row.quality) == ((215, False, None), (GOOD, GOOD, COMM))
    many = rows(Message(format="csv", each="", value=(value("n", "/0"),)), "1\n2\n3\n")
    assert [one.values for one in many] == [(1.0,), (2.0,), (3.0,)]


@pytest.mark.parametrize(
    ("kind", "offset", "said", "ms"),
    [
        ("unix_s", None, 1700000000, 1_700_000_000_000),
        ("unix_s", None, "1700000000.25", 1_700_000_000_250),
        ("unix_us", None, 1_700_000_000_000_000, 1_700_000_000_000),
        ("unix_s", None, 0, None),
        ("unix_s", None, -5, None),
        ("unix_s", None, 1e300, None),
        ("unix_ms", None, 10**400, None),
        ("unix_s", None, True, None),
        ("unix_s", None, [1], None),
        ("iso8601", None, "2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("iso8601", None, "2023-11-14T19:13:20-03:00", 1_700_000_000_000),
        ("iso8601", None, "2023-11-14T22:13:20", None),
        ("iso8601", -180, "2023-11-14T19:13:20", 1_700_000_000_000),
        ("iso8601", None, "yesterday", None),
        ("iso8601", None, "0001-01-01T00:00:00Z", None),
        ("iso8601", 0, "9999-12-31T23:59:59", 253_402_300_799_000),
    ],
)
def test_a_time_is_what_the_devices_clock_said_or_nothing(
    kind: Any, offset: int | None, said: object, ms: int | None
) -> None:
    message = Message(time=MessageTime(path="/ts", format=kind, utc_offset_min=offset), value=(value("t", "/t"),))
    assert rows(message, json.dumps({"t": 1, "ts": said}))[0].device_ms == ms


def test_a_part_of_the_topic_is_a_value_but_never_the_only_one() -> None:
    message = Message(topic="home/{by}/x", value=(value("t", "/t"), value("by", topic_part="by", type="string")))
    assert rows(message, '{"t": 1}', by="hall")[0].values == (1.0, "hall")
    with pytest.raises(Unreadable):
        rows(message, "{}", by="hall")


FORMATS = [
    ONE,
    Message(each="", time=MessageTime(path="/0", format="iso8601"), value=(value("a", "/1"),)),
    Message(format="plain", value=(value("a"), value("b", type="boolean"), value("c", type="string"))),
    Message(format="csv", time=MessageTime(path="/0", format="unix_s"), value=(value("a", "/1"), value("b", "/2"))),
    Message(format="csv", each="", value=(value("a", "/0", scale=0.1),)),
    Message(value=(value("a", "/a", labels={"x": 1.0}), value("b", "/b", quoted=True, scale=2.0, offset=1.0))),
]
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from("abth0"), inner, max_size=5),
    max_leaves=20,
).map(lambda document: json.dumps(document).encode())


@given(st.sampled_from(FORMATS), st.binary(max_size=300) | st.text().map(str.encode) | DOCUMENTS)
def test_whatever_comes_is_rows_or_a_refusal(message: Message, payload: bytes) -> None:
    refused: Unreadable | None = None
    found: list[Decoded] = []
    try:
        found = rows(message, payload)
    except Unreadable as error:
        refused = error
    if refused is not None:
        assert refused.cause.isidentifier()
        assert len(str(refused)) < 300
        return
    assert 0 < len(found) <= MAX_ROWS
    for row in found:
        assert len(row.values) == len(message.value)
        codes = row.quality or (GOOD,) * len(row.values)
        assert all((wire is None) == (code != GOOD) for wire, code in zip(row.values, codes, strict=True))
        assert row.device_ms is None or 0 < row.device_ms < 1 << 53


# --- topics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "topic", "yes"),
    [
        ("a/b", "a/b", True), ("a/b", "a/b/c", False), ("a/+", "a/b", True), ("a/+", "a/", True), ("a/+", "a", False),
        ("+/+", "/b", True), ("a/#", "a/b/c", True), ("a/#", "a", True), ("#", "a/b", True), ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False), ("$SYS/#", "$SYS/x", True), ("a/+/c", "a/b/d", False),
    ],
)  # fmt: skip
def test_filters_mean_what_the_standard_says(wanted: str, topic: str, *, yes: bool) -> None:
    assert matches(wanted, topic) is yes


@pytest.mark.parametrize(
    ("wide", "narrow", "yes"),
    [
        ("a/+", "a/b", True), ("a/b", "a/+", False), ("a/+", "a/+", True), ("a/#", "a/+/c", True), ("#", "a/#", True),
        ("a/+", "a/#", False), ("a/+", "a/b/c", False), ("+/b", "a/+", False), ("#", "$SYS/x", False),
        ("a/#", "a", True),
    ],
)  # fmt: skip
def test_a_filter_within_another_is_known(wide: str, narrow: str, *, yes: bool) -> None:
    assert covers(wide, narrow) is yes


def test_placeholders_are_filled_subscribed_to_and_read_back() -> None:
    topic = filled("home/{gateway}/BTtoMQTT/{device}", "A4C138")
    assert topic_filter(topic) == "home/+/BTtoMQTT/A4C138"
    assert parts(topic, "home/hall/BTtoMQTT/A4C138") == {"gateway": "hall"}


@pytest.mark.parametrize(("topic", "said"), [("a/#/b", "#"), ("a+", r"\+"), ("a/x{b}", "placeholder"), ("a#", "#")])
def test_a_filter_that_is_none_is_told(topic: str, said: str) -> None:
    assert said.strip("\\") in str(problem_of_filter(topic))
