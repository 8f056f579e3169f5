"""Does what a simulated device answered balance with what the control plane knows? Read by read.

The truth is the device's own log of reads answered, not any counter of ours. Each answered read must be delivered once,
or lie inside a gap record of its sensor. What was delivered and never answered is invented; what fits one read twice is
doubled.
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from firmware_configs.loader import Profiles
from firmware_configs.schema import Register

FORMATS = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q", "f32": "f", "f64": "d"}
FUNCTIONS = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
SLACK_MS = 400
Value = float | int


class Read(NamedTuple):
    """One answered request or sent measurement: what each quantity in it was."""

    wall_ms: int
    values: tuple[Value, ...]


@dataclass(slots=True)
class Account:
    """One sensor's balance. `missing` and `invented` hold wall ms."""

    sensor: str
    produced: int = 0
    delivered: int = 0
    in_gaps: int = 0
    missing: list[int] = field(default_factory=list)
    invented: list[int] = field(default_factory=list)
    gap_reasons: dict[str, int] = field(default_factory=dict)
    lost_at_ms: list[int] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        return self.produced > 0 and not self.missing and not self.invented

    def add(self, other: Account) -> None:
        self.produced += other.produced
        self.delivered += other.delivered
        self.in_gaps += other.in_gaps
        self.missing += other.missing
        self.invented += other.invented
        self.lost_at_ms += other.lost_at_ms
        for reason, count in other.gap_reasons.items():
            self.gap_reasons[reason] = self.gap_reasons.get(reason, 0) + count


def answered(log: Path, profile: str, unit: int) -> dict[tuple[str, ...], list[Read]]:
    """Quantities of one request → its answered reads, oldest first."""
    registers = Profiles().modbus(profile).expanded()
    found: dict[tuple[str, ...], list[Read]] = {}
    inside: dict[tuple[int, int, int], list[Register]] = {}
    with log.open(encoding="ascii") as lines:
        for line in lines:
            read = json.loads(line)
            if read["unit"] != unit or "fault" in read:
                continue
            span = (read["function"], read["address"], read["count"])
            if span not in inside:
                inside[span] = [r for r in registers if _within(r, *span)]
            words = _words(read)
            values = tuple(_value(r, words, read["address"]) for r in inside[span])
            found.setdefault(tuple(r.quantity for r in inside[span]), []).append(Read(read["wall_ms"], values))
    return found


def sent(log: Path, sensor: str) -> dict[tuple[str, ...], list[Read]]:
    """The same for a simulated sensor that speaks by itself (Bluetooth LE, MQTT): its measurements, oldest first.

    A line with a fault is a replay or garbage, which must arrive nowhere.
    """
    found: dict[tuple[str, ...], list[Read]] = {}
    with log.open(encoding="ascii") as lines:
        for line in lines:
            one = json.loads(line)
            if one["sensor"] != sensor or "fault" in one:
                continue
            names = tuple(sorted(one["values"]))
            found.setdefault(names, []).append(Read(one["wall_ms"], tuple(one["values"][name] for name in names)))
    return found


def account(
    sensor: str,
    reads: Mapping[tuple[str, ...], Sequence[Read]],
    delivered: Mapping[str, Mapping[int, Value]],
    gaps: Sequence[Mapping[str, Any]],
    *,
    tolerance_ms: int,
) -> Account:
    """Balance one sensor: `delivered` is quantity → wall ms → value; `gaps` as /readings gives them."""
    total = Account(sensor)
    for quantities, said in reads.items():
        times = sorted(set().union(*(delivered.get(q, {}).keys() for q in quantities)))
        rows = [(at, tuple(delivered.get(q, {}).get(at) for q in quantities)) for at in times]
        total.add(_match(sensor, said, rows, gaps, tolerance_ms))
    return total


def counted(sensor: str, values: Mapping[int, Value], gaps: Sequence[Mapping[str, Any]]) -> Account:
    """A sensor that counts by itself, from 1 after each start of its gateway, and so keeps no log.

    What it counted past is missing, unless a gap record lies there; what comes twice is invented.
    """
    done = Account(sensor)
    last = 0
    last_ms = 0
    for at, value in sorted(values.items()):
        begins = value <= last
        if begins and value == last:
            done.invented.append(at)
            continue
        skipped = int(value) - (0 if begins else last) - 1
        reason = _gap_of(gaps, at) or _gap_of(gaps, last_ms)
        done.produced += skipped + 1
        done.delivered += 1
        if skipped and reason is None:
            done.missing += [at] * skipped
        elif skipped:
            done.in_gaps += skipped
            done.gap_reasons[str(reason)] = done.gap_reasons.get(str(reason), 0) + skipped
        last, last_ms = int(value), at
    return done


def _match(
    sensor: str,
    said: Sequence[Read],
    rows: Sequence[tuple[int, tuple[Value | None, ...]]],
    gaps: Sequence[Mapping[str, Any]],
    tolerance_ms: int,
) -> Account:
    """Each delivered row takes the nearest free read with the same values."""
    done = Account(sensor, produced=len(said))
    taken = [False] * len(said)
    by_values: dict[tuple[Value | None, ...], list[int]] = {}
    for index, read in enumerate(said):
        by_values.setdefault(read.values, []).append(index)
    for at, values in rows:
        found = _nearest(by_values.get(values, []), said, taken, at, tolerance_ms)
        if found is None:
            found = _shifted(by_values.get(values, []), said, taken, at, tolerance_ms)
        if found is None:
            done.invented.append(at)
        else:
            taken[found] = True
            done.delivered += 1
    for read, matched in zip(said, taken, strict=True):
        if not matched:
            reason = _gap_of(gaps, read.wall_ms)
            if reason is None:
                done.missing.append(read.wall_ms)
            else:
                done.in_gaps += 1
                done.lost_at_ms.append(read.wall_ms)
                done.gap_reasons[reason] = done.gap_reasons.get(reason, 0) + 1
    return done


def _nearest(candidates: list[int], said: Sequence[Read], taken: list[bool], at: int, tolerance_ms: int) -> int | None:
    middle = bisect_left(candidates, at, key=lambda i: said[i].wall_ms)
    best, distance = None, tolerance_ms + 1
    for step in (range(middle, len(candidates)), range(middle - 1, -1, -1)):
        for position in step:
            index = candidates[position]
            apart = abs(said[index].wall_ms - at)
            if apart > tolerance_ms:
                break
            if not taken[index] and apart < distance:
                best, distance = index, apart
                break
    return best


def _shifted(candidates: list[int], said: Sequence[Read], taken: list[bool], at: int, tolerance_ms: int) -> int | None:
    """A free read that this row reaches when the rows between take their neighbours: times have an error of their own.

    Only over equal values that follow each other within the tolerance, so that every row still has a read near it.
    """
    middle = bisect_left(candidates, at, key=lambda i: said[i].wall_ms)
    for step in (range(middle - 1, -1, -1), range(middle, len(candidates))):
        before = at
        for position in step:
            index = candidates[position]
            if abs(said[index].wall_ms - before) > tolerance_ms:
                break
            if not taken[index]:
                return index
            before = said[index].wall_ms
    return None


def _gap_of(gaps: Iterable[Mapping[str, Any]], at: int) -> str | None:
    for gap in gaps:
        if gap["from_ms"] - SLACK_MS <= at <= gap["to_ms"] + SLACK_MS:
            return str(gap["reason"])
    return None


def _within(register: Register, function: int, address: int, count: int) -> bool:
    if FUNCTIONS[register.function] != function:
        return False
    return address <= register.address and register.address + register.width <= address + count


def _words(read: Mapping[str, Any]) -> Sequence[int]:
    if "raw" in read:
        words: Sequence[int] = read["raw"]
        return words
    ks = read.get("ks") or [read["k"]] * read["count"]
    return [(k + 997 * read["unit"] + 31 * (read["address"] + i)) & 0xFFFF for i, k in enumerate(ks)]


def _value(register: Register, words: Sequence[int], address: int) -> Value:
    """What the register means, as REST shows it."""
    at = register.address - address
    mine = list(words[at : at + register.width])
    if register.word_order == "little":
        mine.reverse()
    data = struct.pack(f"{'<' if register.byte_order == 'little' else '>'}{len(mine)}H", *mine)
    value: Value = struct.unpack(f">{FORMATS[register.type]}", data)[0]
    if register.type in {"f32", "f64"}:
        return value
    if register.scale is not None:
        return value * register.scale + register.offset
    return value / 10**register.decimals if register.decimals else value
