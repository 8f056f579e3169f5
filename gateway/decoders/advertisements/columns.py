"""From a profile of advertisements to columns, and from fields to a row's values.

One part per kind of packet: what is advertised together is one row. rssi is the last column of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from firmware_configs.adverts import AdvertValue, BleProfile
from gateway.decoders.advertisements import Fields, Undecodable
from gateway.decoders.values import series_of, wire
from gateway.reading import SeriesShape, Wire
from protos.comboio.v1 import batch_pb2 as pb

RSSI_UNIT = "dB{mW}"
GOOD, MISSING, BAD = int(pb.QUALITY_GOOD), int(pb.QUALITY_BAD_COMM), int(pb.QUALITY_BAD_SENSOR)


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
    period_s: float
    names: frozenset[str]
    reads: tuple[Callable[[Mapping[str, Wire]], tuple[Wire, int]], ...]

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
        said = fields.values
        if self.names.isdisjoint(said):
            return None
        found = [read(said) for read in self.reads]
        if self.radio:
            found.append((rssi, GOOD) if rssi is not None else (None, MISSING))
        values, quality = zip(*found, strict=True)
        return Columns(values, quality if any(quality) else None)


def parts(profile: BleProfile) -> tuple[Part, ...]:
    """In the order of the profile's packets."""
    made = []
    for number, packet in enumerate(profile.packets()):
        values = profile.of(packet)
        names = frozenset(value.field or value.quantity for value in values)
        made.append(
            Part(
                name=packet,
                values=values,
                radio=number == 0,
                period_s=profile.packet_s.get(packet, profile.period_s),
                names=names,
                reads=tuple(map(_reading, values)),
            )
        )
    return tuple(made)


def require_some(found: list[Columns | None], profile: BleProfile, fields: Fields) -> None:
    """A device that sent none of the profile's fields raises Undecodable."""
    if all(one is None for one in found):
        raise Undecodable(f"none of {profile.name}'s fields; it sent {', '.join(sorted(fields.values))}")


def _reading(value: AdvertValue) -> Callable[[Mapping[str, Wire]], tuple[Wire, int]]:
    """Wire value and quality of one field; many run per advertisement."""
    name, kind, sentinels = value.field or value.quantity, value.type, frozenset(value.sentinels)
    plain = value.scale is None and not value.offset
    if value.place is None:
        decimals: int | None = (value.decimals or 0) if plain else 0
    else:  # the device's integer has the decimals already
        decimals = None if value.place.type == "f32" else 0

    def read(said: Mapping[str, Wire]) -> tuple[Wire, int]:
        if name not in said:
            return None, MISSING
        one = said[name]
        if one in sentinels:
            return None, BAD
        found = wire(one, kind, decimals)
        return found, GOOD if found is not None else BAD

    return read
