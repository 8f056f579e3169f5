"""What one Modbus sensor asks, and how it learns what its device refuses.

A device that answers "illegal data address" to a block may have all its values and no block reads over a hole, or an
older firmware that lacks one of them. The block is halved until only what is really refused is left; that value is then
"not available" and the others are read. Learnt once, remembered beside the gateway's data, tried again every hour.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

import structlog

from firmware_configs.budget import Cut, Line, Request, halves, plan
from firmware_configs.schema import ModbusProfile, Register
from gateway.decoders.registers import Answers, Decoded, compile_registers
from protos.comboio.v1 import batch_pb2 as pb

REFUSALS = frozenset({2, 3})
"""Exception codes that speak of addresses: illegal data address, illegal data value (some say so of a count)."""
SURE_AFTER = 3
"""Refusals of one value in a row before it is left out: a device that starts up refuses for a moment."""
TRY_AGAIN_MS = 3_600_000

log = structlog.get_logger("gateway.sensors.modbus")


class Reads:
    """The requests of one sensor and the decoder of their answers; both change when something is refused.

    `memory`: a file of this sensor's own, or None. What is in it counts only for the same profile and version.
    """

    def __init__(self, sensor: str, profile: ModbusProfile, line: Line, *, memory: Path | None = None) -> None:
        self._sensor = sensor
        self._profile = profile
        self._registers = profile.expanded()
        self._line = line
        self._memory = memory
        self._cuts: set[Cut] = set()
        self._absent: set[Cut] = set()
        self._refused: dict[Request, int] = {}
        self._try_again_ms: int | None = None
        self._recall()
        self._arrange()

    @property
    def missing(self) -> tuple[str, ...]:
        """Quantities that the device refuses."""
        return tuple(r.quantity for r in self._registers if (r.function, r.address) in self._absent)

    def decode(self, answers: Answers) -> Decoded:
        """One value per column of the profile; None and BAD_SENSOR for what is missing."""
        values, quality = self._decode(answers)
        if not self._absent:
            return values, quality
        good = iter(quality or (int(pb.QUALITY_GOOD),) * len(values))
        found = iter(values)
        bad = int(pb.QUALITY_BAD_SENSOR)
        columns = [(next(found), next(good)) if here else (None, bad) for here in self._here]
        return tuple(value for value, _ in columns), tuple(code for _, code in columns)

    def refused(self, request: Request, code: int, *, now_ms: int) -> None:
        """The device answered `request` with exception `code`."""
        if code not in REFUSALS:
            return
        cut = halves(request, self._present())
        if cut is not None:
            self._cuts.add(cut)
        elif not self._left_out(request, now_ms):
            return
        self._refused.clear()
        self._arrange()
        self._remember()

    def answered(self, *, now_ms: int) -> None:
        """A poll was good: doubts end, and once an hour what is missing is asked for again."""
        self._refused.clear()
        if self._try_again_ms is not None and now_ms >= self._try_again_ms:
            self._absent.clear()
            self._try_again_ms = None
            self._arrange()

    def _left_out(self, request: Request, now_ms: int) -> bool:
        """A single value was refused; True once it is to be read no more. The last one stays: it is all there is."""
        times = self._refused[request] = self._refused.get(request, 0) + 1
        others = [r for r in self._present() if (r.function, r.address) != request[:2]]
        if times < SURE_AFTER or not others:
            return False
        self._absent.add((request.function, request.address))
        self._try_again_ms = now_ms + TRY_AGAIN_MS
        log.warning("register.refused", sensor=self._sensor, function=request.function, address=request.address)
        return True

    def _present(self) -> list[Register]:
        """Without what is refused, and what can't be understood without that."""
        left = [r for r in self._registers if (r.function, r.address) not in self._absent]
        names = {r.quantity for r in left}
        return [r for r in left if r.scale_from is None or r.scale_from in names]

    def _arrange(self) -> None:
        present = self._present()
        profile = self._profile
        names = {r.quantity for r in present}
        sums = [one for one in profile.derived if all(term.of in names for term in one.terms)]
        self.requests = plan(present, profile.limits, self._line, timing=profile.timing, cuts=self._cuts)
        self._decode = compile_registers(present, self.requests, sums)
        names |= {one.quantity for one in sums}
        self._here = [quantity in names for quantity in profile.quantities()]

    # --- memory -------------------------------------------------------------------------------------

    def _recall(self) -> None:
        if self._memory is None:
            return
        try:
            said = json.loads(self._memory.read_bytes())
        except (OSError, ValueError):
            return
        if isinstance(said, dict) and said.get("profile") == self._profile.name and _are_cuts(said.get("cuts")):
            known = {(r.function, r.address) for r in self._registers}
            self._cuts = {(table, at) for table, at in said["cuts"] if (table, at) in known}

    def _remember(self) -> None:
        """Where to cut; what is missing is found out anew, in case it came with a new firmware."""
        if self._memory is None:
            return
        said = json.dumps({"profile": self._profile.name, "cuts": sorted(self._cuts)})
        beside = self._memory.with_suffix(".new")
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(said)
            beside.replace(self._memory)
        except OSError as error:
            log.warning("refusals.not_remembered", sensor=self._sensor, error=str(error))


def _are_cuts(said: object) -> TypeGuard[Sequence[tuple[str, int]]]:
    return isinstance(said, list) and all(
        isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], int) for one in said
    )
