"""Runs the buffer's crash cases under the shim; one JSON line per case.

    LD_PRELOAD=shim.so python -m tests.faults.storage.lab FOLDER kill|epoch|power|refuse|damage CASE…

A case is its own seed: the same text does the same again. Every life is a forked child, so that the kill is a kill.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import shutil
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from tests.faults.storage import damaging, recording, refusing
from tests.faults.storage.life import Life
from tests.faults.storage.recording import Disk
from tests.faults.storage.shim import KILLS, Shim
from tests.faults.storage.verdict import Verdict, judge
from tests.gateway.buffer.boxes import TurnedClock

ACTS = 22
KILLED = 137
PATIENCE_S = 60.0


class Lab:
    """One case at a time in its own folder."""

    def __init__(self, folder: Path) -> None:
        self._shim = Shim()
        self._folder = folder.resolve()
        self.root = self._folder / "box"

    def run(self, kind: str, case: str) -> dict[str, Any]:
        shutil.rmtree(self._folder, ignore_errors=True)
        self.root.mkdir(parents=True)
        started = time.monotonic()
        try:
            verdict, what = getattr(self, kind)(case, random.Random(f"{kind}/{case}"))
        except CaseError as error:
            return {"kind": kind, "case": case, "what": "", "good": False, "crashed": str(error)}
        found = {"kind": kind, "case": case, "what": what, "good": verdict.good, **asdict(verdict)}
        return found | {"ms": round((time.monotonic() - started) * 1000)}

    # --- kinds ---------------------------------------------------------------------------------------

    def count(self, case: str, _: random.Random) -> tuple[Verdict, str]:
        """How many calls the script `case` makes."""
        self._life(0, script=case, boot=1)
        return Verdict(), (self._folder / "counted").read_text()

    def kill(self, case: str, rng: random.Random) -> tuple[Verdict, str]:
        """SCRIPT-N-HOW: killed at the N-th call, and again while it starts."""
        script, at, how = case.split("-")
        lives = [self._life(0, script=script, boot=1, kill=(int(at), how))]
        again = rng.randint(1, 60), rng.choice(list(KILLS))
        lives.append(self._life(1, script=f"{case}/2", boot=1, acts=5, kill=again))
        last, said = self._last(2, boot=1)
        return judge([*lives, said], last, power_cut=False, damage=False), f"killed {how} call {at}, then {again}"

    def epoch(self, case: str, _: random.Random) -> tuple[Verdict, str]:
        """SCRIPT-N-HOW: killed at the N-th call of a change of epoch."""
        script, at, how = case.split("-")

        async def live(life: Life) -> None:
            await life.live(ACTS)
            self._shim.kill(int(at), how)
            await life.begin_epoch()
            os._exit(KILLED)

        lives = [self._child(0, boot=1, do=live, script=script)]
        last, said = self._last(1, boot=1)
        begun = said[0][1] != lives[0][0][1]
        return judge([*lives, said], last), f"killed {how} call {at}: {'begun' if begun else 'not begun'}"

    def power(self, case: str, rng: random.Random) -> tuple[Verdict, str]:
        """SCRIPT-N: the power goes at any instant, and again while it starts."""
        script, _ = case.split("-")
        lives, what = [], []
        for number in range(rng.choice([1, 2])):
            before = Disk(self.root)
            self._life(number, script=script if not number else f"{case}/2", boot=number, acts=5 if number else ACTS)
            calls = recording.read(self._folder / "recording")
            at = rng.randint(0, len(calls))
            lives.append(recording.said(calls[:at]))
            before.take(calls[:at])
            shutil.rmtree(self.root)
            before.cut(rng, self.root)
            what.append(f"{at} of {len(calls)}")
        last, said = self._last(3, boot=9)
        return judge([*lives, said], last, power_cut=True, damage=False), f"power cut at call {', then '.join(what)}"

    def refuse(self, case: str, rng: random.Random) -> tuple[Verdict, str]:
        """The disk refuses for a while; then the gateway stops in one way or the other."""
        what: list[str] = []

        async def run(life: Life) -> None:
            what.append(await refusing.run(life, self._shim, rng))

        lives = [self._child(0, boot=1, do=run, script=case)]
        note = self._folder / "fault"
        last, said = self._last(1, boot=1)
        return judge([*lives, said], last, power_cut=False, damage=False), note.read_text()

    def damage(self, case: str, rng: random.Random) -> tuple[Verdict, str]:
        """SCRIPT-N: bytes change at rest, after a clean stop or a kill between two acts."""
        acts, close = rng.randint(4, ACTS), rng.random() < 0.3
        lives = [self._life(0, script=case, boot=1, acts=acts, close=close, ordered=False)]
        what = damaging.damage(self.root / "buffer", rng)
        for attempt in (1, 2, 3):  # what the daemon meets later makes it start again
            try:
                last, said = self._last(attempt, boot=1)
                break
            except CaseError as error:
                lives.append(_said(self.root / f"{attempt}.said"))
                if attempt == 3:
                    raise CaseError(f"{what}: {error}") from error
        return judge([*lives, said], last, power_cut=False, damage=True), what

    # --- lives ---------------------------------------------------------------------------------------

    def _life(
        self,
        number: int,
        *,
        script: str,
        boot: int,
        acts: int = ACTS,
        kill: tuple[int, str] | None = None,
        close: bool = False,
        ordered: bool = True,
    ) -> list[Any]:
        async def live(life: Life) -> None:
            if kill is not None:
                self._shim.kill(*kill)
            await life.live(acts, ordered=ordered)
            (self._folder / "counted").write_text(str(self._shim.counted))
            if close:
                await life.close()
            else:
                os._exit(KILLED)

        return self._child(number, boot=boot, do=live, script=script)

    def _last(self, number: int, *, boot: int) -> tuple[dict[str, Any], list[Any]]:
        result = self._folder / "last"

        async def last(life: Life) -> None:
            await life.open()
            found = await life.last()
            await life.close()
            result.write_text(json.dumps(found, default=str))

        said = self._child(number, boot=boot, do=last, script="last")
        found = json.loads(result.read_text())
        found["next_seq"] = {int(lane): seq for lane, seq in found["next_seq"].items()}
        return found, said

    def _child(self, number: int, *, boot: int, do: Callable[[Life], Awaitable[None]], script: str) -> list[Any]:
        """Live in a forked child; returns what was said. Raises CaseError if it ended by anything but a kill."""
        told = self.root / f"{number}.said"
        clock = TurnedClock(mono=1_000_000 + 10_000_000 * number, boot=bytes([boot + 1]) * 16)
        pid = os.fork()
        if pid == 0:
            os._exit(self._be(told, clock, number, do, script))
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in {0, KILLED}:
            raise CaseError((self._folder / "error").read_text() if code == 1 else f"exit {code}")
        return _said(told)

    def _be(
        self, told: Path, clock: TurnedClock, number: int, do: Callable[[Life], Awaitable[None]], script: str
    ) -> int:
        try:
            self._shim.watch(self.root, self._folder / "recording")
            rng = random.Random(script)
            life = Life(self.root / "buffer", rng, clock, 1_000_000 * (number + 1), told)
            asyncio.run(asyncio.wait_for(do(life), PATIENCE_S))
        except BaseException:
            (self._folder / "error").write_text(traceback.format_exc())
            return 1
        return 0


def _said(told: Path) -> list[Any]:
    return [json.loads(line) for line in told.read_bytes().splitlines()] if told.exists() else []


class CaseError(Exception):
    """A life ended by an error of its own."""


def main(folder: str, kind: str, *cases: str) -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    lab = Lab(Path(folder))
    for case in cases:
        print(json.dumps(lab.run(kind, case)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
