"""What a profile of advertisements may not say, and that a layout reads what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_configs.adverts import BleProfile
from firmware_configs.loader import ProfileError, Profiles, load
from gateway.decoders.advertisements import Advert, Counter, Undecodable, resolve
from protos.strict import convert

ADDRESS = "54:48:E6:8F:80:A5"
HEAD = """
vendor = "acme"
model = "tag"
version = 1
description = "A tag"
period_s = 10.0
sources = [{ id = "manual", title = "Its manual" }]
"""
VALUE = '\n[[value]]\nquantity = "temperature"\nsource = "manual"\n'
LAYOUT = 'format = "layout"\nlayout = { company = 1, length = [4] }\n'


def profile(text: str) -> BleProfile:
    import tomllib

    return convert(tomllib.loads(HEAD + text), BleProfile)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('format = "layout"' + VALUE, 'layout: format = "layout" needs it'),
        ('format = "bthome-v2"\nlayout = { company = 1 }' + VALUE, "layout: only with format"),
        ('format = "bthome-v2"' + VALUE, "field: names what bthome-v2 decodes"),
        ('format = "govee"' + VALUE + 'field = "temperature"', "local_name: govee tells its models by it"),
        ('format = "layout"\nlayout = {}' + VALUE, "layout.company: give either company or service"),
        (LAYOUT + VALUE, "place: where it stands"),
        (LAYOUT + VALUE + 'place = { at = 3, type = "i16" }', "place.at: reaches past the end of 4 bytes"),
        (LAYOUT + VALUE + 'place = { at = 0, type = "u8", bits = 3 }', "bits is the width of a field"),
        (LAYOUT + VALUE + 'place = { at = 0, type = "u8", bit = 6, bits = 3 }', "reaches past the 8 bits of an u8"),
        (LAYOUT + VALUE + 'place = { at = 0, type = "i8", bit = 6 }', "bit: belongs to an u8"),
        (LAYOUT + VALUE + 'place = { at = 0, type = "u8", signed = true }', "signed: is for fields"),
        (LAYOUT + VALUE + 'place = { at = 0, type = "hex", size = 2 }', "hex is for strings"),
        (LAYOUT + VALUE + 'type = "string"\nplace = { at = 0, type = "hex" }', "size: is the length of hex"),
        (LAYOUT + VALUE + 'type = "boolean"\nplace = { at = 0, type = "u8" }', "place.bit: a boolean is one bit"),
        (LAYOUT + VALUE + 'scale = 2.0\nplace = { at = 0, type = "f32" }', "scale: a float is the value itself"),
        (
            LAYOUT + "packet_s = { battery = 9 }" + VALUE + 'place = { at = 0, type = "u8" }',
            "packet_s.battery: no",
        ),
        (
            'format = "layout"\nlayout = { company = 1, match = [{ bytes = "0102", mask = "ff" }] }\n'
            + VALUE
            + 'place = { at = 0, type = "u8" }',
            "mask: is as long as bytes",
        ),
        (
            'format = "layout"\nlayout = { company = 1, counter = { at = 0, type = "f32" } }\n'
            + VALUE
            + 'place = { at = 0, type = "u8" }',
            "layout.counter: is an unsigned number",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "acme-tag.toml"
    path.write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(ProfileError) as told:
        load(path, BleProfile)
    assert problem in str(told.value)
    assert str(told.value).startswith("acme-tag.toml: ")


@given(data=st.binary(min_size=8, max_size=8))
def test_a_layout_reads_each_kind_of_place(data: bytes) -> None:
    found = profile(
        """format = "layout"
        layout = { service = "ffe1", length = [8, 9], counter = { at = 7, type = "u8" } }
        value = [
          { quantity = "a", source = "manual", place = { at = 0, type = "i16", order = "big" } },
          { quantity = "b", source = "manual", place = { at = 1, type = "u24" } },
          { quantity = "c", source = "manual", place = { at = 2, type = "u16", bit = 3, bits = 5 } },
          { quantity = "d", source = "manual", place = { at = 2, type = "u16", bit = 3, bits = 5, signed = true } },
          { quantity = "e", source = "manual", type = "boolean", place = { at = 4, type = "u8", bit = 7 } },
          { quantity = "f", source = "manual", type = "string", place = { at = 5, type = "hex", size = 3 } },
        ]"""
    )
    values, counter = resolve(found).decode(data, ADDRESS, None)
    field = int.from_bytes(data[2:4], "little") >> 3 & 31
    assert values == {
        "a": int.from_bytes(data[:2], signed=True),
        "b": data[1] | data[2] << 8 | data[3] << 16,
        "c": field,
        "d": field - 32 if field > 15 else field,
        "e": data[4] > 127,
        "f": data[5:8].hex(),
    }
    assert counter == Counter(data[7], 8)


def test_a_layout_leaves_alone_what_is_not_its_own_and_refuses_what_another_sent() -> None:
    found = profile(
        """format = "layout"
        layout = { company = 0x0133, match = [{ at = 0, bytes = "17" }, { at = 1, bytes = "80", mask = "c0" }], address_at = 3, address_order = "little" }
        value = [{ quantity = "a", source = "manual", place = { at = 2, type = "u8" } }]"""  # noqa: E501 - TOML 1.0
    )
    format_ = resolve(found)
    own = bytes.fromhex(ADDRESS.replace(":", ""))[::-1]

    def payload(data: bytes) -> bytes | None:
        return format_.payload(Advert(ADDRESS, {0x0133: data}, {}, None, 0))

    assert payload(b"\x17\xbf\x05" + own) is not None
    assert payload(b"\x17\x40\x05" + own) is None
    assert payload(b"\x18\x80\x05" + own) is None
    assert payload(b"\x17") is None
    assert format_.decode(b"\x17\x80\x05" + own, ADDRESS, None).values == {"a": 5}
    for other in (own[::-1], own[:5]):
        with pytest.raises(Undecodable):
            format_.decode(b"\x17\x80\x05" + other, ADDRESS, None)
    assert [one.data.hex() for one in format_.patterns] == ["330117"]


def test_every_format_can_be_heard_passively_or_says_that_it_is_asked_or_has_flags() -> None:
    without = {one.name for one in Profiles().all_ble() if not resolve(one).patterns and not one.scan_response}
    assert without == {"thermopro-tp357@1"}, "its company number is its temperature; it sends flags"
