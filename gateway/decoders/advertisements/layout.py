"""A payload that its profile describes: which it is, and where each value stands. A new tag needs no code."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.decoders.advertisements import Advert, Counter, Fields, Format, Pattern, Undecodable

if TYPE_CHECKING:
    from firmware_configs.adverts import BleProfile, Layout, Match, Place
    from gateway.reading import Wire

Read = Callable[[bytes], "Wire"]


def format_of(profile: BleProfile) -> Format:
    """Fields are the profile's quantities, with the payload's own numbers."""
    layout = profile.layout
    assert layout is not None, "checked when the profile was loaded"
    reads = [
        (value.quantity, _switch(value.place) if value.type == "boolean" else _read(value.place))
        for value in profile.value
        if value.place is not None
    ]
    places = [value.place for value in profile.value if value.place is not None]
    needed = max(place.end for place in [*places, *([layout.counter] if layout.counter else [])])
    counter = _counter(layout.counter) if layout.counter is not None else None
    owner = _owner(layout)

    def decode(data: bytes, address: str, key: bytes | None) -> Fields:
        del key
        if len(data) < needed:
            raise Undecodable(f"has {len(data)} bytes, and is read up to byte {needed}")
        if owner is not None and (said := owner(data)) != address:
            raise Undecodable(f"the payload is {said}'s", "another_device")
        return Fields({quantity: read(data) for quantity, read in reads}, None if counter is None else counter(data))

    return Format(_payload(layout), decode, _patterns(layout))


def _payload(layout: Layout) -> Callable[[Advert], bytes | None]:
    """Another length or other constant bytes: something else of the same sender."""
    company, uuid, lengths = layout.company, layout.uuid, frozenset(layout.length)
    matches = [_match(one) for one in layout.match]

    def payload(advert: Advert) -> bytes | None:
        data = advert.manufacturer.get(company) if company is not None else advert.service.get(uuid or "")
        if data is None or (lengths and len(data) not in lengths):
            return None
        return data if all(match(data) for match in matches) else None

    return payload


def _match(one: Match) -> Callable[[bytes], bool]:
    want = bytes.fromhex(one.bytes)
    mask = int.from_bytes(bytes.fromhex(one.mask) if one.mask else b"\xff" * len(want))
    at, end, masked = one.at, one.at + len(want), int.from_bytes(want) & mask
    return lambda data: len(data) >= end and int.from_bytes(data[at:end]) & mask == masked


def _patterns(layout: Layout) -> tuple[Pattern, ...]:
    start = next((bytes.fromhex(one.bytes) for one in layout.match if one.at == 0 and one.mask is None), b"")
    if layout.company is not None:
        return (Pattern("manufacturer", layout.company.to_bytes(2, "little") + start),)
    uuid = layout.uuid or ""
    if uuid.endswith("-0000-1000-8000-00805f9b34fb") and uuid.startswith("0000"):
        return (Pattern("service", bytes.fromhex(uuid[4:8])[::-1] + start),)
    return ()


def _read(place: Place) -> Read:
    at, end = place.at, place.end
    if place.type == "hex":
        return lambda data: data[at:end].hex()
    if place.type == "f32":
        unpack = struct.Struct(">f" if place.order == "big" else "<f").unpack_from
        return lambda data: float(unpack(data, at)[0])
    order, signed = place.order, place.type.startswith("i")
    if place.bit is None:
        return lambda data: int.from_bytes(data[at:end], order, signed=signed)
    return _field(place, place.bit, place.bits or 1)


def _field(place: Place, shift: int, bits: int) -> Read:
    at, end, order, mask = place.at, place.end, place.order, (1 << bits) - 1
    if not place.signed:
        return lambda data: int.from_bytes(data[at:end], order) >> shift & mask
    sign = 1 << bits - 1
    return lambda data: ((int.from_bytes(data[at:end], order) >> shift & mask) ^ sign) - sign


def _switch(place: Place) -> Read:
    at, end, order, bit = place.at, place.end, place.order, place.bit or 0
    return lambda data: bool(int.from_bytes(data[at:end], order) >> bit & 1)


def _counter(place: Place) -> Callable[[bytes], Counter]:
    read, width = _read(place), place.bits or 8 * (place.end - place.at)

    def counter(data: bytes) -> Counter:
        value = read(data)
        assert isinstance(value, int)
        return Counter(value, width)

    return counter


def _owner(layout: Layout) -> Callable[[bytes], str] | None:
    """As addresses are written."""
    at = layout.address_at
    if at is None:
        return None
    step = 1 if layout.address_order == "big" else -1

    def owner(data: bytes) -> str:
        if len(data) < at + 6:
            raise Undecodable("cut off")
        return data[at : at + 6][::step].hex(":").upper()

    return owner
