"""Writing to a device from its sensor's page: a form per quantity that may be written, and the last commands."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from control_plane.errors import ComboioError
from control_plane.fleet.commands import OPEN, Commands
from control_plane.projections.latest import LatestValue
from control_plane.web import sentences
from control_plane.web.visit import Visit
from protos.comboio.v1 import batch_pb2 as pb
from protos.commands import Outcome, Value, Write

SHOWN = 10
TTL_S = 60
NUMBER = re.compile(r"[+-]?[0-9]{1,18}([.,][0-9]{1,9})?")
KEY = re.compile(r"[0-9a-f]{32}")
TEXT_LIMIT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One quantity that may be written. `choices`: (value, word) where there are few; `key`: this form's own."""

    quantity: str
    label: str
    unit: str
    choices: Sequence[tuple[str, str]]
    limits: str
    number: bool
    key: str
    typed: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A command as a line: state and text in words."""

    id: str
    state: str
    word: str
    said: str
    text: str
    by: str
    at_ms: int


class DeviceCommands:
    def __init__(self, *, commands: Commands) -> None:
        self._commands = commands

    def forms(self, visit: Visit, values: Sequence[LatestValue]) -> list[Form]:
        """Of what the gateway says may be written, for who may command."""
        if not visit.may("operator"):
            return []
        return [_form(visit, value) for value in values if value.attrs.get("writable") == "true"]

    def last(self, visit: Visit, gateway_id: str, sensor: str) -> list[Asked]:
        rows = self._commands.listed(gateway_id, limit=SHOWN, sensor=sensor)
        return [_line(visit, row) for row in rows]

    def ask(self, visit: Visit, gateway_id: str, sensor: str, values: Sequence[LatestValue]) -> str:
        """Send what the posted form says; what is wrong with it, in words, else nothing."""
        _ = visit.words.text
        quantity, typed, key = (visit.field(name) for name in ("quantity", "value", "key"))
        known = {value.quantity: value for value in values if value.attrs.get("writable") == "true"}
        if quantity not in known or KEY.fullmatch(key) is None:
            return _("This can't be set. Reload the page.")
        value = _value(known[quantity], typed)
        if value is None:
            return _("Give a number, such as %(example)s.", example=visit.words.number(4.5))
        if visit.field("sure") != "yes":
            return _("Tick the box: the device will be changed.")
        write = Write(sensor=sensor, quantity=quantity, value=value)
        try:
            self._commands.ask(gateway_id, write, ttl_s=TTL_S, key=key, caller=visit.viewer)
        except ComboioError as refused:
            return str(refused)
        return ""


def under_way(last: Sequence[Asked]) -> bool:
    return any(one.state in OPEN for one in last)


def _form(visit: Visit, value: LatestValue) -> Form:
    choices: list[tuple[str, str]] = []
    if value.type == pb.VT_BOOL:
        choices = [("true", visit.words.text("on")), ("false", visit.words.text("off"))]
    elif "labels" in value.attrs:
        choices = [(number, f"{word} ({number})") for number, word in _labels(value.attrs).items()]
    return Form(
        quantity=value.quantity,
        label=sentences.quantity(value.quantity),
        unit=sentences.unit(value.unit),
        choices=choices,
        limits=" … ".join(value.attrs.get(name, "") for name in ("write_min", "write_max")).strip(),
        number=value.type != pb.VT_STRING,
        key=secrets.token_hex(16),
        typed=visit.field("value") if visit.field("quantity") == value.quantity else "",
    )


def _labels(attrs: Mapping[str, str]) -> dict[str, str]:
    try:
        found = json.loads(attrs["labels"])
    except ValueError:
        return {}
    return {str(key): str(word) for key, word in found.items()} if isinstance(found, dict) else {}


def _value(known: LatestValue, typed: str) -> Value | None:
    if known.type == pb.VT_BOOL:
        return {"true": True, "false": False}.get(typed)
    if known.type == pb.VT_STRING:
        return typed[:TEXT_LIMIT]
    if NUMBER.fullmatch(typed) is None:
        return None
    return float(typed.replace(",", ".")) if {",", "."} & set(typed) else int(typed)


def _line(visit: Visit, row: Any) -> Asked:
    said = msgspec.json.decode(row.result, type=Outcome) if row.result else Outcome()
    change = f"{sentences.quantity(row.quantity)} → {_shown(visit, msgspec.json.decode(row.value))}"
    if said.holds is not None and row.state != "done":
        change += " · " + visit.words.text("the device holds %(value)s", value=_shown(visit, said.holds))
    return Asked(
        id=row.id,
        state=row.state,
        word=state_words(visit).get(row.state, row.state),
        said=change,
        text="" if row.state in {*OPEN, "done"} else row.text,
        by=row.asked_by or visit.words.text("somebody at the box"),
        at_ms=row.asked_ms,
    )


def _shown(visit: Visit, value: object) -> str:
    if isinstance(value, bool):
        return visit.words.text("on") if value else visit.words.text("off")
    return f"{value:g}" if isinstance(value, float) else str(value)


def state_words(visit: Visit) -> dict[str, str]:
    _ = visit.words.text
    return {
        "waiting": _("waiting for the gateway"),
        "sent": _("sent"),
        "done": _("done"),
        "failed": _("not done"),
        "expired": _("too late"),
        "unsupported": _("not known there"),
        "uncertain": _("uncertain"),
        "unanswered": _("no answer"),
    }
