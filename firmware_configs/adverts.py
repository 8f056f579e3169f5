"""What a Bluetooth LE profile may say: the fields of an advertised format a model sends, and what they mean."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from firmware_configs.schema import Frozen, Name, Slug, Source

Format = Literal["bthome-v2", "ruuvi-rawv2"]


class AdvertValue(Frozen, frozen=True, kw_only=True):
    """One quantity and the field it comes from."""

    quantity: Name
    field: Annotated[str, Meta(min_length=1)]
    """The decoder's name of it."""
    type: Literal["number", "boolean", "string"] = "number"
    unit: str = ""
    """UCUM code."""
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None
    """The format resolves this many decimals."""
    scale: float | None = None
    """value = the device's integer × scale + offset, for formats whose decoder hands out the integers."""
    offset: float = 0.0
    sentinels: tuple[int | float, ...] = ()
    """Raw values by which the device says "not available"."""
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
    period_s: Annotated[float, Meta(gt=0)]
    """A new measurement is advertised about this often."""
    value: Annotated[tuple[AdvertValue, ...], Meta(min_length=1)]

    @property
    def name(self) -> str:
        return f"{self.vendor}-{self.model}@{self.version}"

    def quantities(self) -> tuple[str, ...]:
        """In column order. `rssi` is the radio's, not the device's, and always the last."""
        return (*(value.quantity for value in self.value), "rssi")
