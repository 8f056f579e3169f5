"""Advertisements with what they mean, kept beside a profile, and whether the profile still says the same."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from firmware_configs.adverts import BleProfile, Hex
from gateway.decoders.advertisements import Advert, Undecodable, resolve
from gateway.decoders.advertisements.columns import parts
from gateway.errors import Misconfigured
from gateway.reading import SeriesShape, Wire
from protos.comboio.v1 import batch_pb2 as pb
from protos.strict import DocumentError, convert

ABSENT = {"not available": pb.QUALITY_BAD_SENSOR, "not sent": pb.QUALITY_BAD_COMM}
ELSEWHERE = "another packet"
TOLERANCE = 1e-9


class AdvertCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One advertisement. `expect`: quantity → value, "not available", "not sent" or "another packet"."""

    name: str
    address: Annotated[str, Meta(pattern=r"^[0-9A-F]{2}(:[0-9A-F]{2}){5}$")]
    key: Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{2})*$")] = ""
    manufacturer: dict[Annotated[str, Meta(pattern=r"^[0-9]+$")], Hex] = {}
    service: dict[str, Hex] = {}
    expect: dict[str, int | float | bool | str]

    def advert(self) -> Advert:
        manufacturer = {int(number): bytes.fromhex(data) for number, data in self.manufacturer.items()}
        service = {uuid: bytes.fromhex(data) for uuid, data in self.service.items()}
        return Advert(self.address, manufacturer, service, None, 0)


class AdvertCases(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file."""

    profile: str
    advert: tuple[AdvertCase, ...]


def load(path: Path) -> AdvertCases:
    """Raises Misconfigured with every mistake."""
    try:
        return convert(tomllib.loads(path.read_text(encoding="utf-8")), AdvertCases)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, DocumentError) as error:
        raise Misconfigured("\n".join(f"{path.name}: {line}" for line in str(error).splitlines())) from error


def disagreements(cases: AdvertCases, profile: BleProfile) -> Iterator[str]:
    """One sentence per value that comes out otherwise than its case says."""
    for case in cases.advert:
        yield from (f"{case.name}: {text}" for text in _of_case(case, profile))


def _of_case(case: AdvertCase, profile: BleProfile) -> Iterator[str]:
    format_ = resolve(profile)
    payload = format_.payload(case.advert())
    if payload is None:
        yield "is no advertisement of this profile"
        return
    try:
        fields = format_.decode(payload, case.address, bytes.fromhex(case.key) or None)
    except Undecodable as error:
        yield f"is refused: {error}"
        return
    if set(case.expect) | {"rssi"} != set(profile.quantities()):
        yield f"expect: is for {', '.join(sorted(set(profile.quantities()) - {'rssi'}))}"
        return
    for part in parts(profile):
        found, shapes = part.columns(fields, None), part.series(attrs={}, mark={})
        said = _said(shapes, found.values, found.quality or (0,) * len(found.values)) if found is not None else {}
        for shape in shapes:
            quantity, came = shape.name, said.get(shape.name, ELSEWHERE)
            if quantity != "rssi" and not _same(came, case.expect[quantity]):
                yield f"{quantity} is {came}, expected {case.expect[quantity]}"


def _said(
    shapes: Sequence[SeriesShape], values: Sequence[Wire], quality: Sequence[int]
) -> dict[str, int | float | bool | str | None]:
    words = {code: word for word, code in ABSENT.items()}
    return {
        shape.name: words[pb.Quality.ValueType(code)] if code else value(shape, wire)
        for shape, wire, code in zip(shapes, values, quality, strict=True)
    }


def value(shape: SeriesShape, wire: Wire) -> int | float | bool | str | None:
    """As protos defines it."""
    if isinstance(wire, bool | str) or wire is None or isinstance(wire, float):
        return wire
    return wire * shape.scale + shape.offset if shape.scale else wire / 10**shape.exp


def _same(found: float | str | None, want: float | str) -> bool:
    if isinstance(found, bool | str) or isinstance(want, bool | str) or found is None:
        return found is want if isinstance(want, bool) else found == want
    return abs(found - want) <= TOLERANCE
