"""A box's configuration machine on a turned clock, with parts that do as they are told, and a control plane's key."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.desired.desired import Desired, Pinned
from gateway.desired.state import Desk, State
from gateway.errors import Misconfigured
from protos.comboio.v1 import link_pb2 as wire
from protos.config import GatewayConfig, canonical, digest, from_toml
from protos.offers import signed_bytes
from tests.gateway.buffer.boxes import TurnedClock

GATEWAY = "gw-aaaaaaaaaa"
LOCAL = 'config_version = 1\nmanagement = "managed"\n[uplink]\nserver = "fleet.example.com:8444"\n'


def document(*sensors: str, required: str = "", **uplink: Any) -> bytes:
    """What the control plane pushes: simulated sensors of these names."""
    lines = ["config_version = 1", 'management = "managed"', "[uplink]", *(f"{k} = {v}" for k, v in uplink.items())]
    for name in sensors:
        lines += ["[[sensor]]", f'id = "{name}"', 'driver = "simulated"']
        lines += ["required = true"] if name == required else []
    return canonical(from_toml("\n".join(lines)))


class KilledError(BaseException):
    """SIGKILL, for a machine that runs in the test's process."""


class DyingDesk(Desk):
    """Dies right after the n-th change became durable."""

    def __init__(self, folder: Path, *, dies_after: int = 10**6) -> None:
        super().__init__(folder)
        self.left = dies_after
        self.seen: list[str] = []

    def change(self, by: Any) -> None:
        if self.left <= 0:
            raise KilledError
        super().change(by)
        self.seen.append(phase_of(self.state))
        self.left -= 1
        if self.left == 0:
            raise KilledError


def phase_of(state: State) -> str:
    for one in (state.waiting, state.trial):
        if one is not None:
            return one.phase
    return wire.ConfigPhase.Name(wire.ConfigPhase.ValueType(state.last.phase)) if state.last else "-"


@dataclass
class Parts:
    """A `Site`: which sensors deliver is up to the test."""

    broken: set[str] = field(default_factory=set)
    """Sensors without which parts can't be built."""
    silent: set[str] = field(default_factory=set)
    disk_full: int = 0
    """So many switches fail after everything was stopped."""
    link: bool = True
    network: bool = True
    config: GatewayConfig | None = None
    switches: int = 0
    rows: dict[str, int] = field(default_factory=dict)

    def build(self, config: GatewayConfig | None) -> None:
        bad = sorted(self.broken & {sensor.id for sensor in config.sensor}) if config else []
        if bad:
            raise Misconfigured(f"sensor {bad[0]}: the bus can't be opened")

    async def switch(self, config: GatewayConfig | None) -> None:
        self.build(config)
        if self.disk_full:
            self.disk_full -= 1
            self.config = None
            raise OSError("no space left on device")
        self.config, self.rows, self.switches = config, {}, self.switches + 1

    def poll(self) -> None:
        for sensor in self.config.sensor if self.config else ():
            if sensor.id not in self.silent:
                self.rows[sensor.id] = self.rows.get(sensor.id, 0) + 1

    def delivered(self) -> Mapping[str, int]:
        return self.rows

    def connected(self) -> bool:
        return self.link

    def carrier(self) -> bool:
        return self.network


@dataclass
class Box:
    folder: Path
    parts: Parts = field(default_factory=Parts)
    local: str = LOCAL
    clock: TurnedClock = field(default_factory=TurnedClock)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    problems: list[str] = field(default_factory=list)
    statuses: list[wire.ConfigStatus] = field(default_factory=list)
    desk: DyingDesk = field(init=False)
    desired: Desired = field(init=False)

    @asynccontextmanager
    async def running(self, *, dies_after: int = 10**6, clean: bool = False):  # type: ignore[no-untyped-def]
        """Start as the daemon does; ends as by SIGKILL, unless `clean`. Dying inside is the end, not an error."""
        self.desk = DyingDesk(self.folder, dies_after=dies_after)
        key = self.key.public_key().public_bytes_raw()
        self.desired = Desired(
            desk=self.desk,
            local=from_toml(self.local),
            pinned=lambda: Pinned(gateway=GATEWAY, config_key=key),
            check=lambda _: self.problems,
            clock=self.clock,
        )
        hearing = asyncio.create_task(self._hear())
        ruling = None
        try:
            await self._start()
            ruling = asyncio.create_task(self._rule())
            yield
            if clean:
                await _ended(ruling)
                await self.desired.paused()
        except KilledError:
            pass
        finally:
            for task in (ruling, hearing):
                if task is not None:
                    await _ended(task)

    async def _start(self) -> None:
        config = self.desired.first()
        while True:
            try:
                self.parts.build(config)
                break
            except Misconfigured as error:
                config = self.desired.not_started(error)
        self.parts.config, self.parts.rows = config, {}

    async def _rule(self) -> None:
        with suppress(KilledError):
            while True:
                with suppress(OSError):
                    await self.desired.run(self.parts)

    async def _hear(self) -> None:
        async for statements in self.desired.heard():
            self.statuses += statements

    def offer(self, document: bytes, number: int, *, probation_s: int = 10, **changed: Any) -> wire.ConfigOffer:
        said = digest(document)
        message = signed_bytes(
            gateway=GATEWAY, generation=number, digest=said, apply_when="now", probation_s=probation_s
        )
        offer = wire.ConfigOffer(
            generation=number,
            hash=said,
            body=document,
            apply_when="now",
            probation_s=probation_s,
            signature=self.key.sign(message),
        )
        for name, value in changed.items():
            setattr(offer, name, value)
        return offer

    @property
    def dead(self) -> bool:
        return self.desk.left <= 0

    async def turn(self, seconds: float, *, step_s: float = 1.0) -> None:
        """Let time pass; sensors deliver every step."""
        passed = 0.0
        while passed < seconds and not self.dead:
            self.clock.mono += round(step_s * 1000)
            passed += step_s
            self.parts.poll()
            await self.settled()

    async def settled(self) -> None:
        """Let the machine look once at least, and do everything that follows from it."""
        wake = self.desired._wake
        if not self.desired._managed:
            await asyncio.sleep(0.01)
            return
        for _ in range(3):
            wake.set()
            while wake.is_set() and not self.dead:
                await asyncio.sleep(0)

    async def pushed(self, document: bytes, number: int, *, turn_s: float = 15, **more: Any) -> None:
        self.desired.offered(self.offer(document, number, **more))
        await self.settled()
        await self.turn(turn_s)

    def said(self) -> list[str]:
        """Phases, repetitions dropped."""
        names = [wire.ConfigPhase.Name(status.phase).removeprefix("CONFIG_") for status in self.statuses]
        return [name for name, before in zip(names, ["", *names], strict=False) if name != before]

    def sensors(self) -> list[str] | None:
        return [sensor.id for sensor in self.parts.config.sensor] if self.parts.config else None


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
