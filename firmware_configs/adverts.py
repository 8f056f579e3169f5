"""What a Bluetooth LE profile may say: the fields of an advertised format a model sends, and what they mean.

Either a decoder knows the format, or the profile describes it: `format = "layout"` and where each value stands.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from firmware_configs.schema import Frozen, Name, Slug, Source

Format = Literal[
    "atc", "bthome-v2", "eddystone-tlm", "eddystone-uid", "govee", "ibeacon", "inkbird", "layout", "ruuvi-rawv2",
    "sensorpush", "thermopro", "xiaomi",
]  # fmt: skip
PlaceType = Literal["u8", "i8", "u16", "i16", "u24", "i24", "u32", "i32", "f32", "hex"]
Order = Literal["big", "little"]
Hex = Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{2})+$", title="bytes in hexadecimal")]
Uuid = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{4}$|^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", title="16 or 128 bits, lower case")
]
Offset = Annotated[int, Meta(ge=0, le=253)]
WIDTHS: dict[str, int] = {"u8": 1, "i8": 1, "u16": 2, "i16": 2, "u24": 3, "i24": 3, "u32": 4, "i32": 4, "f32": 4}
BASE_UUID = "0000{}-0000-1000-8000-00805f9b34fb"


class Place(Frozen, frozen=True, kw_only=True):
    """Where one number stands in a payload, counted from 0 behind the company number or the service UUID."""

    at: Offset
    type: PlaceType
    """hex: `size` bytes as text, for names and numbers too long for arithmetic."""
    order: Order = "little"
    bit: Annotated[int, Meta(ge=0, le=31)] | None = None
    """The lowest bit (0 = least significant, after `order`) of a field, or the bit of a boolean."""
    bits: Annotated[int, Meta(ge=1, le=32)] | None = None
    """Width of that field."""
    signed: bool = False
    """The field is a number in two's complement."""
    size: Annotated[int, Meta(ge=1, le=64)] | None = None
    """Of hex, in bytes."""

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.at + (self.size or 0 if self.type == "hex" else WIDTHS[self.type])


class Match(Frozen, frozen=True, kw_only=True):
    """These bytes tell this format from others of the same sender."""

    at: Offset = 0
    bytes: Hex
    mask: Hex | None = None
    """Only bits that are 1 here count; as long as `bytes`. Left out: all."""


class Layout(Frozen, frozen=True, kw_only=True):
    """Which payload it is. Exactly one of `company` and `service`."""

    company: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """Number of the manufacturer data, as the Bluetooth SIG assigned it."""
    service: Uuid | None = None
    """UUID of the service data."""
    length: tuple[Annotated[int, Meta(ge=1, le=254)], ...] = ()
    """Bytes it may have; empty: any number that holds what is read."""
    match: tuple[Match, ...] = ()
    counter: Place | None = None
    """A number the device raises with each measurement: older ones are refused, one that stays is a repetition."""
    address_at: Offset | None = None
    """Where the device's own address stands; a payload with another is refused."""
    address_order: Order = "big"

    @property
    def uuid(self) -> str | None:
        """The service as 128 bits."""
        return BASE_UUID.format(self.service) if self.service and len(self.service) == 4 else self.service


class AdvertValue(Frozen, frozen=True, kw_only=True):
    """One quantity and the field it comes from."""

    quantity: Name
    field: str = ""
    """The decoder's name of it."""
    place: Place | None = None
    """Where it stands, for `format = "layout"`, instead of a field."""
    type: Literal["number", "boolean", "string"] = "number"
    unit: str = ""
    """UCUM code."""
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None
    """The format resolves this many decimals; an integer with a place has this many."""
    scale: float | None = None
    """value = the device's integer × scale + offset, for formats whose decoder hands out the integers."""
    offset: float = 0.0
    sentinels: tuple[int | float | str, ...] = ()
    """Raw values by which the device says "not available"."""
    packet: str = ""
    """Values of one packet are advertised together; a device that sends several kinds in turn has one word for each."""
    attrs: dict[str, str] = msgspec.field(default_factory=dict)
    source: Annotated[str, Meta(min_length=1)]
    """Source id and section."""


class BleProfile(Frozen, frozen=True, kw_only=True):
    """One device model. Its name is `vendor-model@version`, its file `ble/<vendor>-<model>.toml`."""

    vendor: Slug
    model: Slug
    version: Annotated[int, Meta(ge=1)]
    description: Annotated[str, Meta(min_length=1)]
    simulated: bool = False
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    format: Format
    layout: Layout | None = None
    """The payload, for `format = "layout"`."""
    local_name: str = ""
    """What such a device calls itself, for decoders that tell models by their names (govee, inkbird, sensorpush,
    thermopro)."""
    scan_response: bool = False
    """It answers with its measurement only when asked: only an active scan hears it."""
    beacon: bool = False
    """It says the same all the time; that it was heard is the measurement, taken once per period."""
    period_s: Annotated[float, Meta(gt=0)]
    """A new measurement is advertised about this often."""
    packet_s: dict[str, Annotated[float, Meta(gt=0)]] = msgspec.field(default_factory=dict)
    """Packets that come otherwise than every `period_s`: packet → seconds."""
    value: Annotated[tuple[AdvertValue, ...], Meta(min_length=1)]

    @property
    def name(self) -> str:
        return f"{self.vendor}-{self.model}@{self.version}"

    def packets(self) -> tuple[str, ...]:
        """The kinds of packets, in the order of their first values."""
        return tuple(dict.fromkeys(value.packet for value in self.value))

    def of(self, packet: str) -> tuple[AdvertValue, ...]:
        """The values of one kind of packet, in column order."""
        return tuple(value for value in self.value if value.packet == packet)

    def quantities(self) -> tuple[str, ...]:
        """In column order. `rssi` is the radio's, not the device's, and always the last of the first packet."""
        return (*(value.quantity for value in self.value), "rssi")
