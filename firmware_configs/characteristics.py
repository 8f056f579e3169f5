"""What a profile of a Bluetooth LE peripheral may say: which characteristics to read or hear, and how to decode them.

UUIDs are written short (`2a6e`) where the Bluetooth SIG assigned them, else whole and in lower case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from firmware_configs.schema import Frozen, Name, Order, Slug, Source

Uuid = Annotated[
    str,
    Meta(
        pattern=r"^([0-9a-f]{4}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$",
        title="2a6e, or a whole UUID in lower case",
    ),
]
CharacteristicType = Literal["bool", "u8", "i8", "u16", "i16", "u24", "i24", "u32", "i32", "f32", "string"]
SIZES: dict[str, int] = {
    "bool": 1, "u8": 1, "i8": 1, "u16": 2, "i16": 2, "u24": 3, "i24": 3, "u32": 4, "i32": 4, "f32": 4, "string": 0,
}  # fmt: skip
"""In bytes; a string takes what is left."""
BASE_UUID = "0000{}-0000-1000-8000-00805f9b34fb"


def whole(uuid: str) -> str:
    """A UUID as BlueZ writes it."""
    return BASE_UUID.format(uuid) if len(uuid) == 4 else uuid


class GattValue(Frozen, frozen=True, kw_only=True):
    """One quantity and where it stands in the value of a characteristic."""

    quantity: Name
    service: Uuid
    characteristic: Uuid
    how: Literal["read", "notify"] = "read"
    """read: asked for each period, all in one row. notify: the peripheral says it by itself, a row each time."""
    type: CharacteristicType
    byte: Annotated[int, Meta(ge=0, le=511)] = 0
    """Its first byte in the value."""
    order: Order = "little"
    bit: Annotated[int, Meta(ge=0, le=31)] | None = None
    """Only a part of an unsigned integer: its lowest bit; of a bool, which bit it is."""
    bits: Annotated[int, Meta(ge=1, le=31)] | None = None
    """How many bits that part has."""
    unit: str = ""
    """UCUM code."""
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None
    """The device's integer has this many decimals; of a float, what the device resolves."""
    scale: float | None = None
    """value = integer × scale + offset, where no power of ten says it."""
    offset: float = 0.0
    sentinels: tuple[int | float, ...] = ()
    """Raw values by which the device says "not available"."""
    invalid_above: int | None = None
    """Raw values beyond it say "not available" too."""
    optional: bool = False
    """Some devices of this model lack the characteristic; they are read without it."""
    attrs: dict[str, str] = msgspec.field(default_factory=dict)
    source: Annotated[str, Meta(min_length=1)]
    """Source id and section."""

    @property
    def end(self) -> int:
        """The value must have at least so many bytes."""
        return self.byte + SIZES[self.type]


class GattWrite(Frozen, frozen=True, kw_only=True):
    """What must be written after connecting, so that the device measures."""

    service: Uuid
    characteristic: Uuid
    hex: Annotated[str, Meta(pattern=r"^([0-9a-f]{2})+$", title="bytes, e.g. 01ff")]
    response: bool = True
    """The device confirms it."""
    source: Annotated[str, Meta(min_length=1)]


class GattProfile(Frozen, frozen=True, kw_only=True):
    """One device model. Its name is `vendor-model@version`, its file `gatt/<vendor>-<model>.toml`."""

    vendor: Slug
    model: Slug
    version: Annotated[int, Meta(ge=1)]
    description: Annotated[str, Meta(min_length=1)]
    simulated: bool = False
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    period_s: Annotated[float, Meta(gt=0)]
    """Read this often unless the sensor says otherwise; a notification comes about this often."""
    keep_connected: bool = False
    """Stay connected between two reads; what notifies must. Else: connect, read, disconnect."""
    bond: Literal["none", "just_works", "passkey"] = "none"
    """Whether the device answers only who is paired with it, and how one pairs."""
    settle_s: Annotated[float, Meta(ge=0, le=20)] = 0.0
    """From the last write to the first read: what the device needs for a measurement."""
    write: tuple[GattWrite, ...] = ()
    """In this order, each time it was connected to."""
    value: Annotated[tuple[GattValue, ...], Meta(min_length=1)]

    @property
    def name(self) -> str:
        return f"{self.vendor}-{self.model}@{self.version}"

    def quantities(self) -> tuple[str, ...]:
        """As listed."""
        return tuple(value.quantity for value in self.value)

    def read(self) -> tuple[GattValue, ...]:
        """What is asked for, in column order."""
        return tuple(value for value in self.value if value.how == "read")

    def notified(self) -> dict[str, tuple[GattValue, ...]]:
        """What comes by itself: characteristic (a whole UUID) → its values in column order."""
        found: dict[str, list[GattValue]] = {}
        for value in self.value:
            if value.how == "notify":
                found.setdefault(whole(value.characteristic), []).append(value)
        return {uuid: tuple(values) for uuid, values in found.items()}


def problems(profile: GattProfile) -> list[str]:
    """What the types can't say: one sentence per mistake, each starting with its path."""
    known = {source.id for source in profile.sources}
    found = [
        f"value {quantity}: is listed twice" for quantity, times in Counter(profile.quantities()).items() if times > 1
    ]
    for value in profile.value:
        found += [f"value {value.quantity}: {text}" for text in _of_value(value, profile)]
    named = [(f"value {one.quantity}", one.source) for one in profile.value]
    named += [(f"write {one.characteristic}", one.source) for one in profile.write]
    for path, source in named:
        if source.split(" ")[0].rstrip(",:") not in known:
            found.append(f"{path}: source {source!r} doesn't begin with one of {', '.join(sorted(known))}")
    if all(value.optional for value in profile.read()) and len(profile.read()) == 1:
        found.append("value: the only one that is read can't be optional")
    return found


def _of_value(value: GattValue, profile: GattProfile) -> Iterator[str]:
    hows = {one.how for one in profile.value if one.characteristic == value.characteristic}
    if len(hows) > 1:
        yield f"{value.characteristic} is both read and notified: BlueZ tells a read as if it were a notification"
    if value.how == "notify" and not profile.keep_connected:
        yield "notifications come only while it is connected: keep_connected = true"
    if value.how == "notify" and value.optional:
        yield "what is notified can't be optional"
    yield from _of_scale(value)
    yield from _of_bits(value)


def _of_scale(value: GattValue) -> Iterator[str]:
    scaled = value.scale is not None or value.offset != 0.0
    if value.type in {"bool", "string"} and (scaled or value.decimals is not None or value.invalid_above is not None):
        yield f"a {value.type} has no scale, no decimals and no invalid_above"
    if value.type == "f32" and scaled:
        yield "a float is the value itself; scale and offset are for integers"
    if scaled and value.decimals is not None:
        yield "either decimals, or scale and offset"
    if value.scale == 0.0:
        yield "scale can't be 0"


def _of_bits(value: GattValue) -> Iterator[str]:
    width = 8 * SIZES[value.type]
    if value.type == "bool":
        if value.bits is not None or (value.bit or 0) > 7:
            yield "a bool is one bit of its byte, 0 to 7"
        return
    if (value.bit is None) != (value.bits is None):
        yield "bit and bits belong together"
    elif value.bits is not None and value.bit is not None:
        if not value.type.startswith("u"):
            yield "bit and bits belong to an unsigned integer"
        elif value.bit + value.bits > width:
            yield f"it has {width} bits"
