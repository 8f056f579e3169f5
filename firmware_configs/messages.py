"""What an MQTT profile may say: where the quantities of a device model stand in its JSON messages."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from firmware_configs.schema import Frozen, Name, Slug, Source


class MessageValue(Frozen, frozen=True, kw_only=True):
    """One quantity and its JSON pointer (RFC 6901)."""

    quantity: Name
    path: Annotated[str, Meta(pattern=r"^(/([^~/]|~[01])*)*$", title="JSON pointer, e.g. /battery/level")]
    type: Literal["number", "boolean", "string"] = "number"
    unit: str = ""
    """UCUM code."""
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None
    """What the device resolves; a number that doesn't fit travels as it is."""
    sentinels: tuple[int | float | str, ...] = ()
    """Values by which the device says "not available"."""
    attrs: dict[str, str] = msgspec.field(default_factory=dict)
    source: Annotated[str, Meta(min_length=1)]
    """Source id and section."""


class MqttProfile(Frozen, frozen=True, kw_only=True):
    """One device model. Its name is `vendor-model@version`, its file `mqtt/<vendor>-<model>.toml`."""

    vendor: Slug
    model: Slug
    version: Annotated[int, Meta(ge=1)]
    description: Annotated[str, Meta(min_length=1)]
    simulated: bool = False
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    period_s: Annotated[float, Meta(gt=0)]
    """A message is published at least about this often."""
    value: Annotated[tuple[MessageValue, ...], Meta(min_length=1)]

    @property
    def name(self) -> str:
        return f"{self.vendor}-{self.model}@{self.version}"

    def quantities(self) -> tuple[str, ...]:
        """In column order."""
        return tuple(value.quantity for value in self.value)
