"""Twenty kills and cuts at seeded random instants over one installation under continuous load."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from control_plane.simulators.scenario import Box, Installation

ROLES = ("gateway", "ingest", "worker", "web")
STOPPED_S = 0.7  # longer than a batch interval: something was sent and not acknowledged


@dataclass
class Disturbances:
    """`plan` is drawn from the seed alone; `run` returns when the last one is over."""

    here: Installation
    seed: int
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))
    cuts: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def plan(self) -> list[str]:
        """Sixteen SIGKILLs, four links cut; every role at least three times."""
        plan = [*("gateway",) * 6, *("ingest",) * 4, *("worker",) * 3, *("web",) * 3, *("cut",) * 4]
        self._rng.shuffle(plan)
        return plan

    def run(self) -> None:
        acts: dict[str, Callable[[], None]] = {
            "gateway": self._gateway,
            "ingest": self._ingest,
            "worker": lambda: self._role("worker"),
            "web": lambda: self._role("web"),
            "cut": self._cut,
        }
        for act in self.plan():
            time.sleep(self._rng.uniform(0.3, 1.7))
            acts[act]()
        self._until_everybody_reads_again()

    def _until_everybody_reads_again(self) -> None:
        """A restart's gap record ends with the first new reading: without one nothing is known of its other end."""
        now_ms = time.time_ns() // 1_000_000
        end = time.monotonic() + 40
        for box in self.here.boxes:
            for device in box.devices:
                log = self.here.folder / f"{box.name}-{device.sensor}.reads"
                while json.loads(log.read_bytes().splitlines()[-1])["wall_ms"] < now_ms:
                    assert time.monotonic() < end, f"{box.name} does not read {device.sensor} any more"
                    time.sleep(0.1)
        time.sleep(1.0)  # and what was read is taken

    def _box(self) -> Box:
        return self._rng.choice(self.here.boxes)

    def _gateway(self) -> None:
        box = self._box()
        self.here.kill_gateway(box)
        time.sleep(self._rng.uniform(0.0, 0.5))
        self.here.revive(box)
        self.kills["gateway"] += 1

    def _ingest(self) -> None:
        """Every other time it is stopped first, so that it dies with batches it never acknowledged."""
        if self.kills["ingest"] % 2 == 0:
            os.kill(self.here.pids()["ingest"], signal.SIGSTOP)
            time.sleep(STOPPED_S)
        self._role("ingest")

    def _role(self, role: str) -> None:
        before = self.here.pids()[role]
        self.here.kill_role(role)
        self.kills[role] += 1
        end = time.monotonic() + 20
        while self.here.pids().get(role) in {before, None}:
            assert time.monotonic() < end, f"{role} was not started again"
            time.sleep(0.05)

    def _cut(self) -> None:
        box = self._box()
        self.here.link(box, self._rng.choice(("cut", "blackhole")))
        time.sleep(self._rng.uniform(1.0, 2.5))
        self.here.link(box, "restore")
        self.cuts += 1
