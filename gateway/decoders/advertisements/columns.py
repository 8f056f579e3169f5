"""From a profile of advertisements to columns, and from fields to a row's values. rssi is always the last column."""

from __future__ import annotations

from collections.abc import Mapping
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


def series(
    profile: BleProfile, *, attrs: Mapping[str, Mapping[str, str]], mark: Mapping[str, str]
) -> tuple[SeriesShape, ...]:
    """`attrs` per quantity over those of the profile, `mark` over all."""
    columns = [
        series_of(
            value.quantity,
            kind=value.type,
            unit=value.unit,
            decimals=value.decimals,
            scale=value.scale,
            offset=value.offset,
            integers=True,
            attrs={**value.attrs, **attrs.get(value.quantity, {}), **mark},
        )
        for value in profile.value
    ]
    rssi = series_of("rssi", kind="number", unit=RSSI_UNIT, integers=True, attrs={**attrs.get("rssi", {}), **mark})
    return (*columns, rssi)


def columns(profile: BleProfile, fields: Fields, rssi: int | None) -> Columns:
    """A device that sent none of the profile's fields raises Undecodable; one that is missing is BAD_COMM."""
    if not any(value.field in fields.values for value in profile.value):
        raise Undecodable(f"none of {profile.name}'s fields; it sent {', '.join(sorted(fields.values))}")
    found = [_one(value, fields) for value in profile.value]
    found.append((rssi, pb.QUALITY_GOOD) if rssi is not None else (None, pb.QUALITY_BAD_COMM))
    quality = tuple(code for _, code in found)
    return Columns(tuple(value for value, _ in found), quality if any(quality) else None)


def _one(value: AdvertValue, fields: Fields) -> tuple[Wire, int]:
    if value.field not in fields.values:
        return None, pb.QUALITY_BAD_COMM
    said = fields.values[value.field]
    if said in value.sentinels:
        return None, pb.QUALITY_BAD_SENSOR
    plain = value.scale is None and not value.offset
    found = wire(said, value.type, (value.decimals or 0) if plain else 0)
    return found, pb.QUALITY_GOOD if found is not None else pb.QUALITY_BAD_SENSOR
