"""The buffer against a model of what each promise is worth: whatever its callers do, and however its lives end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from gateway.buffer.sealed import Sealed
from tests.effort import tries
from tests.faults.storage.life import Life, abandon
from tests.faults.storage.verdict import judge
from tests.gateway.buffer.boxes import TurnedClock


class Disk:
    """Keeps beside each folder what its last syncs covered: all that a power cut leaves."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._sync = os.fdatasync
        patch.setattr(os, "fdatasync", self._synced)
        transaction = Sealed.transaction

        @contextlib.contextmanager
        def kept(store: Sealed, *, synchronous: str = "FULL") -> Iterator[Callable[..., Any]]:
            with transaction(store, synchronous=synchronous) as run:
                yield run
            if synchronous == "FULL":
                self._keep(store._path)
                self._keep(store._path.with_name(store._path.name + "-wal"))

        patch.setattr(Sealed, "transaction", kept)

    def _synced(self, fd: int) -> None:
        self._sync(fd)
        self._keep(Path(f"/proc/self/fd/{fd}").readlink())

    @staticmethod
    def _keep(path: Path) -> None:
        if path.exists():
            beside = path.parent.with_name(path.parent.name + ".synced")
            beside.mkdir(exist_ok=True)
            shutil.copyfile(path, beside / path.name)


class BufferMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="buffer-"))
        self.rng, self.clock = random.Random(seed), TurnedClock()
        self.number, self.lives = 0, list[list[Any]]()
        self.start(self.folder / "0")

    def start(self, folder: Path) -> None:
        self.life = Life(
            folder, self.rng, self.clock, 1_000_000 * (self.number + 1), self.folder / f"{self.number}.said"
        )
        self.do(self.life.open())

    def do(self, act: Awaitable[Any]) -> Any:
        async def done() -> Any:
            return await act

        return self.runner.run(done())

    def died(self, left: Path, *ended: str) -> None:
        self.number += 1
        folder = self.folder / str(self.number)
        shutil.copytree(left, folder)
        for segment in folder.glob("bodies-*"):  # synced in a life before, and not again in this one
            Disk._keep(segment)
        if ended:
            self.life.say(*ended)
        self.life.end()
        self.do(abandon(self.life.buffer))
        self.lives.append([json.loads(line) for line in self.life.said.read_bytes().splitlines()])
        self.clock.mono += 60_000
        self.start(folder)

    @rule()
    def append(self) -> None:
        self.do(self.life.append_some())

    @rule()
    def flush(self) -> None:
        self.do(self.life.flush())

    @rule()
    def await_a_receipt(self) -> None:
        self.do(self.life.durable())

    @rule()
    def seal(self) -> None:
        self.do(self.life.seal())

    @rule()
    def event(self) -> None:
        self.do(self.life.event())

    @rule()
    def lose(self) -> None:
        self.do(self.life.lose())

    @rule()
    def acknowledge(self) -> None:
        self.do(self.life.acknowledge())

    @rule()
    def reject(self) -> None:
        self.do(self.life.reject())

    @rule()
    def tidy(self) -> None:
        self.do(self.life.tidy())

    @rule()
    def declare(self) -> None:
        self.do(self.life.declare())

    @rule()
    def relabel(self) -> None:
        self.do(self.life.begin_epoch())

    @rule()
    def stop_cleanly(self) -> None:
        self.do(self.life.restart())

    @rule()
    def kill(self) -> None:
        self.died(self.life.folder)

    @rule()
    def cut_the_power(self) -> None:
        self.clock.boot = self.number.to_bytes(16, "little")
        self.died(self.life.folder.with_name(self.life.folder.name + ".synced"), "power-cut")

    def teardown(self) -> None:
        if not hasattr(self, "life"):
            return
        last = self.do(self.life.last())
        self.do(self.life.close())
        self.life.end()
        said = [json.loads(line) for line in self.life.said.read_bytes().splitlines()]
        self.runner.close()
        shutil.rmtree(self.folder)
        verdict = judge([*self.lives, said], json.loads(json.dumps(last)))
        assert verdict.good, verdict


def test_every_row_is_once_in_a_batch_or_in_a_gap_record(monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch)
    bounds = settings(
        max_examples=tries(30),
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    run_state_machine_as_test(BufferMachine, settings=bounds)
