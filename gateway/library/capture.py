"""`capture`: what a live device answers, as a case file that others can run.

Every request of the profile's plan, several rounds. Registers that identify the device are blanked: who reads the file
does not learn whose device it was.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from firmware_configs.budget import Line, Request, plan
from firmware_configs.schema import BITS, ModbusProfile, Register
from gateway.errors import Retryable
from gateway.library.cases import ABSENT, Image, decoded
from gateway.sensors.modbus_frames import ReadFailed
from gateway.sensors.modbus_link import Link

ATTEMPTS = 3
_ROW = 16
"""Registers in one line of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One reading of the whole plan, without what identifies the device."""

    image: Image
    refused: tuple[str, ...] = ()
    """What the device would not answer, a sentence each."""


@dataclass(slots=True, kw_only=True)
class Recorder:
    """Reads `profile` from `unit` of `link`."""

    link: Link
    unit: int
    profile: ModbusProfile
    line: Line | None = None
    _plan: tuple[Request, ...] = field(init=False)

    def __post_init__(self) -> None:
        registers = self.profile.expanded()
        self._plan = plan(registers, self.profile.limits, self.line, timing=self.profile.timing)

    async def rounds(self, many: int, *, every_s: float) -> list[Round]:
        """Raises Retryable when the device does not answer; what it refuses is left out and said."""
        found: list[Round] = []
        for n in range(many):
            if n:
                await asyncio.sleep(every_s)
            found.append(await self._round())
        return found

    async def _round(self) -> Round:
        image: dict[tuple[str, int], int] = {}
        refused: list[str] = []
        for request in self._plan:
            try:
                words = await self._read(request)
            except ReadFailed as failure:
                if failure.cause != "exception":
                    raise Retryable(f"unit {self.unit} did not answer: {failure}") from None
                refused.append(f"{request.function} {request.address}+{request.length}: {failure}")
                continue
            image |= {(request.function, request.address + n): int(word) for n, word in enumerate(words)}
        if not image:
            raise Retryable(f"unit {self.unit} refuses everything: {refused[0]}")
        return Round(image=redacted(image, self.profile), refused=tuple(refused))

    async def _read(self, request: Request) -> Sequence[int]:
        for attempt in range(ATTEMPTS):
            try:
                return await self.link.read(self.unit, request)
            except ReadFailed as failure:
                if failure.cause == "exception" or attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(0.2 * (attempt + 1))
        raise AssertionError("every attempt returns or raises")


def redacted(image: Image, profile: ModbusProfile) -> dict[tuple[str, int], int]:
    """What of it may be given away: registers that the profile knows; those that identify, and texts, as 0.

    What was read over to save a request may be anything, so it is left out.
    """
    kept: dict[tuple[str, int], int] = {}
    secret: set[tuple[str, int]] = set()
    for one in profile.expanded():
        places = [(one.function, one.address + n) for n in range(one.width)]
        kept |= {place: image[place] for place in places if place in image}
        if one.identifying or one.type == "string":
            secret.update(places)
    return {place: 0 if place in secret else word for place, word in kept.items()}


def case_text(profile: ModbusProfile, rounds: Sequence[Round], *, what: str) -> str:
    """A case file; its expectations are what the profile makes of the registers."""
    lines = [
        "# What the profile makes of these registers is under `expect`: compare it with the device's display.",
        f"profile = {json.dumps(profile.name)}",
        f"origin = {json.dumps(f'recorded: {what}', ensure_ascii=False)}",
    ]
    for number, one in enumerate(rounds, 1):
        lines += ["", *(f"# refused: {text}" for text in one.refused), "[[poll]]", f'name = "round {number}"']
        for table in ("coil", "discrete", "holding", "input"):
            if rows := _rows(one.image, table):
                lines += [f"[poll.{table}]", *rows]
        lines += ["[poll.expect]", *_expected(profile, one.image)]
    return "\n".join(lines) + "\n"


def _rows(image: Image, table: str) -> list[str]:
    rows: list[tuple[int, list[int]]] = []
    for address in sorted(at for function, at in image if function == table):
        if rows and address == rows[-1][0] + len(rows[-1][1]) and len(rows[-1][1]) < _ROW:
            rows[-1][1].append(image[table, address])
        else:
            rows.append((address, [image[table, address]]))
    shape = "{}" if table in BITS else "0x{:04X}"
    return [f"{start} = [{', '.join(shape.format(word) for word in words)}]" for start, words in rows]


def _expected(profile: ModbusProfile, image: Image) -> list[str]:
    here = [one.quantity for one in profile.expanded() if _told(one, image)]
    summed = [one.quantity for one in profile.derived if all(term.of in here for term in one.terms)]
    values = decoded(profile.only([*here, *summed]), image)
    return [f"{quantity} = {_toml(values[quantity])}" for quantity in (*here, *summed)]


def _told(register: Register, image: Image) -> bool:
    read = all((register.function, register.address + n) in image for n in range(register.width))
    return read and not register.identifying and register.type != "string"


def _toml(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = json.dumps(value) if isinstance(value, str) else repr(value)
    return f'"{ABSENT}"' if text in {"inf", "-inf", "nan"} else re.sub(r"^(-?\d+)e", r"\1.0e", text)
