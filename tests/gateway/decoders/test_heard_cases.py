"""Advertisements and messages from public documents, through the shipped profiles, to the values the documents give."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from firmware_configs.loader import Profiles
from gateway.library import mqtt_cases
from gateway.library.advert_cases import disagreements, load
from gateway.reading import SeriesShape, Wire
from protos.comboio.v1 import batch_pb2 as pb

CASES = Path(__file__).parents[2] / "cases"
ABSENT = {"not available": pb.QUALITY_BAD_SENSOR, "not sent": pb.QUALITY_BAD_COMM}


def cases(kind: str, each: str) -> Iterator[Any]:
    for path in sorted((CASES / kind).glob("*/*.toml")):
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        for one in document[each]:
            yield pytest.param(document["profile"], one, id=f"{path.parent.name}: {one['name']}")


def value(shape: SeriesShape, wire: Wire) -> object:
    """As protos defines it."""
    if isinstance(wire, bool | str) or wire is None or isinstance(wire, float):
        return wire
    return wire * shape.scale + shape.offset if shape.scale else wire / 10**shape.exp


def check(
    shapes: Sequence[SeriesShape], values: Sequence[Wire], quality: Sequence[int], wanted: dict[str, Any]
) -> None:
    for shape, wire, code in zip(shapes, values, quality, strict=True):
        want = wanted[shape.name]
        if want in ABSENT:
            assert (wire, code) == (None, ABSENT[want]), shape.name
        else:
            assert value(shape, wire) == pytest.approx(want, abs=1e-9), shape.name
            assert code == pb.QUALITY_GOOD


@pytest.mark.parametrize("path", sorted((CASES / "ble").glob("*/*.toml")), ids=lambda path: path.parent.name)
def test_a_documented_advertisement_gives_the_documented_values(path: Path) -> None:
    found = load(path)
    assert found.advert
    assert list(disagreements(found, Profiles().ble(found.profile))) == []


@pytest.mark.parametrize("path", sorted((CASES / "mqtt").glob("*/*.toml")), ids=lambda path: f"{path.parent.name}")
def test_a_published_message_gives_the_published_values(path: Path) -> None:
    case = mqtt_cases.load(path)
    assert case.origin
    assert list(mqtt_cases.disagreements(case, Profiles().mqtt(case.profile))) == []


def test_every_shipped_profile_has_a_case() -> None:
    for kind, profiles in (("ble", Profiles().all_ble()), ("mqtt", Profiles().all_mqtt())):
        for profile in profiles:
            assert list((CASES / kind / f"{profile.vendor}-{profile.model}").glob("*.toml")), profile.name
