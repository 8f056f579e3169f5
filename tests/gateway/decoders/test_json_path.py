"""RFC 6901, and that a message of any kind gives values, qualities or a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_configs.messages import Message, MessageValue
from gateway.decoders.json_path import MAX_BYTES, at, tokens
from gateway.decoders.payloads import Decoded, compile_payload
from gateway.errors import Rejected
from protos.comboio.v1 import batch_pb2 as pb

GOOD, COMM, SENSOR = pb.QUALITY_GOOD, pb.QUALITY_BAD_COMM, pb.QUALITY_BAD_SENSOR
DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "i\\j": 5, " ": 7, "m~n": 8}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/i\\j", 5),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_the_examples_of_rfc_6901(pointer: str, value: Any) -> None:
    assert at(DOCUMENT, tokens(pointer)) == value


@pytest.mark.parametrize("pointer", ["/foo/2", "/foo/-", "/foo/00", "/foo/-1", "/foo/x", "/nothing", "/foo/0/0"])
def test_what_is_not_there_is_not_there(pointer: str) -> None:
    values = [value("x", pointer), value("there", "/a~1b")]
    assert compile_values(values)(json.dumps(DOCUMENT).encode()) == ((None, 1.0), (COMM, GOOD))


def compile_values(values: list[MessageValue]) -> Callable[[bytes], tuple[Any, Any]]:
    decode = compile_payload(Message(value=tuple(values)))

    def one(payload: bytes) -> tuple[Any, Any]:
        (row,) = decode(payload, {})
        assert isinstance(row, Decoded)
        return row.values, row.quality

    return one


def value(quantity: str, path: str, **more: Any) -> MessageValue:
    return MessageValue(quantity=quantity, path=path, source="test", **more)


@pytest.mark.parametrize(
    ("said", "options", "wire", "quality"),
    [
        ("23.1", {"decimals": 1}, 231, GOOD),
        ("23.15", {"decimals": 1}, 23.15, GOOD),
        ("-0.0", {"decimals": 1}, -0.0, GOOD),
        ("7", {}, 7.0, GOOD),
        ("1e300", {"decimals": 2}, 1e300, GOOD),
        ("12345678901234567890", {"decimals": 0}, 12345678901234567890.0, GOOD),
        ("true", {}, None, SENSOR),
        ('"7"', {}, None, SENSOR),
        ("null", {}, None, SENSOR),
        ("[1]", {}, None, SENSOR),
        ("-999", {"sentinels": (-999,)}, None, SENSOR),
        ("true", {"type": "boolean"}, True, GOOD),
        ("1", {"type": "boolean"}, None, SENSOR),
        ('"open"', {"type": "string"}, "open", GOOD),
        ('"n/a"', {"type": "string", "sentinels": ("n/a",)}, None, SENSOR),
        ("5", {"type": "string"}, None, SENSOR),
        (json.dumps("x" * 300), {"type": "string"}, None, SENSOR),
    ],
)
def test_a_value_of_its_kind_is_good_and_another_is_no_value(
    said: str, options: dict[str, Any], wire: Any, quality: int
) -> None:
    decode = compile_values([value("it", "/it", **options), value("other", "/other")])
    values, codes = decode(b'{"it": %s, "other": 1}' % said.encode())
    assert repr(values[0]) == repr(wire)
    assert (codes or (GOOD, GOOD))[0] == quality


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b'{"it": NaN}',
        b'{"it": "warm"}',
        b"[" * 60_000,
        b" " * (MAX_BYTES + 1),
    ],
)
def test_a_message_without_any_wanted_value_is_refused(payload: bytes) -> None:
    with pytest.raises(Rejected):
        compile_values([value("it", "/it")])(payload)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps)
)
def test_nothing_but_a_refusal_leaves_the_decoder(payload: bytes | str) -> None:
    decode = compile_values([value("a", "/0"), value("b", "", type="boolean"), value("c", "/1/0", type="string")])
    try:
        values, quality = decode(payload if isinstance(payload, bytes) else payload.encode("utf-8", "surrogatepass"))
    except Rejected:
        return
    assert len(values) == 3
    assert quality is None or all((wire is None) == (code != GOOD) for wire, code in zip(values, quality, strict=True))
