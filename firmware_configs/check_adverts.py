"""What types can't say about a profile of advertisements."""

from __future__ import annotations

from collections.abc import Iterator

from firmware_configs.adverts import WIDTHS, AdvertValue, BleProfile, Layout, Place

NAMED = {"govee", "inkbird", "sensorpush", "thermopro"}
"""Formats whose decoders tell models by the name they advertise."""


def problems_of_adverts(profile: BleProfile) -> Iterator[str]:
    """One sentence per mistake, each starting with its path."""
    described = profile.format == "layout"
    if described and profile.layout is None:
        yield 'layout: format = "layout" needs it'
    if not described and profile.layout is not None:
        yield f'layout: only with format = "layout"; {profile.format} has a decoder of its own'
    if profile.format in NAMED and not profile.local_name:
        yield f"local_name: {profile.format} tells its models by it"
    if profile.layout is not None:
        yield from (f"layout.{text}" for text in _of_layout(profile.layout))
    for packet in profile.packet_s:
        if packet not in profile.packets():
            yield f"packet_s.{packet}: no value is of that packet"
    for value in profile.value:
        yield from (f"value {value.quantity}: {text}" for text in _of_value(value, profile, described=described))


def _of_layout(layout: Layout) -> Iterator[str]:
    if (layout.company is None) == (layout.service is None):
        yield "company: give either company or service"
    for index, match in enumerate(layout.match):
        if match.mask is not None and len(match.mask) != len(match.bytes):
            yield f"match[{index}].mask: is as long as bytes"
        if layout.length and match.at + len(match.bytes) // 2 > min(layout.length):
            yield f"match[{index}]: reaches past the end of {min(layout.length)} bytes"
    if layout.counter is not None:
        if layout.counter.type in {"f32", "hex"} or layout.counter.signed:
            yield "counter: is an unsigned number"
        yield from (f"counter.{text}" for text in _of_place(layout.counter, layout))
    if layout.address_at is not None and layout.length and layout.address_at + 6 > min(layout.length):
        yield f"address_at: reaches past the end of {min(layout.length)} bytes"


def _of_value(value: AdvertValue, profile: BleProfile, *, described: bool) -> Iterator[str]:
    if not described and (value.place is not None or not value.field):
        yield f"field: names what {profile.format} decodes, and nothing has a place"
    if value.place is None:
        if described:
            yield "place: where it stands in the payload"
        return
    if described and value.field:
        yield "field: a layout has places instead"
    if (value.place.type == "hex") != (value.type == "string"):
        yield "place.type: hex is for strings, and only for them"
    if value.type == "boolean" and (value.place.bit is None or value.place.bits is not None):
        yield "place.bit: a boolean is one bit"
    if value.place.type == "f32" and (value.scale is not None or value.offset):
        yield "scale: a float is the value itself"
    if profile.layout is not None:
        yield from (f"place.{text}" for text in _of_place(value.place, profile.layout))


def _of_place(place: Place, layout: Layout) -> Iterator[str]:
    if layout.length and place.end > min(layout.length):
        yield f"at: reaches past the end of {min(layout.length)} bytes"
    if (place.type == "hex") != (place.size is not None):
        yield "size: is the length of hex, and only of hex"
    if place.bits is not None and place.bit is None:
        yield "bit: bits is the width of a field; its lowest bit is bit"
    if place.signed and place.bits is None:
        yield "signed: is for fields; a whole number has its sign in its type"
    if place.bit is None:
        return
    if place.type not in {"u8", "u16", "u24", "u32"}:
        yield "bit: belongs to an u8, u16, u24 or u32"
    elif place.bit + (place.bits or 1) > 8 * WIDTHS[place.type]:
        yield f"bit: reaches past the {8 * WIDTHS[place.type]} bits of an {place.type}"
