"""What a profile of the box itself may say: which facts of Linux, ModemManager or gpsd are quantities."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from firmware_configs.schema import Frozen, Name, Slug, Source

Teller = Literal["linux", "interface", "modemmanager", "gpsd"]
FACTS: dict[str, frozenset[str]] = {
    "linux": frozenset({
        "cpu.percent", "cpu.load_1", "cpu.load_5", "cpu.load_15", "cpu.temperature",
        "memory.available", "memory.total", "memory.swap_used",
        "temperature.highest", "temperature.nvme",
        "disk.free", "disk.total", "disk.written", "disk.life_used_a", "disk.life_used_b", "disk.pre_end_of_life",
        "clock.synchronised", "clock.offset", "clock.error_most", "clock.source", "clock.stratum",
        "power.failing", "uptime",
    }),
    "interface": frozenset({
        "received", "sent", "receive_errors", "send_errors", "receive_dropped", "send_dropped", "carrier", "speed",
    }),
    "modemmanager": frozenset({
        "state", "registration", "operator", "technology", "quality",
        "signal.rssi", "signal.rsrp", "signal.rsrq", "signal.snr",
    }),
    "gpsd": frozenset({
        "tpv.mode", "tpv.lat", "tpv.lon", "tpv.altitude", "tpv.speed", "tpv.track", "tpv.climb", "tpv.eph", "tpv.epv",
        "tpv.eps", "tpv.status", "sky.used", "sky.visible", "sky.hdop", "sky.pdop", "sky.vdop",
    }),
}  # fmt: skip
"""What there is to be told; see the drivers for what each is."""


class HostValue(Frozen, frozen=True, kw_only=True):
    """One quantity and the fact it is."""

    quantity: Name
    fact: Annotated[str, Meta(min_length=1)]
    type: Literal["number", "boolean", "string"] = "number"
    unit: str = ""
    """UCUM code."""
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None
    """What is worth keeping: numbers are rounded to it."""
    attrs: dict[str, str] = msgspec.field(default_factory=dict)
    source: Annotated[str, Meta(min_length=1)]
    """Source id and section."""


class HostProfile(Frozen, frozen=True, kw_only=True):
    """What a box tells of itself. Its name is `vendor-model@version`, its file `host/<vendor>-<model>.toml`."""

    vendor: Slug
    model: Slug
    version: Annotated[int, Meta(ge=1)]
    description: Annotated[str, Meta(min_length=1)]
    simulated: bool = False
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    teller: Teller
    value: Annotated[tuple[HostValue, ...], Meta(min_length=1)]

    @property
    def name(self) -> str:
        return f"{self.vendor}-{self.model}@{self.version}"

    def quantities(self) -> tuple[str, ...]:
        """In column order."""
        return tuple(value.quantity for value in self.value)
