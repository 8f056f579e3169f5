"""Kills and cuts at seeded random instants over one installation under continuous load."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from control_plane.simulators.scenario import Box, Installation

STOPPED_S = 0.7  # longer than a batch interval: something was sent and not acknowledged
ROLES = ("gateway", "ingest", "worker", "web", "link")
TWENTY = {"gateway": 3, "twice": 1, "ingest": 4, "worker": 3, "web": 3, "link": 3, "cut": 2}
"""Eighteen SIGKILLs and two cuts. `twice` kills a gateway two times while its link is down."""
SIXTY = {"gateway": 14, "twice": 4, "ingest": 12, "worker": 8, "web": 4, "link": 4, "cut": 10}
"""Fifty SIGKILLs and ten cuts."""


@dataclass
class Disturbances:
    """The order of `plan` and every instant are drawn from the seed alone; `run` returns when the last one is over."""

    here: Installation
    seed: int
    plan: Mapping[str, int]
    kills: Counter[str] = field(default_factory=Counter)
    cuts: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def run(self) -> None:
        acts: dict[str, Callable[[], None]] = {
            "gateway": self._gateway,
            "twice": self._twice,
            "ingest": self._ingest,
            "worker": lambda: self._role("worker"),
            "web": lambda: self._role("web"),
            "link": self._proxy,
            "cut": self._cut,
        }
        order = [act for act, times in self.plan.items() for _ in range(times)]
        self._rng.shuffle(order)
        for act in order:
            time.sleep(self._rng.uniform(0.3, 1.7))
            acts[act]()
        until_everybody_reads_again(self.here)

    def _box(self) -> Box:
        return self._rng.choice(self.here.boxes)

    def _gateway(self) -> None:
        self._kill_gateway(self._box())

    def _kill_gateway(self, box: Box) -> None:
        self.here.kill_gateway(box)
        time.sleep(self._rng.uniform(0.0, 0.5))
        self.here.revive(box)
        self.kills["gateway"] += 1

    def _twice(self) -> None:
        """Two kills in one outage: what was read between them has only the disk."""
        box = self._box()
        self.here.link(box, "cut")
        time.sleep(self._rng.uniform(0.0, 1.0))
        self._kill_gateway(box)
        time.sleep(self._rng.uniform(0.5, 3.0))  # from before it reads again to well after
        self._kill_gateway(box)
        time.sleep(self._rng.uniform(0.5, 2.0))
        self.here.link(box, "restore")

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
        end = time.monotonic() + 60
        while self.here.pids().get(role) in {before, None}:
            assert time.monotonic() < end, f"{role} was not started again"
            time.sleep(0.05)

    def _proxy(self) -> None:
        box = self._box()
        self.here.kill_link(box)
        time.sleep(self._rng.uniform(0.0, 1.0))
        self.here.revive_link(box)
        self.kills["link"] += 1

    def _cut(self) -> None:
        box = self._box()
        self.here.link(box, self._rng.choice(("cut", "blackhole", "blackhole down", "trickle 1")))
        time.sleep(self._rng.uniform(1.0, 2.5))
        self.here.link(box, "restore")
        self.cuts += 1


def until_everybody_reads_again(here: Installation) -> None:
    """A restart's gap record ends with the first new reading or loss: a device that is stopped before gives neither."""
    now_ms = time.time_ns() // 1_000_000
    end = time.monotonic() + 40
    for box in here.boxes:
        for device in box.devices:
            log = here.folder / f"{box.name}-{device.sensor}.reads"
            while json.loads(log.read_bytes().splitlines()[-1])["wall_ms"] < now_ms:
                assert time.monotonic() < end, f"{box.name} does not read {device.sensor} any more"
                time.sleep(0.1)
    time.sleep(1.0)  # and what was read is taken
