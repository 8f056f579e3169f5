"""Numbers and switches are read by the package's table; whatever comes, the package would have said the same."""

from __future__ import annotations

import contextlib

import pytest
from bthome_ble.const import MEAS_TYPES
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.decoders.advertisements import Undecodable
from gateway.decoders.advertisements.bthome import _asked, _number, _read, decode

ADDRESS = "54:48:E6:8F:80:A5"
KEY = bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")
ELSEWHERE = bytes.fromhex("c44112345678")
NUMBERS = sorted(number for number in MEAS_TYPES if _number(number) is not None)


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Known objects of the right length, in any order, some perhaps twice."""
    some = draw(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=6))
    return b"".join(bytes([one]) + draw(st.binary(min_size=n, max_size=n)) for one in some if (n := _length(one)))


def _length(number: int) -> int:
    return MEAS_TYPES[number].data_length


def sealed(body: bytes, *, inside: bool) -> bytes:
    """Encrypted; `inside`: with the sender's address in the payload, which is not the one it was heard from."""
    info = b"\x43" if inside else b"\x41"
    mac = ELSEWHERE if inside else bytes.fromhex(ADDRESS.replace(":", ""))
    counter = b"\x01\0\0\0"
    secret = AESCCM(KEY, tag_length=4).encrypt(mac + b"\xd2\xfc" + info + counter, body, None)
    return info + (mac[::-1] if inside else b"") + secret[:-4] + counter + secret[-4:]


def test_most_of_the_format_is_numbers_and_switches() -> None:
    assert len(NUMBERS) > 60
    assert _number(0x53) is None, "a text"
    assert _number(0x3A) is None, "a button"


@given(objects())
def test_what_is_read_here_is_what_the_package_reads(body: bytes) -> None:
    found = _read(body)
    keys = [one.key for one in map(_number, _ids(body)) if one is not None]
    if found is None:
        assert len(set(keys)) < len(keys), "only one of a kind, and yet not read"
    else:
        assert found == _asked(b"\x40" + body, ADDRESS, None)


def _ids(body: bytes) -> list[int]:
    found, at = [], 0
    while at < len(body):
        found.append(body[at])
        at += 1 + _length(body[at])
    return found


@given(objects(), st.booleans())
@example(bytes.fromhex("02ca09"), True)
def test_sealed_payloads_say_the_same_as_plain_ones(body: bytes, inside: bool) -> None:
    try:
        plain = decode(b"\x40" + body, ADDRESS, None).values
    except Undecodable:
        with pytest.raises(Undecodable):
            decode(sealed(body, inside=inside), ADDRESS, KEY)
    else:
        assert decode(sealed(body, inside=inside), ADDRESS, KEY).values == plain
        assert _asked(sealed(body, inside=inside), ADDRESS, KEY)[0] == plain


@given(st.binary(max_size=40))
def test_whatever_comes_is_fields_or_a_refusal(body: bytes) -> None:
    for data in (b"\x40" + body, b"\x44" + body, sealed(body, inside=False)):
        with contextlib.suppress(Undecodable):
            assert decode(data, ADDRESS, KEY if data[0] & 1 else None).values


def test_two_of_a_kind_are_numbered_as_the_package_does() -> None:
    assert decode(bytes.fromhex("4002ca0902cb09"), ADDRESS, None).values == {
        "temperature_1": 25.06,
        "temperature_2": 25.07,
    }


def test_what_comes_before_an_unknown_object_counts_if_its_sender_is_proven() -> None:
    body = bytes.fromhex("02ca09fe01")
    assert decode(sealed(body, inside=False), ADDRESS, KEY).values == {"temperature": 25.06}
    with pytest.raises(Undecodable, match="object 0xfe is unknown"):
        decode(b"\x40" + body, ADDRESS, None)
