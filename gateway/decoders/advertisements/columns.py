"""From a profile of advertisements to columns, and from fields to a row's values.

One part per kind of packet: what is advertised together is one row. rssi is the last column of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from firmware_configs.adverts import AdvertValue, BleProfile
from gateway.decoders.advertisements import Fields, Undecodable
from gateway.decoders.values import series_of, wire
from gateway.reading import SeriesShape, Wire
from protos.comboio.v1 import batch_pb2 as pb

RSSI_UNIT = "dB{mW}"


class Columns(NamedTuple):
    """One wire value and one quality per column; None = all good."""

    values: tuple[Wire, ...]
    quality: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Part:
    """What one kind of packet tells. `radio`: rssi is its last column."""

    name: str
    values: tuple[AdvertValue, ...]
    radio: bool

    def series(self, *, attrs: Mapping[str, Mapping[str, str]], mark: Mapping[str, str]) -> tuple[SeriesShape, ...]:
        """`attrs` per quantity over those of the profile, `mark` over all."""
        columns = [
            series_of(
                value.quantity,
                kind=value.type,
                unit=value.unit,
                decimals=value.decimals,
                scale=value.scale,
                offset=value.offset,
                integers=value.place is None or value.place.type != "f32",
                attrs={**value.attrs, **attrs.get(value.quantity, {}), **mark},
            )
            for value in self.values
        ]
        if self.radio:
            more = {**attrs.get("rssi", {}), **mark}
            columns.append(series_of("rssi", kind="number", unit=RSSI_UNIT, integers=True, attrs=more))
        return tuple(columns)

    def columns(self, fields: Fields, rssi: int | None) -> Columns | None:
        """None if none of it was sent; one field that is missing is BAD_COMM."""
        if not any((value.field or value.quantity) in fields.values for value in self.values):
            return None
        found = [_one(value, fields) for value in self.values]
        if self.radio:
            found.append((rssi, pb.QUALITY_GOOD) if rssi is not None else (None, pb.QUALITY_BAD_COMM))
        quality = tuple(code for _, code in found)
        return Columns(tuple(value for value, _ in found), quality if any(quality) else None)


def parts(profile: BleProfile) -> tuple[Part, ...]:
    """In the order of the profile's packets."""
    return tuple(Part(packet, profile.of(packet), radio=number == 0) for number, packet in enumerate(profile.packets()))


def require_some(found: list[Columns | None], profile: BleProfile, fields: Fields) -> None:
    """A device that sent none of the profile's fields raises Undecodable."""
    if all(one is None for one in found):
        raise Undecodable(f"none of {profile.name}'s fields; it sent {', '.join(sorted(fields.values))}")


def _one(value: AdvertValue, fields: Fields) -> tuple[Wire, int]:
    name = value.field or value.quantity
    if name not in fields.values:
        return None, pb.QUALITY_BAD_COMM
    said = fields.values[name]
    if said in value.sentinels:
        return None, pb.QUALITY_BAD_SENSOR
    if value.place is None:
        plain = value.scale is None and not value.offset
        found = wire(said, value.type, (value.decimals or 0) if plain else 0)
    else:  # the device's integer has the decimals already
        found = wire(said, value.type, None if value.place.type == "f32" else 0)
    return found, pb.QUALITY_GOOD if found is not None else pb.QUALITY_BAD_SENSOR
